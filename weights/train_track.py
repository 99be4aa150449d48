"""Trains the track net in PyTorch on pictures that are rendered meanwhile; the best checkpoint by validation kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine import nets
from engine.nets.track import FIELDS, SUBCELLS
from weights import WeightsError
from weights.recipe import TrackRecipe
from weights.torch_net import TorchNet
from weights.tracks import VALIDATION_SEED, Shard, render, shards
from weights.train import to_arrays

Array = NDArray[Any]

PRESENT = 2.0  # a cell on a line counts so much more than one off it: there are ten times fewer
PLACE, DIRECTION = 2.0, 1.0  # weights of the losses of place (cells) and direction beside that of presence
EVALUATION_BATCH = 100


@dataclass(frozen=True)
class TrackEpoch:
    """What one epoch gave: mean losses, and on validation how well cells are found.

    Attributes:
        number: from 1.
        train_loss: while learning.
        validation_loss: after it.
        precision: share of the cells said to be on a line that are.
        recall: share of the cells on a line that were said to be.
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
    """A finished run: the best checkpoint as `state_dict` arrays, and the way there."""

    arrays: dict[str, Array]
    history: tuple[TrackEpoch, ...]
    best: TrackEpoch


def train_track(
    recipe: TrackRecipe, report: Callable[[TrackEpoch], None] = lambda epoch: None, processes: int = 1
) -> TrackTrained:
    """Run a recipe. The same recipe and thread count give the same result.

    Args:
        recipe: what to do.
        report: told of each epoch.
        processes: that render pictures.

    Raises:
        WeightsError: the loss is no longer a number.
    """
    torch.manual_seed(recipe.seed)
    card = nets.default_card(recipe.net)
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    net = TorchNet(nets.build(recipe.net)).to(memory_format=torch.channels_last)
    steps = (2 * recipe.epochs - 1) * math.ceil(recipe.pictures / recipe.batch)
    optimiser = torch.optim.AdamW(_groups(net, recipe.weight_decay), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    generator = torch.Generator().manual_seed(recipe.seed)
    judging = render(range(VALIDATION_SEED, VALIDATION_SEED + recipe.validation))
    history: list[TrackEpoch] = []
    arrays: dict[str, Array] = {}
    last: Shard | None = None
    first_seed = recipe.seed * 10_000_000 % VALIDATION_SEED
    for number, shard in enumerate(shards(recipe.epochs, recipe.pictures, first_seed, processes), start=1):
        net.train()
        total, seen = 0.0, 0
        for pictures, fields in _varied([part for part in (shard, last) if part is not None], recipe.batch, generator):
            loss = loss_of(net((pictures - mean) / std), fields)
            if not math.isfinite(float(loss.detach())):
                raise WeightsError(f"the loss became {loss} in epoch {number}: nothing was saved; lower the rate")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total, seen = total + float(loss.detach()), seen + 1
        last = shard
        epoch = _judge(net, judging, mean, std, number, total / seen)
        history.append(epoch)
        report(epoch)
        if epoch.validation_loss <= min(one.validation_loss for one in history):
            arrays = to_arrays(net)
    return TrackTrained(arrays, tuple(history), min(history, key=lambda one: one.validation_loss))


def fields_of(output: Tensor) -> Tensor:
    """The net's output (n, C, h, w) as fields (n, rows, columns, FIELDS); see `linefield.unpack`."""
    count, _, height, width = output.shape
    parts = output.reshape(count, SUBCELLS, SUBCELLS, FIELDS, height, width).permute(0, 4, 1, 5, 2, 3)
    return parts.reshape(count, height * SUBCELLS, width * SUBCELLS, FIELDS)


def loss_of(output: Tensor, wanted: Tensor) -> Tensor:
    """Presence by cross-entropy, place and direction by their distance on the cells that a line crosses."""
    said = fields_of(output)
    present, judged = wanted[..., 0], wanted[..., FIELDS]
    presence = F.binary_cross_entropy_with_logits(said[..., 0], present, reduction="none")
    # Cells that are easily right count little, so that the few hard ones are heard.
    sure = torch.exp(-presence.detach())
    weight = judged * (1 + (PRESENT - 1) * present) * (1 - sure)
    lines = present.sum().clamp(min=1)
    place = (said[..., 1:3] - wanted[..., 1:3]).abs().sum(dim=-1)
    direction = (said[..., 3:5] - wanted[..., 3:5]).abs().sum(dim=-1)
    return ((presence * weight).sum() + ((PLACE * place + DIRECTION * direction) * present).sum()) / lines


def _groups(net: TorchNet, decay: float) -> list[dict[str, Any]]:
    decayed = [value for value in net.parameters() if value.ndim > 1]
    free = [value for value in net.parameters() if value.ndim <= 1]
    return [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]


def _rate(share: float) -> float:
    return min(share / 0.05, 1.0) * (0.5 + 0.5 * math.cos(math.pi * min(share, 1.0))) + 1e-4


def _varied(parts: list[Shard], batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in a new order, half of them mirrored: pictures float32 (n, 3, H, W) in 0..1, and their fields."""
    pictures = [torch.from_numpy(part.pictures) for part in parts]
    fields = [torch.from_numpy(part.fields) for part in parts]
    size = len(pictures[0])
    for which in torch.split(torch.randperm(size * len(parts), generator=generator), batch):
        chosen = torch.stack([pictures[int(i) // size][int(i) % size] for i in which]).float() / 255
        wanted = torch.stack([fields[int(i) // size][int(i) % size] for i in which]).float()
        if torch.rand((), generator=generator) < 0.5:
            chosen, wanted = chosen.flip(2), wanted.flip(2)
            # Mirrored, x of the nearest point and the sine of twice the direction change sign.
            wanted = wanted * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
        gains = 1 + 0.15 * (torch.rand(len(chosen), 1, 1, 3, generator=generator) - 0.5)
        yield (chosen * gains).clamp(0, 1).permute(0, 3, 1, 2), wanted


@torch.no_grad()
def _judge(net: TorchNet, shard: Shard, mean: Tensor, std: Tensor, number: int, train_loss: float) -> TrackEpoch:
    net.eval()
    losses, right, said_so, there, place = [], 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(shard.pictures), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        pictures = torch.from_numpy(shard.pictures[part]).float().permute(0, 3, 1, 2) / 255
        wanted = torch.from_numpy(shard.fields[part]).float()
        output = net((pictures - mean) / std)
        losses.append(float(loss_of(output, wanted)))
        said = fields_of(output)
        yes, true, judged = said[..., 0] > 0, wanted[..., 0] > 0, wanted[..., FIELDS] > 0
        right += float((yes & true).sum())
        said_so += float((yes & judged).sum())
        there += float(true.sum())
        place += float((said[..., 1:3] - wanted[..., 1:3]).norm(dim=-1)[true].sum())
    return TrackEpoch(
        number,
        train_loss,
        float(np.mean(losses)),
        right / max(said_so, 1),
        right / max(there, 1),
        place / max(there, 1),
    )
