"""Trains a recipe's net in PyTorch: stochastic gradient descent, the best checkpoint by validation loss kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import nets
from engine.card import ModelCard
from weights import WeightsError
from weights.augment import apply
from weights.datasets import Dataset, Pictures
from weights.recipe import Recipe
from weights.torch_net import TorchNet

Array = NDArray[Any]

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training split gave. Losses are mean cross-entropy, accuracies are 0..1."""

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Trained:
    """A finished run: the best checkpoint as `state_dict` arrays, and the way there."""

    arrays: dict[str, Array]
    history: tuple[Epoch, ...]
    best: Epoch


@dataclass(frozen=True)
class Report:
    """Who is told of the run as it goes: each step's (loss), each epoch."""

    step: Callable[[float], None] = lambda loss: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


def steps_in(recipe: Recipe, dataset: Dataset) -> int:
    """Steps of a whole run."""
    return recipe.epochs * math.ceil(len(dataset.train) / recipe.batch)


def train(
    recipe: Recipe,
    dataset: Dataset,
    device: str = "cpu",
    report: Report = Report(),
) -> Trained:
    """Run a recipe. The same recipe, data, device and thread count give the same result.

    Raises:
        WeightsError: the loss is no longer a number.
    """
    torch.manual_seed(recipe.seed)
    net = TorchNet(nets.build(recipe.net)).to(device, memory_format=torch.channels_last)
    feed = Feed(recipe, nets.default_card(recipe.net), device)
    learning, judging = feed.hold(dataset.train), feed.hold(dataset.validation)
    optimiser = _optimiser(net, recipe)
    schedule = _schedule(optimiser, recipe, steps_in(recipe, dataset))
    history: list[Epoch] = []
    arrays: dict[str, Array] = {}
    best = None
    for number in range(1, recipe.epochs + 1):
        train_loss, train_accuracy = _learn(net, feed.shuffled(learning), optimiser, schedule, report, number)
        loss, accuracy = _judge(net, feed.in_order(judging))
        epoch = Epoch(number, train_loss, train_accuracy, loss, accuracy)
        history.append(epoch)
        report.epoch(epoch)
        if best is None or epoch.validation_loss < best.validation_loss:
            best, arrays = epoch, to_arrays(net)
    if best is None:
        raise WeightsError(f"{recipe.net}: epochs must be at least 1, found {recipe.epochs}")
    return Trained(arrays, tuple(history), best)


@dataclass(frozen=True)
class Held:
    """A split on the training device: uint8 pictures of the net's input size, and int64 labels."""

    pictures: Tensor
    labels: Tensor


class Feed:
    """Makes batches as the net sees them: in 0..1, varied if they are learnt from, normalised."""

    def __init__(self, recipe: Recipe, card: ModelCard, device: str) -> None:
        self._recipe = recipe
        self._shape = card.input_shape
        self._device = device
        self._generator = torch.Generator(device).manual_seed(recipe.seed)
        self._mean = torch.tensor(card.mean, device=device)[:, None, None]
        self._std = torch.tensor(card.std, device=device)[:, None, None]

    def hold(self, split: Pictures) -> Held:
        """Bring a split to the device."""
        fitted = split.fitted(self._shape)
        return Held(
            torch.tensor(fitted.images, device=self._device),
            torch.tensor(fitted.labels, dtype=torch.int64, device=self._device),
        )

    def shuffled(self, held: Held) -> Iterator[tuple[Tensor, Tensor]]:
        """Varied batches in a new order."""
        order = torch.randperm(len(held.labels), generator=self._generator, device=self._device)
        for which in torch.split(order, self._recipe.batch):
            pictures = apply(held.pictures[which].float() / 255, self._recipe.augment, self._generator)
            yield self._normalised(pictures), held.labels[which]

    def in_order(self, held: Held) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches as they are."""
        batches = (torch.split(values, EVALUATION_BATCH) for values in (held.pictures, held.labels))
        for pictures, labels in zip(*batches, strict=True):
            yield self._normalised(pictures.float() / 255), labels

    def _normalised(self, pictures: Tensor) -> Tensor:
        return ((pictures - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


def to_arrays(net: nn.Module) -> dict[str, Array]:
    """`state_dict` as NumPy arrays of their own, without PyTorch's count of batches."""
    return {
        name: np.array(value.detach().cpu().numpy())
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [value for value in net.parameters() if value.ndim > 1]
    free = [value for value in net.parameters() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)


def _schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _learn(
    net: TorchNet,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    report: Report,
    number: int,
) -> tuple[float, float]:
    """One pass. Returns mean loss and accuracy as they were during it."""
    net.train()
    total, right, seen = 0.0, 0, 0
    for pictures, labels in batches:
        logits = net(pictures)
        loss = F.cross_entropy(logits, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise WeightsError(f"the loss became {value} in epoch {number}: nothing was saved; lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        report.step(value)
        total += value * len(labels)
        right += int((logits.detach().argmax(1) == labels).sum())
        seen += len(labels)
    return total / seen, right / seen


@torch.no_grad()
def _judge(net: TorchNet, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean loss and accuracy, learning nothing."""
    net.eval()
    total, right, seen = 0.0, 0, 0
    for pictures, labels in batches:
        logits = net(pictures)
        total += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    return total / seen, right / seen
