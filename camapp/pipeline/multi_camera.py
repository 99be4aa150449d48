"""Several cameras' pipelines as one run: started side by side, stopped together, judged together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from camapp.core.errors import ExitCode
from camapp.pipeline.pipeline import Pipeline, Summary
from camapp.system.watchdog import Manager

log = logging.getLogger(__name__)

_TICK = 0.05


class MultiCamera:
    """The pipelines of a run.

    Args:
        pipelines: one or more, with different names.
    """

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self.pipelines = list(pipelines)
        self._before_stop: Callable[[], None] = lambda: None
        self._running = 0
        self._told = False
        self._told_of: set[str] = set()
        self._lock = threading.Lock()
        self._stop_reason = ""

    def request_stop(self, reason: str) -> None:
        """Ask all to end; returns at once, from any thread or signal handler (so it takes no lock)."""
        self._stop_reason = self._stop_reason or reason
        for pipeline in self.pipelines:
            pipeline.request_stop(reason)

    def status_line(self) -> str:
        """A line of figures, with the cameras' names where there are several."""
        if len(self.pipelines) == 1:
            return self.pipelines[0].reporter.line()
        return "  |  ".join(f"{pipeline.name}: {pipeline.reporter.line()}" for pipeline in self.pipelines)

    def run(self, before_stop: Callable[[], None] = lambda: None) -> list[Summary]:
        """Run until each has ended; one that fails leaves the others running.

        Args:
            before_stop: called once, when the run as a whole is about to stop.

        Raises:
            SinkError, PoolError: of a camera that could not be started as asked; the others are stopped.
        """
        self._before_stop = before_stop
        runs = [_Run(pipeline, self._one_ends) for pipeline in self.pipelines]
        self._running = len(runs)
        for run in runs:
            run.start()
        while any(run.is_alive() for run in runs):
            time.sleep(_TICK)
            if any(run.raised for run in runs):
                self.request_stop("another camera could not be started")
            self._tell_of_failed(runs)
        for run in runs:
            run.join()
            if run.raised is not None:
                raise run.raised
        return [run.summary for run in runs if run.summary is not None]

    def _tell_of_failed(self, runs: list[_Run]) -> None:
        """In words at once: the run's own end, which says it again, may be months away."""
        for run in runs:
            if run.summary is not None and run.summary.code is not ExitCode.OK and run.name not in self._told_of:
                self._told_of.add(run.name)
                if any(other.is_alive() for other in runs):
                    log.error("%s has failed: %s; the other cameras go on", run.name, run.summary.reason)

    def _one_ends(self) -> None:
        with self._lock:
            self._running -= 1
            if self._told or (self._running and not self._stop_reason):
                return
            self._told = True
        self._before_stop()


class _Run(threading.Thread):
    """One pipeline in a thread of its own."""

    def __init__(self, pipeline: Pipeline, before_stop: Callable[[], None]) -> None:
        super().__init__(name=f"camera {pipeline.name}", daemon=True)
        self.summary: Summary | None = None
        self.raised: Exception | None = None
        self._pipeline = pipeline
        self._before_stop = before_stop

    def run(self) -> None:
        try:
            self.summary = self._pipeline.run(self._before_stop)
        except Exception as error:  # noqa: BLE001 - raised again by `MultiCamera.run`, where a user's error is told
            self.raised = error


class JointManager:
    """Makes several cameras' watchdogs one: the service manager hears what all of them have said.

    Args:
        manager: the service manager.
        has_ended: whether the camera of that name has: the others are not judged by it any more.
    """

    def __init__(self, manager: Manager, has_ended: Callable[[str], bool]) -> None:
        self._manager = manager
        self._has_ended = has_ended
        self._members: list[Member] = []
        self._line = ""
        self._lock = threading.Lock()

    def member(self, name: str) -> Member:
        """What this camera's watchdog reports to."""
        self._members.append(Member(name, self._manager.watchdog_s, self._heard))
        return self._members[-1]

    def _heard(self) -> None:
        with self._lock:
            running = [member for member in self._members if not self._has_ended(member.name)]
            for what in ("READY=1", "WATCHDOG=1"):
                if running and all(what in member.said for member in running):
                    for member in running:
                        member.said.discard(what)
                    self._manager.notify(what)
            line = "  |  ".join(f"{member.name}: {member.status}" for member in running if member.status)
            if line != self._line:
                self._line = line
                self._manager.notify(f"STATUS={line}")


class Member:
    """One camera's side of a `JointManager`."""

    def __init__(self, name: str, watchdog_s: float | None, heard: Callable[[], None]) -> None:
        self.name = name
        self.watchdog_s = watchdog_s
        self.status = ""
        self.said: set[str] = set()
        self._heard = heard

    def notify(self, *assignments: str) -> None:
        """Take a line such as 'READY=1' in."""
        for assignment in assignments:
            key, _, value = assignment.partition("=")
            if key == "STATUS":
                self.status = value
            else:
                self.said.add(assignment)
        self._heard()
