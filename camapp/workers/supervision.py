"""Decides when a worker hangs, and when the pool fails because too many were lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from camapp.core.stats import Quantiles


@dataclass(frozen=True)
class PoolLimits:
    """Time limits of workers, and how many may be lost.

    Attributes:
        start_s: a worker that is not ready within this time is replaced.
        min_stuck_s: a job may take at least this long; with the poll and logging that is less than two seconds.
        stuck_times_p95: a job may take this multiple of the 95th percentile of all jobs' times.
        restarts: workers that may be lost within `restarts_within_s` before the pool fails.
        lost_in_row: workers that may be lost without a result in between, before waiting for the next no longer counts
            as a bounded step.
        poll_s: interval of the checks.
    """

    start_s: float = 30.0
    min_stuck_s: float = 1.7
    stuck_times_p95: float = 10.0
    restarts: int = 5
    restarts_within_s: float = 60.0
    lost_in_row: int = 3
    poll_s: float = 0.25


DEFAULT_LIMITS = PoolLimits()


class WorkerSupervision:
    """Keeps the times and losses of a pool's workers, and counts the `restarts`.

    A job hangs after `job_s` seconds; 0 derives that from the times of earlier jobs.
    """

    def __init__(self, limits: PoolLimits, job_s: float = 0.0) -> None:
        self.restarts = 0
        self._limits = limits
        self._job_s = job_s
        self._times_s = Quantiles(256)
        self._losses: deque[float] = deque()
        self._lost_in_row = 0

    def add_time(self, seconds: float) -> None:
        """Add the time of a job, or of a new worker's first run."""
        self._times_s.add(seconds)

    def note_result(self, seconds: float) -> None:
        """Note that a worker has finished a job in this time."""
        self._lost_in_row = 0
        self.add_time(seconds)

    def note_loss(self) -> str:
        """Note that a worker was lost; return why no other may be started, "" if the budget allows it."""
        limits, now = self._limits, time.monotonic()
        self._lost_in_row += 1
        self._losses.append(now)
        while now - self._losses[0] > limits.restarts_within_s:
            self._losses.popleft()
        if len(self._losses) > limits.restarts:
            return f"{len(self._losses)} workers lost within {limits.restarts_within_s:.0f} s"
        self.restarts += 1
        return ""

    def stuck_after(self) -> float:
        """Return the seconds after which a job hangs."""
        limits = self._limits
        return max(limits.min_stuck_s, self._job_s or limits.stuck_times_p95 * self._times_s.at(95)[0])

    def fault(self, started: float, is_ready: bool, busy_since: float | None) -> str:
        """Return why a worker has to be replaced, "" if it keeps its limits; all times are monotonic seconds."""
        limits, now = self._limits, time.monotonic()
        if busy_since is not None:
            busy = now - busy_since
            # The first test usually avoids the second's sort.
            if busy > limits.min_stuck_s and busy > self.stuck_after():
                return f"hung for {busy:.1f} s"
        elif not is_ready and now - started > limits.start_s:
            return f"not ready within {limits.start_s:.0f} s"
        return ""

    def bounded_step(self, starting: Iterable[float], inferring: Iterable[float]) -> str:
        """Return 'starting workers' or 'inferring' if a worker that began that then is within its limit, else ""."""
        limits, now = self._limits, time.monotonic()
        # Each start is bounded, but one after another they would never end.
        if self._lost_in_row > limits.lost_in_row:
            return ""
        if any(now - began <= limits.start_s + limits.poll_s for began in starting):
            return "starting workers"
        limit = self.stuck_after() + limits.poll_s
        return "inferring" if any(now - began <= limit for began in inferring) else ""
