"""Decides how long to wait for a source, when to open it again, and which of its losses are logged."""

from __future__ import annotations

import logging
from collections import deque

log = logging.getLogger(__name__)

# Seconds without a loss after which a source counts as healthy again. Also the longest wait between two attempts: a
# source that breaks as often as it can is opened at most every 20 s, some 35 times in ten minutes.
HEALTHY_S = 20.0
_BACK_OFF_MIN = 0.1
# An attempt at a source that is not there at all (unplugged, refused) costs nothing, and its return is noticed soon.
_BACK_OFF_ABSENT = 1.0

# Seconds between losses that belong to one spell. Of each spell, this number of losses is logged one by one, and as
# many more with a new reason; all others are logged as sums after 1, 2, 4, ... minutes.
_SPELL_S = 300.0
_LOGGED_SINGLY = 3
_FIRST_SUM_S = 60.0

# Seconds to wait for a frame: at least, at most, and while the real rate is unknown. Declared rates are no help:
# FFmpeg calls every MJPEG stream 25 fps.
_READ_MIN, _READ_MAX, _READ_UNKNOWN = 1.5, 60.0, 10.0
# A frame is missing after this many of the longest recent intervals.
_INTERVALS_LATE = 4
# Number of intervals after which the rate is known.
_KNOWN_FROM = 5


class BackOff:
    """Computes the waits between attempts to open a source; they double, until the source was healthy."""

    def __init__(self) -> None:
        self._next = self._next_absent = _BACK_OFF_MIN

    def after_loss(self, healthy_s: float, *, absent: bool) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            healthy_s: seconds for which the source delivered frames before this loss; 0 if it did not open.
            absent: whether nothing was there to connect to.
        """
        if healthy_s >= HEALTHY_S:
            self._next = _BACK_OFF_MIN
        if absent and not healthy_s:
            wait, self._next_absent = self._next_absent, min(2 * self._next_absent, _BACK_OFF_ABSENT)
            return wait
        self._next_absent = _BACK_OFF_MIN
        wait, self._next = self._next, min(2 * self._next, HEALTHY_S)
        return wait


class ReadLimit:
    """Derives the time to wait for a frame from the requested and the measured rate.

    Args:
        given: seconds that the user chose, or None to derive them.
        fps: requested frame rate, or None.
    """

    def __init__(self, given: float | None = None, fps: float | None = None) -> None:
        self._given = given
        self._requested_s = 1 / fps if fps else 0.0
        self._intervals: deque[float] = deque(maxlen=30)
        self._last: float | None = None
        self._least = 0.0

    def seconds(self) -> float:
        """Return the seconds after which a frame is missing."""
        if self._given is not None:
            return self._given
        longest = max(self._intervals, default=0.0)
        known = len(self._intervals) >= _KNOWN_FROM
        least = max(_READ_MIN if known else _READ_UNKNOWN, self._least)
        return min(_READ_MAX, max(least, _INTERVALS_LATE * max(longest, self._requested_s)))

    def arrived(self, now: float) -> None:
        """Note a frame at the monotonic second `now`."""
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now

    def lost(self, healthy_s: float) -> None:
        """Note a loss: a source that is lost again soon is given twice the time, as it may only be slow."""
        self._least = min(_READ_MAX, 2 * self.seconds()) if healthy_s < HEALTHY_S else 0.0
        self._last = None


class LossLog:
    """Logs losses of a source and its returns: the first of a spell one by one, then sums in growing intervals."""

    def __init__(self) -> None:
        self._newest = -_SPELL_S
        self._is_out = self._is_logged = False
        self._reasons: set[str] = set()
        self._singly = self._count = 0
        self._summed_at, self._sum_after = 0.0, _FIRST_SUM_S

    def lost(self, reason: str, now: float) -> None:
        """Note a loss at the monotonic second `now`, or a further failed attempt to end it."""
        if now - self._newest > _SPELL_S:
            self._start_spell(now)
        self._newest = now
        if self._is_out and self._is_logged and reason in self._reasons:
            return
        self._count += not self._is_out
        self._is_out = True
        limit = _LOGGED_SINGLY if reason in self._reasons else 2 * _LOGGED_SINGLY
        self._is_logged = self._singly < limit
        if self._is_logged:
            self._singly += 1
            self._reasons.add(reason)
            log.warning("no image: %s; trying again", reason)
        elif now - self._summed_at >= self._sum_after:
            log.warning("no image: %s (lost %d times in %.0f s)", reason, self._count, now - self._summed_at)
            self._summed_at, self._sum_after, self._count = now, 2 * self._sum_after, 0

    def back(self, description: str, now: float) -> None:
        """Note the first frame after a loss."""
        if self._is_out and self._is_logged:
            log.warning("source is back: %s", description)
        self._newest = now
        self._is_out = False

    def _start_spell(self, now: float) -> None:
        self._reasons = set()
        self._singly = 0
        # Losses since the last sum, its moment, and the seconds from it to the next.
        self._count, self._summed_at, self._sum_after = 0, now, _FIRST_SUM_S
