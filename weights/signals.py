"""Generates signals for the one-dimensional nets: sine and square waves, with noise as strong as the wave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = ("sine", "square")
COUNT, CHANNELS, LENGTH = 10_000, 3, 224
# Minimum and maximum number of periods in a signal.
PERIODS = (2.0, 12.0)
SEED = 1


def signals(count: int = COUNT, seed: int = SEED) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return waves of power 1 and random frequency, with a random phase per channel, in noise of power 1 (0 dB).

    Returns:
        float32 (count, 3, 224), and uint8 (count,): which of `CLASSES` each is.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count).astype(np.uint8)
    periods = rng.uniform(*PERIODS, (count, 1, 1))
    phase = rng.uniform(0, 1, (count, CHANNELS, 1))
    waves = np.sin(2 * np.pi * (periods * np.arange(LENGTH) / LENGTH + phase))
    waves = np.where(labels[:, None, None] == CLASSES.index("square"), np.sign(waves), waves * np.sqrt(2))
    return (waves + rng.standard_normal(waves.shape)).astype(np.float32), labels
