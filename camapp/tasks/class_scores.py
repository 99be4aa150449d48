"""Checks that a net tells classes apart, and turns its outputs into scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.smoothing import softmax
from engine.model import ModelCard


def scores_of(card: ModelCard) -> Callable[[Floats], Floats]:
    """Return the function from a net's outputs (..., classes) to scores: a softmax, unless the net ends in one."""
    return _SCORES.get(card.outputs[0].operators if card.outputs else (), softmax)


def check_classes(card: ModelCard, task: str) -> None:
    """Raise ValueError unless the net's outputs, if the card states them, are one number for each label."""
    if not card.outputs:
        return
    first, *others = card.outputs
    if others or any(size != 1 for size in first.shape[1:]):
        shapes = ", ".join(f"{output.name} [{', '.join(map(str, output.shape))}]" for output in card.outputs[:9])
        raise ValueError(
            f"task '{task}' needs one output with one number for each class, but the model has {shapes}: is it a "
            "detector? Then give --task detect"
        )
    classes = first.shape[0] if first.shape else 1
    if card.labels and len(card.labels) != classes:
        raise ValueError(
            f"the model tells {classes} classes apart, but {len(card.labels)} labels are given; give --labels one name "
            "for each"
        )


def _as_they_are(values: Floats) -> Floats:
    return values


def _powers(values: Floats) -> Floats:
    return np.asarray(np.exp(values))


# By the operators that compute the outputs.
_SCORES: dict[tuple[str, ...], Callable[[Floats], Floats]] = {
    ("Softmax",): _as_they_are,
    ("Sigmoid",): _as_they_are,
    ("HardSigmoid",): _as_they_are,
    ("LogSoftmax",): _powers,
}
