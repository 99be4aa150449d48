"""Detects an upside-down camera: compares the lane that the lines make upright and turned by 180 degrees."""

from __future__ import annotations

import math

from camapp.tasks.lane import Lane

# Time constant of the evidence, seconds: clear evidence replaces most of the older evidence in this time.
SETTLES_S = 0.5
# Minimum interval between comparisons, seconds.
COMPARED_S = 0.1
# The camera counts as upside down if the evidence, -1 to 1, is below this.
DOUBT = -0.2
# A lane of at least this likelihood is not compared with the turned one.
SURE = 0.8


def likelihood(lane: Lane | None, points: int, below: int) -> float:
    """Return how plausible a lane, if any, is as a driver's view, 0 to 1.

    `below` of all lines' `points` are below the horizon; no point above it is on the ground.
    """
    if lane is None:
        return 0.0
    along = lane.points / points * math.cos(min(1.5 * abs(lane.heading), math.pi / 2))
    return max(0.0, along - (1 - below / points))


class UpsideDownDetector:
    """Accumulates the evidence of about the last second."""

    def __init__(self) -> None:
        self._evidence: float | None = None
        self._now = 0

    @property
    def upside_down(self) -> bool:
        """Whether the camera is upside down."""
        return self._evidence is not None and self._evidence < DOUBT

    def due(self, now_ns: int) -> bool:
        """Whether to compare again. A comparison costs a lane search, and the mounting of a camera rarely changes."""
        return self._evidence is None or not 0 <= now_ns - self._now < COMPARED_S * 1e9

    def update(self, upright: float, turned: float, lines: int, now_ns: int) -> None:
        """Add a comparison: likelihoods of the lane as the camera is mounted, and in the image turned by 180 degrees.

        A single line counts half: it is also seen by a car that points far off its lane.
        """
        evidence = (upright - turned) * (0.5 if lines == 1 else 1.0)
        elapsed, self._now = max(0, now_ns - self._now) / 1e9, now_ns
        if self._evidence is None:
            self._evidence = evidence
        # Weight each comparison by its evidence.
        self._evidence -= math.expm1(-elapsed * abs(evidence) / SETTLES_S) * (evidence - self._evidence)
