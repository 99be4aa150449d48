"""Tells by the lines it sees whether a camera hangs upside down: which way round do they make the better lane?"""

from __future__ import annotations

import math

from camapp.tasks.lane import Lane

SETTLES_S = 0.5  # in which clear evidence replaces most of what was seen before
COMPARED_S = 0.1  # at most so often
DOUBT = -0.2  # evidence, -1 to 1, from which on it is believed
SURE = 0.8  # a lane so likely need not be compared with one seen upside down


def likelihood(lane: Lane | None, points: int, below: int) -> float:
    """How much like what a driver sees, 0 to 1.

    Args:
        lane: that the lines make, if any.
        points: how many points the lines have.
        below: how many of them lie below the horizon; above it there are none on the ground.
    """
    if lane is None:
        return 0.0
    along = lane.points / points * math.cos(min(1.5 * abs(lane.heading), math.pi / 2))
    return max(0.0, along - (1 - below / points))


class UpsideDownDetector:
    """The evidence of the last second or so."""

    def __init__(self) -> None:
        self._evidence: float | None = None
        self._now = 0

    @property
    def upside_down(self) -> bool:
        """Whether the camera hangs so."""
        return self._evidence is not None and self._evidence < DOUBT

    def due(self, now_ns: int) -> bool:
        """Whether to compare again, which costs the search for a lane: cameras do not turn over by themselves."""
        return self._evidence is None or not 0 <= now_ns - self._now < COMPARED_S * 1e9

    def update(self, upright: float, turned: float, lines: int, now_ns: int) -> None:
        """Take up a comparison.

        Args:
            upright: likelihood of the lane as the camera is said to sit.
            turned: of that in the image turned half round.
            lines: how many there are; one alone may also be seen from a car that points far off its lane.
            now_ns: monotonic nanoseconds.
        """
        seen = (upright - turned) * (0.5 if lines == 1 else 1.0)
        passed, self._now = max(0, now_ns - self._now) / 1e9, now_ns
        if self._evidence is None:
            self._evidence = seen
        # What tells little weighs little.
        self._evidence -= math.expm1(-passed * abs(seen) / SETTLES_S) * (seen - self._evidence)
