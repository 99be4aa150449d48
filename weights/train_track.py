"""Trains the track net in PyTorch on images rendered meanwhile; keeps the best checkpoint by validation."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camapp.core.models import model_path
from engine import nets
from engine.graph import Array
from engine.model import load
from engine.nets.track import FIELDS, SUBCELLS
from weights import WeightsError
from weights.muon import Muon
from weights.photographs import Photographs
from weights.recipe import TrackRecipe
from weights.torch_net import TorchNet
from weights.tracks import VALIDATION_SEED, Shard, render, shards
from weights.train import to_arrays

# Loss weight of cells on a line, of which there are ten times fewer than cells off it.
PRESENT = 2.0
# Loss weights of position (in cells) and direction relative to presence.
PLACE, DIRECTION = 2.0, 1.0
# The output layer's matrix is stepped by Adam, as the vectors are, at this share of the rate of the other matrices.
HEAD, HEAD_BIAS, OTHERS = "head.weight", "head.bias", 0.04
EVALUATION_BATCH = 100
CHECKPOINT = "checkpoint"
# Parts of a run that PyTorch saves.
PARTS = ("net", "average", "optimiser", "schedule")


@dataclass(frozen=True)
class TrackEpoch:
    """Result of one epoch: mean losses, and the accuracy of the cells on validation.

    Attributes:
        number: from 1.
        train_loss: while learning.
        validation_loss: after it.
        precision: share of the predicted line cells that are on a line.
        recall: share of the cells on a line that were predicted.
        place: mean error of the nearest point, cells.
    """

    number: int
    train_loss: float
    validation_loss: float
    precision: float
    recall: float
    place: float


@dataclass(frozen=True)
class TrackTrained:
    """A finished run: the best checkpoint as `state_dict` arrays, and the history."""

    arrays: dict[str, Array]
    history: tuple[TrackEpoch, ...]
    best: TrackEpoch


def train_track(
    recipe: TrackRecipe,
    folder: Path,
    report: Callable[[TrackEpoch], None] = lambda epoch: None,
    processes: int = 1,
    photographs: Photographs | None = None,
    resume: bool = False,
) -> TrackTrained:
    """Run a recipe. The same recipe and thread count give the same result.

    Args:
        recipe: what to do.
        folder: keeps the rendered images and, after each epoch, all that a run needs to go on.
        report: called with each epoch.
        processes: that render images.
        photographs: what the recipe's `photographs` are drawn from.
        resume: go on after the last epoch of the run in the folder.

    Raises:
        WeightsError: the loss is no longer a number, or there is nothing to begin or to go on with.
    """
    if recipe.photographs and photographs is None:
        raise WeightsError("this recipe learns from labelled photographs too: name their folder with --data")
    run = _Run(recipe)
    checkpoint = folder / CHECKPOINT
    if resume:
        run.load(checkpoint)
    judging = render(range(VALIDATION_SEED, VALIDATION_SEED + recipe.validation))
    first_seed = recipe.seed * 10_000_000 % VALIDATION_SEED
    done = len(run.history)
    begin = max(0, done - recipe.uses + 1)
    window: deque[list[Shard]] = deque(maxlen=recipe.uses)
    for number, shard in enumerate(
        shards(recipe.epochs, recipe.images, first_seed, folder, processes, begin), start=begin + 1
    ):
        window.append([shard])
        if photographs and recipe.photographs:
            window[-1].append(photographs.varied(recipe.photographs, recipe.seed * 10_000 + number))
        if number <= done:
            continue
        loss = run.learn([part for parts in window for part in parts], number)
        run.judge(judging, number, loss)
        run.save(checkpoint)
        report(run.history[-1])
    return TrackTrained(surer(run.arrays, recipe.gain), tuple(run.history), run.best)


class _Run:
    """A training run between two epochs."""

    def __init__(self, recipe: TrackRecipe) -> None:
        torch.manual_seed(recipe.seed)
        card = nets.default_card(recipe.net)
        self.recipe = recipe
        mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
        self.shift, self.scale = -mean / std, 1 / std
        self.net = TorchNet(nets.build(recipe.net)).to(memory_format=torch.channels_last)
        if recipe.start:
            arrays = load(model_path(recipe.start)).graph.initializers
            self.net.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
        self.average = TorchNet(nets.build(recipe.net)).to(memory_format=torch.channels_last).eval()
        self.average.load_state_dict(self.net.state_dict())
        steps = sum(math.ceil(recipe.samples(epoch) / recipe.batch) for epoch in range(1, recipe.epochs + 1))
        matrices = {name for name, value in self.net.named_parameters() if value.ndim > 1 and name != HEAD}
        self.optimiser = Muon(
            (value for name, value in self.net.named_parameters() if name in matrices),
            (value for name, value in self.net.named_parameters() if name not in matrices),
            recipe.learning_rate,
            OTHERS,
            recipe.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: _rate(step / steps))
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.history: list[TrackEpoch] = []
        self.arrays: dict[str, Array] = {}

    def output(self, net: TorchNet, images: Tensor) -> Tensor:
        """Return the outputs of a net for images of 0 to 1."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            predicted: Tensor = net(torch.addcmul(self.shift, images, self.scale))
        return predicted.float()

    def learn(self, parts: list[Shard], number: int) -> float:
        """Run one epoch; return the mean loss."""
        self.net.train()
        total, seen = 0.0, 0
        for images, fields in _varied(parts, self.recipe.batch, self.generator):
            loss = loss_of(self.output(self.net, images), fields)
            if not math.isfinite(float(loss.detach())):
                raise WeightsError(f"the loss became {loss} in epoch {number}: nothing was saved; lower the rate")
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            total, seen = total + float(loss.detach()), seen + 1
            self._follow()
        return total / seen

    @torch.no_grad()
    def _follow(self) -> None:
        # Early values decay quickly.
        share = max(1 - self.recipe.average, 1 / (1 + self.schedule.last_epoch))
        for mean, value in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)

    def judge(self, shard: Shard, number: int, train_loss: float) -> None:
        """Add to the history; keep the weights if they are the best."""
        self.history.append(_judge(lambda images: self.output(self.average, images), shard, number, train_loss))
        if self.best is self.history[-1]:
            self.arrays = to_arrays(self.average)

    @property
    def best(self) -> TrackEpoch:
        """Return the epoch to keep: with photographs the last one, since validation uses scenes only."""
        if self.recipe.photographs:
            return self.history[-1]
        return min(reversed(self.history), key=lambda one: one.validation_loss)

    def save(self, file: Path) -> None:
        """Save everything that is needed to continue."""
        partial = file.with_name(f"{file.name}.partial")
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        state |= {
            "recipe": repr(self.recipe),
            "generator": self.generator.get_state(),
            "history": [asdict(epoch) for epoch in self.history],
            "arrays": {name: torch.from_numpy(array) for name, array in self.arrays.items()},
        }
        torch.save(state, partial)
        os.replace(partial, file)

    def load(self, file: Path) -> None:
        """Continue from a saved run.

        Raises:
            WeightsError: there is nothing, or it is another recipe's.
        """
        if not file.exists():
            raise WeightsError(f"{file}: there is no interrupted run to go on with")
        state = torch.load(file, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise WeightsError(f"{file} belongs to another recipe: {state['recipe']}; omit --resume to start again")
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.history = [TrackEpoch(**epoch) for epoch in state["history"]]
        self.arrays = {name: tensor.numpy() for name, tensor in state["arrays"].items()}


def fields_of(output: Tensor) -> Tensor:
    """Return the net's output (n, C, h, w) as fields (n, rows, columns, FIELDS); see `line_decoder.unpack`."""
    count, _, height, width = output.shape
    parts = output.reshape(count, SUBCELLS, SUBCELLS, FIELDS, height, width).permute(0, 4, 1, 5, 2, 3)
    return parts.reshape(count, height * SUBCELLS, width * SUBCELLS, FIELDS)


def loss_of(output: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss: cross-entropy of presence, and distance of position and direction on cells with a line."""
    predicted = fields_of(output)
    present, judged = wanted[..., 0], wanted[..., FIELDS]
    presence = F.binary_cross_entropy_with_logits(predicted[..., 0], present, reduction="none")
    # Focal weighting: easy cells have little weight, so that the few hard ones dominate.
    sure = torch.exp(-presence.detach())
    weight = judged * (1 + (PRESENT - 1) * present) * (1 - sure)
    lines = present.sum().clamp(min=1)
    place = (predicted[..., 1:3] - wanted[..., 1:3]).abs().sum(dim=-1)
    direction = (predicted[..., 3:5] - wanted[..., 3:5]).abs().sum(dim=-1)
    return ((presence * weight).sum() + ((PLACE * place + DIRECTION * direction) * present).sum()) / lines


def _rate(share: float) -> float:
    return min(share / 0.05, 1.0) * (0.5 + 0.5 * math.cos(math.pi * min(share, 1.0))) + 1e-4


def _varied(parts: list[Shard], batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, half of them mirrored, with varied light: float32 (n, 3, H, W), and their fields."""
    images = [torch.from_numpy(part.images) for part in parts]
    fields = [torch.from_numpy(part.fields) for part in parts]
    places = [(part, i) for part, shard in enumerate(parts) for i in range(len(shard.images))]
    for which in torch.split(torch.randperm(len(places), generator=generator), batch):
        chosen = [places[int(i)] for i in which]
        shown = torch.stack([images[part][i] for part, i in chosen]).permute(0, 3, 1, 2).float().div_(255)
        wanted = torch.stack([fields[part][i] for part, i in chosen]).float()
        flipped = torch.rand(len(chosen), generator=generator) < 0.5
        shown[flipped] = shown[flipped].flip(3)
        # Mirrored, x of the nearest point and the sine of twice the direction change sign.
        wanted[flipped] = wanted[flipped].flip(2) * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
        yield _lit(shown, generator), wanted


def _lit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary gain and contrast per image, and add noise to some batches; in place, 0 to 1."""
    count = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast, lift = between(0.7, 1.3, 1, 1, 1), between(-0.12, 0.12, 1, 1, 1)
    gain = between(0.92, 1.08, 3, 1, 1)
    # One multiplication and one addition: passes over memory cost as much as the layers.
    images.mul_(contrast * gain).add_((middle * (1 - contrast) + lift) * gain)
    if torch.rand((), generator=generator) < 0.3:
        images.addcmul_(torch.empty_like(images).normal_(generator=generator), between(0, 0.06, 1, 1, 1))
    return images.clamp_(0, 1)


def surer(arrays: dict[str, Array], gain: float) -> dict[str, Array]:
    """Return the arrays with the logits of the presence multiplied by `gain`."""
    presence = np.arange(SUBCELLS**2) * FIELDS
    changed = {name: array.copy() for name, array in arrays.items()}
    for name in (HEAD, HEAD_BIAS):
        changed[name][presence] *= np.float32(gain)
    return changed


@torch.no_grad()
def _judge(net: Callable[[Tensor], Tensor], shard: Shard, number: int, train_loss: float) -> TrackEpoch:
    losses, right, said_so, there, place = [], 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(shard.images), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        output = net(torch.from_numpy(shard.images[part]).permute(0, 3, 1, 2).float() / 255)
        wanted = torch.from_numpy(shard.fields[part]).float()
        losses.append(float(loss_of(output, wanted)))
        predicted = fields_of(output)
        yes, true, judged = predicted[..., 0] > 0, wanted[..., 0] > 0, wanted[..., FIELDS] > 0.5
        right += float((yes & true).sum())
        said_so += float((yes & judged).sum())
        there += float(true.sum())
        place += float((predicted[..., 1:3] - wanted[..., 1:3]).norm(dim=-1)[true].sum())
    return TrackEpoch(
        number,
        train_loss,
        float(np.mean(losses)),
        right / max(said_so, 1),
        right / max(there, 1),
        place / max(there, 1),
    )
