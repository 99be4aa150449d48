"""Measures the accuracy of a model on a labelled split with the NumPy engine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camapp.commands.classify.command import suitable_batch
from camapp.commands.classify.report import markdown
from camapp.core.errors import PoolError
from camapp.workers.ordered import OrderedRun, Work
from camapp.workers.pool import Outcome
from camapp.workers.slots import Slot
from engine.graph import Array
from engine.model import Model
from engine.model_card import ModelCard
from weights import WeightsError
from weights.datasets import Images


@dataclass(frozen=True)
class Evaluation:
    """Correct and wrong predictions.

    Attributes:
        confusion: int64 (classes, classes); row: the truth, column: what the model predicted.
        seconds: from the start of the worker processes to the last answer.
        workers: how many there were.
        loss: mean cross-entropy.
    """

    confusion: Array
    seconds: float
    workers: int = 1
    loss: float = 0.0

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0..1."""
        return float(np.trace(self.confusion)) / self.images

    @property
    def per_class(self) -> Array:
        """Share of correct predictions for each true class, 0..1; NaN if the split has none of it."""
        with np.errstate(invalid="ignore"):
            shares: Array = np.diag(self.confusion) / self.confusion.sum(axis=1)
        return shares

    @property
    def images_per_s(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    def names(self, card: ModelCard) -> Sequence[str]:
        """Return the names of the classes: the card's labels, or numbers."""
        return card.labels or [str(number) for number in range(len(self.confusion))]


def evaluate(model: Model, images: Images, workers: int = 0) -> Evaluation:
    """Run a model over all images, in the application's worker processes.

    Args:
        model: one score a class.
        images: with labels; centred on zeros where the model takes larger ones.
        workers: processes; 0 takes all cores.

    Raises:
        WeightsError: its outputs are not one score a class, the images do not fit, or no worker stays alive.
    """
    fitted = images.fitted(model.card.input_shape)
    outputs = model.graph.outputs
    if len(outputs) > 1 or len(outputs[0].shape) != 2:
        raise WeightsError(f"net '{model.card.net}' does not give one score a class, so it cannot be evaluated here")
    classes = outputs[0].shape[1]
    if int(images.labels.max()) >= classes:
        raise WeightsError(f"the data has label {images.labels.max()}, the model only {classes} classes")
    batch = suitable_batch(model)
    began = time.perf_counter()
    confusion: Array = np.zeros((classes, classes), np.int64)
    total = 0.0
    run = OrderedRun(model, _work(model), batch, workers or os.cpu_count() or 1)
    try:
        for *part, losses in run.results(fitted[start : start + batch] for start in range(0, len(fitted), batch)):
            np.add.at(confusion, tuple(part), 1)
            total += float(losses.sum())
    except PoolError as error:
        raise WeightsError(f"evaluating stopped: {error}") from error
    return Evaluation(confusion, time.perf_counter() - began, run.pool.workers, total / len(fitted))


def _work(model: Model) -> Work[Images, tuple[Array, Array, Array]]:
    """Return the work of the pool: images in, (labels, predicted classes, cross-entropies) out."""

    def write(part: Images, slot: Slot) -> tuple[int, bytes]:
        slot.input[: len(part)] = normalised(part.images, model.card)
        return len(part), b""

    def read(part: Images, outcome: Outcome) -> tuple[Array, Array, Array]:
        scores = outcome.slot.outputs[0][: outcome.items]
        return part.labels, scores.argmax(axis=1), _losses(scores, part.labels)

    def give_up(part: Images, error: str) -> tuple[Array, Array, Array]:
        raise WeightsError(f"{len(part)} images could not be evaluated: {error}")

    return Work(write, read, give_up)


def _losses(scores: Array, labels: Array) -> Array:
    """Return the cross-entropy of each row of scores: logits, or probabilities if they are such already."""
    chosen = np.arange(len(labels)), labels
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return -np.log(scores[chosen].clip(1e-12))
    logs = scores - scores.max(axis=1, keepdims=True)
    losses: Array = np.log(np.exp(logs).sum(axis=1)) - logs[chosen]
    return losses


def normalised(images: Array, card: ModelCard) -> Array:
    """Images (N, C, H, W) or signals (N, C, L) normalised by the card: float32, minus its mean, divided by its std.

    Its scale has bytes on 0..1.
    """
    axes = (slice(None), *(None,) * (images.ndim - 2))
    mean, std = (np.array(values, np.float32)[axes] for values in (card.mean, card.std))
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    return np.ascontiguousarray((images.astype(np.float32) / scale - mean) / std)


def report(model: Model, result: Evaluation, title: str, command: str) -> str:
    """Return the evaluation as Markdown: what was measured, where and how, accuracy by class, confusion."""
    from camapp.system.machine import machine

    card, host = model.card, machine()
    lines = [
        f"# {title}",
        "",
        f"**{result.accuracy:.2%}** of {result.images} images right, mean cross-entropy {result.loss:.4f}, measured by "
        "the NumPy engine.",
        "",
        f"- model: net `{card.net}`, input {'x'.join(map(str, card.input_shape))}, sha256 `{card.sha256}`",
        f"- speed: {result.images_per_s:.0f} images/s with {result.workers} worker(s), their start included",
        f"- machine: {host['cpu']}, {host['cores']} cores; Python {host['python']}, NumPy {host['numpy']}",
        f"- command: `{command}`",
    ]
    if card.recipe:
        lines.append(f"- recipe: {card.recipe}")
    return "\n".join([*lines, "", markdown(result.names(card), result.confusion)])
