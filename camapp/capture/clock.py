"""The clocks of sources: a camera's own stamps, checked before they are believed, and a file's time, kept to."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_OLDEST_NS = 5_000_000_000


class SensorClock:
    """Believes a camera's stamps only where they can be monotonic time; says so once where they cannot."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warned = False
        self._last_ns = 0

    def checked(self, stamp_ns: int) -> int:
        """`stamp_ns` if it is later than the one before and within the last 5 s of the monotonic clock, else 0.

        0 itself is 'not told'.
        """
        if stamp_ns == 0:
            return 0
        age = time.monotonic_ns() - stamp_ns
        if not 0 <= age <= _OLDEST_NS:
            self._warn(f"{-age / 1e9:.1f} s from now, as if by another clock")
            return 0
        if stamp_ns <= self._last_ns:
            self._warn("no later than the one before")
            return 0
        self._last_ns = stamp_ns
        return stamp_ns

    def _warn(self, how: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s stamps its frames %s: using their arrival instead", self._name, how)


class Pace:
    """Media time laid over the monotonic clock, beginning when it is first asked."""

    def __init__(self) -> None:
        self._origin_ns: int | None = None

    def due_ns(self, media_s: float) -> int:
        """The monotonic nanosecond at which the moment `media_s` is to be shown."""
        if self._origin_ns is None:
            self.rebase(media_s)
        assert self._origin_ns is not None
        return self._origin_ns + round(media_s * 1e9)

    def rebase(self, media_s: float) -> None:
        """Give up being on time: let `media_s` be due now, and the rest follow it."""
        self._origin_ns = time.monotonic_ns() - round(media_s * 1e9)

    def lateness(self, media_s: float) -> float:
        """Seconds by which `media_s` is overdue; negative while it is still to come."""
        return (time.monotonic_ns() - self.due_ns(media_s)) / 1e9

    def wait(self, media_s: float, timeout: float) -> None:
        """Sleep until `media_s` is due, at most `timeout` seconds (a slower pace is played that fast)."""
        time.sleep(min(max(0.0, -self.lateness(media_s)), timeout))
