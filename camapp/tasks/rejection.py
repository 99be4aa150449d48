"""Decides whether a model's outputs speak for any of its classes, by their energy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from engine.model import ModelCard


def energy(logits: Floats) -> Floats:
    """Return the logarithm of the sum of exponentials along the last axis, without overflow for large logits.

    It is high if any class has a high score, and unlike a softmax it is low if all have low ones.
    """
    highest = logits.max(axis=-1)
    return np.asarray(highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1)), np.float32)


class Rejection:
    """Refuses inputs that are none of a model's classes: those of an energy below that of the classes' own inputs.

    Args:
        card: holds the energies, measured on held-out data; without them nothing is refused.
        share: share of the classes' own inputs that may be refused; 0 refuses nothing.
    """

    def __init__(self, card: ModelCard, share: float) -> None:
        known = sorted((float(key), value) for key, value in card.rejection.items())
        shares, energies = [key for key, _ in known], [value for _, value in known]
        self.least = float(np.interp(share, shares, energies)) if known and share > 0 else -np.inf

    def accepts(self, logits: Floats) -> NDArray[np.bool_]:
        """Return for each row of logits (n, classes) whether it speaks for a class."""
        if self.least == -np.inf:
            return np.ones(len(logits), np.bool_)
        return np.asarray(energy(logits) >= self.least)
