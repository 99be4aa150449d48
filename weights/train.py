"""Trains a recipe's net in PyTorch by stochastic gradient descent; keeps the checkpoint of lowest validation loss."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camapp.core.models import model_path
from engine import nets
from engine.graph import Array
from engine.model import load as load_model
from engine.model_card import ModelCard
from weights import WeightsError
from weights.augment import apply
from weights.datasets import Dataset, Images
from weights.false_marks import false_marks
from weights.outliers import outliers
from weights.recipe import FineTuning, Recipe
from weights.torch_net import TorchNet

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Epoch:
    """Result of one pass over the training split. Losses are mean cross-entropy, accuracies are 0..1."""

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Trained:
    """A finished run: the best checkpoint as `state_dict` arrays, and the history."""

    arrays: dict[str, Array]
    history: tuple[Epoch, ...]
    best: Epoch


@dataclass(frozen=True)
class Report:
    """Callbacks for progress: the loss of each step, and each epoch."""

    step: Callable[[float], None] = lambda loss: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


def steps_in(recipe: Recipe, dataset: Dataset) -> int:
    """Return the number of steps of a whole run."""
    return recipe.epochs * math.ceil(len(dataset.train) / recipe.batch)


def train(
    recipe: Recipe,
    dataset: Dataset,
    device: str = "cpu",
    report: Report = Report(),
    checkpoint: Path | None = None,
    resume: bool = False,
    patience: int = 0,
) -> Trained:
    """Run a recipe. The same recipe, data, device and thread count give the same result, interrupted or not.

    Args:
        recipe: what to do.
        dataset: what to learn from, and what chooses the epoch that is kept.
        device: PyTorch's name of it.
        report: callbacks for progress.
        checkpoint: file to keep the run in after each epoch.
        resume: go on from there, if it exists.
        patience: stop after this many epochs without a better validation loss; 0 runs all epochs.

    Raises:
        WeightsError: the loss is no longer a number, or the checkpoint cannot be used.
    """
    run = Run(recipe, dataset, device)
    if recipe.start and not recipe.epochs:
        return run.begun()
    if checkpoint and resume and checkpoint.exists():
        run.restore(checkpoint)
        for epoch in run.history:
            report.epoch(epoch)
    while not run.is_over(patience):
        report.epoch(run.epoch(report))
        if checkpoint:
            run.save(checkpoint)
    if run.best is None:
        raise WeightsError(f"{recipe.net}: epochs must be at least 1, found {recipe.epochs}")
    return Trained(run.arrays, tuple(run.history), run.best)


def first_batch(recipe: Recipe, dataset: Dataset, device: str = "cpu") -> Images:
    """Return what the first step of a run learns from, varied as it will be; bytes, or the signals as they are."""
    feed = Feed(recipe, card_for(recipe, dataset), device)
    images, labels = next(feed.varied(feed.hold(dataset.train)))
    shown = images.cpu().numpy()
    return Images(np.rint(255 * shown).astype(np.uint8) if shown.ndim == 4 else shown, labels.cpu().numpy())


def card_for(recipe: Recipe, dataset: Dataset) -> ModelCard:
    """Return the card of the published net, with the classes of the data if they differ."""
    card = nets.default_card(recipe.net)
    if not card.colour:
        shape = dataset.train.images.shape[1:]
        return replace(card, labels=dataset.classes, input_shape=shape, mean=(), std=())
    return replace(card, labels=dataset.classes) if isinstance(recipe, FineTuning) or not card.labels else card


class Run:
    """A training run between two epochs.

    Attributes:
        history: the epochs so far.
        best: the one of least validation loss.
        arrays: the parameters after that.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.arrays: dict[str, Array] = {}
        self._recipe = recipe
        self._device = device
        self._identity = f"{recipe}, {device}, {dataset.sha256}"
        self._frozen = recipe.frozen if isinstance(recipe, FineTuning) else 0
        self._net = _net(recipe, dataset).to(device, memory_format=torch.channels_last)
        self._feed = Feed(recipe, card_for(recipe, dataset), device)
        self._learning, self._judging = self._feed.hold(dataset.train), self._feed.hold(dataset.validation)
        self._outliers = self._feed.hold(_outliers(recipe, dataset, self._feed, self._net)).images
        self._begun = to_arrays(self._net) if recipe.kept else {}
        self._optimiser = _optimiser(self._net, recipe)
        self._schedule = _schedule(self._optimiser, recipe, steps_in(recipe, dataset))

    def is_over(self, patience: int = 0) -> bool:
        """Whether all epochs are done, or the last `patience` ones brought no progress."""
        done = len(self.history)
        return done >= self._recipe.epochs or bool(self.best and patience and done - self.best.number >= patience)

    def begun(self) -> Trained:
        """Return the initial weights as a result, and how good they are."""
        judged = _judge(self._net, self._feed.in_order(self._judging))
        return Trained(to_arrays(self._net), (), Epoch(0, math.nan, math.nan, *judged))

    def epoch(self, report: Report) -> Epoch:
        """Run one pass over the training split and return its result."""
        number = len(self.history) + 1
        for name, value in self._net.named_parameters():
            value.requires_grad_(number > self._frozen or name.startswith(_head(self._recipe)))
        batches = self._feed.shuffled(self._learning)
        train_loss, train_accuracy = self._learn(batches, report, number)
        loss, accuracy = _judge(self._net, self._feed.in_order(self._judging))
        epoch = Epoch(number, train_loss, train_accuracy, loss, accuracy)
        self.history.append(epoch)
        if self.best is None or epoch.validation_loss < self.best.validation_loss:
            self.best, self.arrays = epoch, self._mixed(to_arrays(self._net))
        return epoch

    def save(self, path: Path) -> None:
        """Save everything that the next epoch depends on, completely or not at all.

        Raises:
            WeightsError: the file cannot be written; what it held before is still there.
        """
        assert self.best is not None
        state = {
            "identity": self._identity,
            "net": self._net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "chance": self._chance(),
            "history": [astuple(epoch) for epoch in self.history],
            "best": self.best.number,
            "arrays": {name: torch.tensor(array) for name, array in self.arrays.items()},
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError for a full disk
            partial.unlink(missing_ok=True)
            raise WeightsError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

    def restore(self, path: Path) -> None:
        """Continue from a file that `save` wrote.

        Raises:
            WeightsError: it is damaged, or of another run.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise WeightsError(f"{path}: no checkpoint, or damaged: remove it to start again") from error
        if identity != self._identity:
            raise WeightsError(
                f"{path} is of a run with another recipe, device or data: leave --resume out to start again"
            )
        self._net.load_state_dict(state["net"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        own, feed, *cuda = state["chance"]
        torch.set_rng_state(own)
        self._feed.generator.set_state(feed)
        for chance in cuda:
            torch.cuda.set_rng_state(chance)
        self.history = [Epoch(*values) for values in state["history"]]
        self.best = self.history[state["best"] - 1]
        self.arrays = {name: tensor.numpy() for name, tensor in state["arrays"].items()}

    def _learn(self, batches: Iterator[tuple[Tensor, Tensor]], report: Report, number: int) -> tuple[float, float]:
        """Run one pass; return the mean loss and accuracy during it."""
        recipe = self._recipe
        reduced = recipe.precision == "bfloat16"
        self._net.train()
        total, right, seen = 0.0, 0, 0
        for images, labels in batches:
            shown = images
            if len(self._outliers):
                shown = torch.cat([images, self._feed.some(self._outliers, (len(labels) + 1) // 2)])
            with torch.autocast(self._device, torch.bfloat16, enabled=reduced):
                logits, others = self._net(shown).float().tensor_split([len(labels)])
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            if len(others):
                loss = loss + recipe.outlier_weight * _preference(others)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise WeightsError(
                    f"the loss became {value} in epoch {number}: nothing was saved; lower the learning rate"
                )
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            self._schedule.step()
            report.step(value)
            total += value * len(labels)
            right += int((logits.detach().argmax(1) == labels).sum())
            seen += len(labels)
        return total / seen, right / seen

    def _mixed(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the parameters with the recipe's share of those that the run began with."""
        kept = np.float32(self._recipe.kept)
        return {name: array + kept * (self._begun[name] - array) if kept else array for name, array in arrays.items()}

    def _chance(self) -> list[Tensor]:
        """Return the states of all random generators: of dropout, of the feed, and of dropout on CUDA."""
        cuda = [torch.cuda.get_rng_state()] if self._device == "cuda" else []
        return [torch.get_rng_state(), self._feed.generator.get_state(), *cuda]


def _net(recipe: Recipe, dataset: Dataset) -> TorchNet:
    """Return the initial net: random, or a shipped one with a new last layer."""
    net = nets.REGISTRY[recipe.net]
    if not net.card.colour:
        channels, length = dataset.train.images.shape[1:]
        return TorchNet(net.build(classes=len(dataset.classes), channels=channels, length=length))
    if not recipe.start:
        return TorchNet(net.build())
    if recipe.start.endswith(".npz") and not Path(recipe.start).exists():
        first = Path(recipe.start).stem
        raise WeightsError(f"{recipe.start} is missing, with which this recipe starts: train '{first}' before")
    start = load_model(model_path(recipe.start))
    if start.card.net != recipe.net:
        raise WeightsError(f"{recipe.start} is net '{start.card.net}', not '{recipe.net}' as the recipe says")
    is_new = isinstance(recipe, FineTuning)
    fresh = TorchNet(net.build(classes=len(dataset.classes)) if is_new else net.build())
    kept = {
        name: torch.tensor(np.asarray(array, np.float32))
        for name, array in start.graph.initializers.items()
        if not (is_new and name.startswith(_head(recipe)))
    }
    fresh.load_state_dict(kept, strict=False)
    return fresh


def _head(recipe: Recipe) -> str:
    """Return the name prefix of the last layer's parameters in nets with any number of classes."""
    return nets.REGISTRY[recipe.net].head.removesuffix("weight")


@dataclass(frozen=True)
class Held:
    """A split on the training device: uint8 images, or float32 signals, of the net's input size; int64 labels."""

    images: Tensor
    labels: Tensor


class Feed:
    """Makes batches for the net: in 0..1, varied for training, normalised."""

    def __init__(self, recipe: Recipe, card: ModelCard, device: str) -> None:
        self._recipe = recipe
        self._shape = card.input_shape
        self._device = device
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        axes = (slice(None), *(None,) * (len(card.input_shape) - 1))
        self._mean = torch.tensor(card.mean, device=device)[axes]
        self._std = torch.tensor(card.std, device=device)[axes]

    def hold(self, split: Images) -> Held:
        """Move a split to the device."""
        fitted = split.fitted(self._shape)
        return Held(
            torch.tensor(fitted.images, device=self._device),
            torch.tensor(fitted.labels, dtype=torch.int64, device=self._device),
        )

    def some(self, images: Tensor, count: int) -> Tensor:
        """Return a varied batch of images drawn at random."""
        which = torch.randint(len(images), (count,), generator=self.generator, device=self._device)
        return self._normalised(apply(_scaled(images[which]), self._recipe.augment, self.generator))

    def shuffled(self, held: Held) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield varied batches in a new order, normalised."""
        for images, labels in self.varied(held):
            yield self._normalised(images), labels

    def varied(self, held: Held) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield varied batches in a new order, in 0..1."""
        order = torch.randperm(len(held.labels), generator=self.generator, device=self._device)
        for which in torch.split(order, self._recipe.batch):
            images = apply(_scaled(held.images[which]), self._recipe.augment, self.generator)
            yield images, held.labels[which]

    def in_order(self, held: Held) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches without variation."""
        batches = (torch.split(values, EVALUATION_BATCH) for values in (held.images, held.labels))
        for images, labels in zip(*batches, strict=True):
            yield self._normalised(_scaled(images)), labels

    def _normalised(self, images: Tensor) -> Tensor:
        normalised = (images - self._mean) / self._std
        return normalised.contiguous(memory_format=torch.channels_last) if normalised.ndim == 4 else normalised


@torch.no_grad()
def _outliers(recipe: Recipe, dataset: Dataset, feed: Feed, net: TorchNet) -> Images:
    """Generate the recipe's images that show no class."""
    if not recipe.outliers:
        return dataset.train[:0]
    if not recipe.paper:
        made = outliers(dataset.train, recipe.outliers, recipe.seed)
        return Images(made, np.zeros(len(made), np.uint8))
    made = false_marks(dataset.train, recipe.outliers, recipe.seed)
    found = Images(made, np.zeros(len(made), np.uint8))
    # Some marks happen to be digits, as a bar is a 1: those that the net takes for typical ones.
    net.eval()
    energies = [
        np.concatenate([net(images).logsumexp(1).cpu().numpy() for images, _ in feed.in_order(feed.hold(split))])
        for split in (dataset.validation, found)
    ]
    chosen = energies[1] < np.median(energies[0])
    return Images(found.images[chosen], found.labels[chosen])


def _preference(logits: Tensor) -> Tensor:
    """Return the loss of images that show no class: 0 if all scores are alike."""
    return -logits.log_softmax(1).mean() - math.log(logits.shape[1])


def _scaled(images: Tensor) -> Tensor:
    """Scale bytes to 0..1; signals are floats already and keep their scale."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def to_arrays(net: nn.Module) -> dict[str, Array]:
    """Return a copy of `state_dict` as NumPy arrays, without PyTorch's count of batches."""
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
    if recipe.schedule == "one_cycle":
        return torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(5 * step / steps, 1.25 * (1 - step / steps))
        )
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


@torch.no_grad()
def _judge(net: TorchNet, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return mean loss and accuracy without training."""
    net.eval()
    total, right, seen = 0.0, 0, 0
    for images, labels in batches:
        logits = net(images)
        total += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    return total / seen, right / seen
