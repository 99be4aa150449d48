"""Measures the energies at which a classifier's own images end, so that others can be refused."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.rejection import energy
from engine.graph import Array
from engine.model import Model
from weights.datasets import Images
from weights.evaluate import normalised
from weights.outliers import outliers

# Shares of a model's own images that may be refused, for which the energy is stored.
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# Number of generated images, and the minimum share of them that is refused at WORTH_AT; below it the energy of this
# model says nothing, and nothing is stored.
GENERATED, WORTH, WORTH_AT = 1000, 0.25, 0.05
# From this number of images on the energies are counted; fewer are taken as normally distributed.
MANY = 400
_BATCH = 100


@dataclass(frozen=True)
class Measured:
    """The result.

    Attributes:
        energies: for the model card, by share of its own images that are refused; {} if the energy says nothing.
        refused: share of the generated images without the classes that is refused at the same energies.
    """

    energies: dict[str, float]
    refused: dict[str, float]

    def __str__(self) -> str:
        if not self.energies:
            return "what is none of the classes cannot be told by this model: everything gets a label"
        return f"refuses {self.refused['0.01']:.0%} of generated images without the classes, and 1 % of its own"


def measure(model: Model, held: Images, seed: int = 1) -> Measured:
    """Measure on images that the model has not learnt from."""
    return compare(_logits(model, held), held.labels, _logits(model, _generated(held, seed)))


def compare(own: Floats, labels: Array, others: Floats) -> Measured:
    """Measure by the logits of held-out images and of generated ones without the classes.

    Args:
        own: (count, classes); images that the model takes for another class than `labels` (count,) do not count.
        others: (generated, classes).
    """
    right = own.argmax(axis=1) == labels
    if right.sum() < 2:
        return Measured({}, {})
    energies, unknown = np.sort(energy(own[right])), energy(others)
    levels = {share: _level(energies, share) for share in SHARES}
    refused = {f"{share:g}": float(np.mean(unknown < level)) for share, level in levels.items()}
    if refused[f"{WORTH_AT:g}"] < WORTH:
        return Measured({}, {})
    return Measured({f"{share:g}": round(level, 3) for share, level in levels.items()}, refused)


def _level(energies: Floats, share: float) -> float:
    """Return the energy below which this share of the sorted ones lies."""
    if len(energies) >= MANY:
        return float(energies[int(share * len(energies))])
    return float(energies.mean() + NormalDist().inv_cdf(share) * energies.std(ddof=1))


def _generated(held: Images, seed: int) -> Images:
    made = outliers(held, GENERATED, seed)
    return Images(made, np.zeros(len(made), np.uint8))


def _logits(model: Model, images: Images) -> Floats:
    fitted = images.fitted(model.card.input_shape).images
    parts: list[Array] = [
        np.array(model.run(normalised(fitted[start : start + _BATCH], model.card)))
        for start in range(0, len(fitted), _BATCH)
    ]
    return np.concatenate(parts)
