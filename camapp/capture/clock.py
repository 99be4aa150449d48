"""Checks the time stamps of cameras, and maps the time of files to the monotonic clock."""

from __future__ import annotations

import logging
import time

from camapp.core.log_once import LogOnce

log = logging.getLogger(__name__)

_MAX_AGE_NS = 5_000_000_000


class SensorClock:
    """Accepts a camera's time stamps if they can be monotonic time, and warns once if they cannot."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warn = LogOnce(log)
        self._last_ns = 0

    def checked(self, stamp_ns: int) -> int:
        """Return `stamp_ns` if it is later than the one before and within the last 5 s, else 0.

        0 means that the camera gives no time stamp.
        """
        if stamp_ns == 0:
            return 0
        age = time.monotonic_ns() - stamp_ns
        if not 0 <= age <= _MAX_AGE_NS:
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

    def wait(self, media_s: float, timeout: float) -> None:
        """Sleep until `media_s` is due, at most `timeout` seconds (which also limits the slowest rate)."""
        time.sleep(min(max(0.0, -self.lateness(media_s)), timeout))
