"""Detects an upside-down camera: the lines of a track come nearer to each other towards the top of an upright image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from camapp.core.arrays import Floats

# Time constant of the evidence, and the time that the first frame counts for, seconds.
SETTLES_S, FIRST_S = 3.0, 0.9
# The camera counts as upside down while the mean convergence is below the first, until it is above the second. On four
# drives by persons, with hairpins and neighbouring lanes, the mean was never below -0.10; of the image turned by 180
# degrees it is the same with the other sign, in the median -0.2 to -0.6.
DOWN, UP = -0.12, -0.03
# Least number of pixels in height that two lines share, and least sum of their distances at both ends.
LEAST_SHARED, LEAST_APART = 3.0, 2.0


def convergence(lines: Sequence[Floats]) -> float | None:
    """Return by how much pairs of lines, (n, 2) pixels, come together towards the top: -1 to 1; None without pairs.

    Parallel lines on the ground meet at the horizon at any pitch of the camera, and whatever its lens is.
    """
    total = shared = 0.0
    for pair in combinations([line[np.argsort(line[:, 1])] for line in lines], 2):
        top, bottom = max(line[0, 1] for line in pair), min(line[-1, 1] for line in pair)
        if bottom - top < LEAST_SHARED:
            continue
        (a, b), (c, d) = (np.interp((top, bottom), line[:, 1], line[:, 0]) for line in pair)
        far, near = a - c, b - d
        if far * near >= 0 and abs(far + near) > LEAST_APART:
            total += (bottom - top) * abs(near) / abs(far + near)
            total -= (bottom - top) * abs(far) / abs(far + near)
            shared += bottom - top
    return total / shared if shared else None


class UpsideDownDetector:
    """Averages the convergence of the lines over some seconds.

    Attributes:
        upside_down: whether the camera is upside down.
    """

    def __init__(self) -> None:
        self.upside_down = False
        self._mean = 0.0
        self._now: int | None = None

    def update(self, lines: Sequence[Floats], now_ns: int) -> None:
        """Add the lines of a frame, (n, 2) pixels each."""
        seen = convergence(lines)
        if seen is not None:
            elapsed = FIRST_S if self._now is None else max(0, now_ns - self._now) / 1e9
            self._now = now_ns
            self._mean -= math.expm1(-elapsed / SETTLES_S) * (seen - self._mean)
            self.upside_down = self._mean < (UP if self.upside_down else DOWN)
