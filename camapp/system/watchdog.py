"""Reports to the service manager that the run is ready and alive, because of finished frames, not of a timer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

# Seconds after which the run is ready without a prediction, as with a camera that is not plugged in yet; from then on
# the watchdog's limit counts. Never before the workers are ready: until then the unit's TimeoutStartSec counts.
READY_WITHIN = 10.0
# Seconds between status lines, and from READY to the first, which needs frame rates.
_STATUS_EVERY, _FIRST_STATUS = 10.0, 2.0


class Manager(Protocol):
    """The service manager, or what combines several cameras for it."""

    watchdog_s: float | None

    def notify(self, *assignments: str) -> None: ...  # noqa: D102


class Watchdog:
    """Reports to the service manager from the main loop's ticks.

    Feeds the watchdog while the count of predictions grows, or during a step with its own time limit (opening,
    reconnecting, starting workers, one long inference, paused on request). Any other stall stops the feeding, and
    systemd restarts the service.

    Args:
        started: returns whether the workers are ready and the source was started.
        predictions: returns the number of predictions so far.
        bounded_step: returns the name of a step that is within its time limit, or "".
        status: returns a status line for people.
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
        self._fed_at = self._status_at = -float("inf")
        self._counted = 0
        self._ready = False
        self._is_stalled = False

    def tick(self) -> None:
        """Check the run once; cheap enough for every 50 ms."""
        now = self._clock()
        count = self._predictions()
        step = ""
        if count != self._counted:
            self._counted = count
            self._alive_at = now
        elif step := self._bounded_step():
            self._alive_at = now
        self._report_ready(now, bool(count))
        self._feed(now)
        if now - self._status_at >= _STATUS_EVERY:
            self._status_at = now
            self._manager.notify(f"STATUS={step + ': ' if step and not count else ''}{self._status()}")

    def _report_ready(self, now: float, predicted: bool) -> None:
        if not self._ready and self._is_started() and (predicted or now - self._began > READY_WITHIN):
            self._ready = True
            self._status_at = now - _STATUS_EVERY + _FIRST_STATUS
            self._manager.notify("READY=1")

    def _feed(self, now: float) -> None:
        if self._alive_at == now:
            self._is_stalled = False
            if now - self._fed_at >= self._limit / 10:
                self._fed_at = now
                self._manager.notify("WATCHDOG=1")
        elif (silent := now - self._alive_at) > self._limit / 2 and not self._is_stalled:
            self._is_stalled = True
            log.error("no frame has come through for %.0f s: the service manager will restart this", silent)
