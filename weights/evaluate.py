"""How good a model is on a labelled split, as the NumPy engine runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.card import ModelCard
from engine.model import Model
from weights import WeightsError
from weights.datasets import Pictures

Array = NDArray[Any]

BATCH = 50


@dataclass(frozen=True)
class Evaluation:
    """Right and wrong answers.

    Attributes:
        confusion: int64 (classes, classes); row: the truth, column: what the model said.
        seconds: spent in the engine alone.
    """

    confusion: Array
    seconds: float

    @property
    def images(self) -> int:
        """Pictures looked at."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0..1."""
        return float(np.trace(self.confusion)) / self.images

    @property
    def per_class(self) -> Array:
        """Share of right answers for each true class, 0..1; NaN where the split has none of it."""
        with np.errstate(invalid="ignore"):
            shares: Array = np.diag(self.confusion) / self.confusion.sum(axis=1)
        return shares

    @property
    def images_per_s(self) -> float:
        """Pictures the engine did a second."""
        return self.images / self.seconds


def evaluate(model: Model, pictures: Pictures, batch: int = BATCH) -> Evaluation:
    """Run a model over all pictures.

    Raises:
        WeightsError: its outputs are not one score a class, or the pictures do not fit.
    """
    confusion: Array = np.zeros((0, 0), np.int64)
    seconds = 0.0
    for logits, labels, spent in run(model, pictures, batch):
        if not len(confusion):
            confusion = np.zeros((logits.shape[1],) * 2, np.int64)
            if int(pictures.labels.max()) >= len(confusion):
                raise WeightsError(
                    f"the data has label {pictures.labels.max()}, the model only {len(confusion)} classes"
                )
        np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
        seconds += spent
    return Evaluation(confusion, seconds)


def run(model: Model, pictures: Pictures, batch: int = BATCH) -> Iterator[tuple[Array, Array, float]]:
    """Batches of (outputs, labels, seconds in the engine); outputs are valid until the next batch."""
    fitted = pictures.fitted(model.card.input_shape)
    plans = {size: model.plan((size, *model.card.input_shape)) for size in _sizes(len(fitted), batch)}
    for start in range(0, len(fitted), batch):
        part = fitted[start : start + batch]
        inputs = normalised(part.images, model.card)
        began = time.perf_counter()
        outputs = plans[len(part)].run(inputs)
        spent = time.perf_counter() - began
        if isinstance(outputs, tuple) or outputs.ndim != 2:
            raise WeightsError(
                f"net '{model.card.net}' does not give one score a class, so it cannot be evaluated here"
            )
        yield outputs, part.labels, spent


def normalised(images: Array, card: ModelCard) -> Array:
    """uint8 (N, C, H, W) as the card wants it: float32, on 0..1, less its mean, by its std."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (card.mean, card.std))
    return np.ascontiguousarray((images.astype(np.float32) / 255 - mean) / std)


def _sizes(count: int, batch: int) -> set[int]:
    return {min(batch, count), count % batch or min(batch, count)}
