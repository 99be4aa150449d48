"""Runs the pipelines of several cameras as one run, with one start, one stop and one watchdog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from camapp.capture.thread import CaptureState
from camapp.core.errors import ExitCode
from camapp.core.log_once import LogOnce
from camapp.pipeline.pipeline import Pipeline, Summary
from camapp.sinks.drive_gate import DriveGate
from camapp.system.watchdog import Manager

log = logging.getLogger(__name__)

_TICK = 0.05


class MultiCamera:
    """Runs one or more pipelines, each in its own thread.

    A live source that is lost is retried as long as another camera works.

    Args:
        pipelines: with different names.
        gate: holds the cars of all cameras; None if there is none.
    """

    def __init__(self, pipelines: Sequence[Pipeline], gate: DriveGate | None = None) -> None:
        self.pipelines = list(pipelines)
        self.gate = gate
        self._before_stop: Callable[[], None] = lambda: None
        self._running = 0
        self._stopping = False
        self._log_once = LogOnce(log)
        self._lock = threading.Lock()
        self._stop_reason = ""
        for pipeline in self.pipelines:
            pipeline.capture.gives_up = partial(self._is_last, pipeline)

    def request_stop(self, reason: str) -> None:
        """Request the end of all and return at once; for any thread or signal handler, so it takes no lock."""
        self._stop_reason = self._stop_reason or reason
        for pipeline in self.pipelines:
            pipeline.request_stop(reason)

    def status_line(self) -> str:
        """Return the rates of all cameras as one line, with their names if there are several."""
        if len(self.pipelines) == 1:
            return self.pipelines[0].reporter.line()
        return "  |  ".join(f"{pipeline.name}: {pipeline.reporter.line()}" for pipeline in self.pipelines)

    def run(self, before_stop: Callable[[], None] = lambda: None) -> list[Summary]:
        """Run until all have ended; if one fails, the others continue.

        Args:
            before_stop: called once when the whole run is about to stop.

        Raises:
            SinkError, PoolError: a camera could not be started; the others are stopped.
        """
        self._before_stop = before_stop
        runs = [_Run(pipeline, self._before_one_stops) for pipeline in self.pipelines]
        self._running = len(runs)
        for run in runs:
            run.start()
        while any(run.is_alive() for run in runs):
            time.sleep(_TICK)
            if any(run.raised for run in runs):
                self.request_stop("another camera could not be started")
            self._report_failures(runs)
        for run in runs:
            run.join()
            if run.raised is not None:
                raise run.raised
        return [run.summary for run in runs if run.summary is not None]

    def discard(self) -> None:
        """Release the shared memory of pipelines that will not be run."""
        for pipeline in self.pipelines:
            pipeline.inference.stop(0.0)

    def _is_last(self, pipeline: Pipeline) -> bool:
        """Return whether no other camera works, so that one that is away for too long may end the run."""
        others = [other.capture.status.state for other in self.pipelines if other is not pipeline]
        return not any(state in (CaptureState.OPENING, CaptureState.RUNNING) for state in others)

    def _report_failures(self, runs: list[_Run]) -> None:
        """Log a failed camera at once: the end of the whole run, which reports it again, may be months away."""
        for run in runs:
            summary = run.summary
            if summary is None or summary.code is ExitCode.OK or not any(other.is_alive() for other in runs):
                continue
            text = "%s has failed: %s; the other cameras continue"
            self._log_once(logging.ERROR, run.name, text, run.name, summary.reason)

    def _before_one_stops(self) -> None:
        with self._lock:
            self._running -= 1
            if self._stopping or (self._running and not self._stop_reason):
                return
            self._stopping = True
        self._before_stop()


class _Run(threading.Thread):
    """Runs one pipeline in a thread."""

    def __init__(self, pipeline: Pipeline, before_stop: Callable[[], None]) -> None:
        super().__init__(name=f"camera {pipeline.name}", daemon=True)
        self.summary: Summary | None = None
        self.raised: Exception | None = None
        self._pipeline = pipeline
        self._before_stop = before_stop

    def run(self) -> None:
        try:
            self.summary = self._pipeline.run(self._before_stop)
        except Exception as error:  # noqa: BLE001 - raised again by `MultiCamera.run`
            self.raised = error


class JointManager:
    """Joins the watchdogs of several cameras: the service manager is notified once all running cameras have.

    Args:
        has_ended: returns whether the camera of that name has ended and no longer counts.
    """

    def __init__(self, manager: Manager, has_ended: Callable[[str], bool]) -> None:
        self._manager = manager
        self._has_ended = has_ended
        self._members: list[Member] = []
        self._line = ""
        self._lock = threading.Lock()

    def member(self, name: str) -> Member:
        """Return the manager for the watchdog of one camera."""
        self._members.append(Member(name, self._manager.watchdog_s, self._forward))
        return self._members[-1]

    def _forward(self) -> None:
        with self._lock:
            running = [member for member in self._members if not self._has_ended(member.name)]
            for message in ("READY=1", "WATCHDOG=1"):
                if running and all(message in member.notified for member in running):
                    for member in running:
                        member.notified.discard(message)
                    self._manager.notify(message)
            line = "  |  ".join(f"{member.name}: {member.status}" for member in running if member.status)
            if line != self._line:
                self._line = line
                self._manager.notify(f"STATUS={line}")


class Member:
    """Receives the notifications of one camera for a `JointManager`."""

    def __init__(self, name: str, watchdog_s: float | None, forward: Callable[[], None]) -> None:
        self.name = name
        self.watchdog_s = watchdog_s
        self.status = ""
        self.notified: set[str] = set()
        self._forward = forward

    def notify(self, *assignments: str) -> None:
        """Take lines such as 'READY=1'."""
        for assignment in assignments:
            key, _, value = assignment.partition("=")
            if key == "STATUS":
                self.status = value
            else:
                self.notified.add(assignment)
        self._forward()
