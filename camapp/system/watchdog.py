"""Tells the service manager that the run is ready and alive: by frames that come out, never by a timer alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

# Ready without a prediction, as with a camera that is not plugged in yet: from here on the watchdog judges. Never
# before the workers are ready: until then the unit's TimeoutStartSec is the judge.
READY_WITHIN = 10.0
_STATUS_EVERY, _RATES_NEED = 10.0, 2.0


class Manager(Protocol):
    """Who is told: the service manager, or what stands between it and several cameras."""

    watchdog_s: float | None

    def notify(self, *assignments: str) -> None: ...  # noqa: D102


class Watchdog:
    """Reports to the service manager from the main loop's ticks.

    Fed while the count of predictions grows, or while a step is under way that has a bound of its own (opening,
    reconnecting, starting workers, one long inference, paused on request). Whatever else holds the run up starves it.

    Args:
        manager: the service manager.
        started: whether workers are ready and the source was set going.
        predictions: gives how many were made so far.
        bounded_step: names a step that is within its bound, or "".
        status: a line for people.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        manager: Manager,
        started: Callable[[], bool],
        predictions: Callable[[], int],
        bounded_step: Callable[[], str],
        status: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._is_started = started
        self._predictions = predictions
        self._bounded_step = bounded_step
        self._status = status
        self._clock = clock
        self._limit = manager.watchdog_s or float("inf")
        self._began = self._alive_at = clock()
        self._fed_at = self._told_at = -float("inf")
        self._counted = 0
        self._ready = False
        self._starving = False

    def tick(self) -> None:
        """Look at the run once; cheap enough for every 50 ms."""
        now = self._clock()
        count = self._predictions()
        step = ""
        if count != self._counted:
            self._counted = count
            self._alive_at = now
        elif step := self._bounded_step():
            self._alive_at = now
        self._tell_ready(now, bool(count))
        self._feed(now)
        if now - self._told_at >= _STATUS_EVERY:
            self._told_at = now
            self._manager.notify(f"STATUS={step + ': ' if step and not count else ''}{self._status()}")

    def _tell_ready(self, now: float, predicted: bool) -> None:
        if not self._ready and self._is_started() and (predicted or now - self._began > READY_WITHIN):
            self._ready = True
            self._told_at = now - _STATUS_EVERY + _RATES_NEED
            self._manager.notify("READY=1")

    def _feed(self, now: float) -> None:
        if self._alive_at == now:
            self._starving = False
            if now - self._fed_at >= self._limit / 10:
                self._fed_at = now
                self._manager.notify("WATCHDOG=1")
        elif (silent := now - self._alive_at) > self._limit / 2 and not self._starving:
            self._starving = True
            log.error("no frame has come through for %.0f s: the service manager will restart this", silent)
