"""Checks the time stamps of cameras, and maps the time of files to the monotonic clock."""

from __future__ import annotations

import logging
import threading
import time

from camapp.capture.source import EndOfStream
from camapp.core.log_once import LogOnce

log = logging.getLogger(__name__)

# Age of a time stamp that can be right: this much more than the time since the frame before, as the stamp of a long
# exposure is that of its begin.
_MAX_AGE_NS = 5_000_000_000


class SensorClock:
    """Accepts a camera's time stamps if they can be monotonic time, and warns once if they cannot."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warn = LogOnce(log)
        self._last_ns = 0
        self._arrived_ns = time.monotonic_ns()

    def checked(self, stamp_ns: int) -> int:
        """Return `stamp_ns` if it is later than the one before, not in the future and not too old, else 0.

        0 means that the camera gives no time stamp.
        """
        before, self._arrived_ns = self._arrived_ns, time.monotonic_ns()
        if stamp_ns == 0:
            return 0
        age = self._arrived_ns - stamp_ns
        if not 0 <= age <= _MAX_AGE_NS + self._arrived_ns - before:
            return self._refused(f"{-age / 1e9:.1f} s from now, as if by another clock")
        if stamp_ns <= self._last_ns:
            return self._refused("no later than the one before")
        self._last_ns = stamp_ns
        return stamp_ns

    def _refused(self, problem: str) -> int:
        message = "%s stamps its frames %s: using their arrival instead"
        self._warn(logging.WARNING, "stamp", message, self._name, problem)
        return 0


class Pace:
    """Maps media time to the monotonic clock; the first requested moment is due at once."""

    def __init__(self) -> None:
        self._origin_ns: int | None = None

    def due_ns(self, media_s: float) -> int:
        """Return the monotonic nanosecond at which the moment `media_s` is due."""
        if self._origin_ns is None:
            self.rebase(media_s)
        assert self._origin_ns is not None
        return self._origin_ns + round(media_s * 1e9)

    def rebase(self, media_s: float) -> None:
        """Make `media_s` due now and shift all later moments with it."""
        self._origin_ns = time.monotonic_ns() - round(media_s * 1e9)

    def lateness(self, media_s: float) -> float:
        """Return the seconds by which `media_s` is overdue; negative if it is still to come."""
        return (time.monotonic_ns() - self.due_ns(media_s)) / 1e9

    def wait(self, media_s: float, stopping: threading.Event) -> None:
        """Sleep until `media_s` is due, however long; raises EndOfStream if `stopping` is set before that."""
        if (early := -self.lateness(media_s)) > 0 and stopping.wait(early):
            raise EndOfStream("stopped")
