"""Composes the statistics, the status and the status line of one camera's run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from camapp.capture.source import redacted
from camapp.capture.thread import CaptureState
from camapp.core.status import Hud, State, Status
from camapp.pipeline.inference import Result

if TYPE_CHECKING:
    from camapp.pipeline.pipeline import Pipeline

# Predictions over which a status takes its percentiles: about one minute of them.
_STATUS_OVER = 1800
# Shortest interval over which the load of the workers is measured, in nanoseconds.
_LOAD_OVER_NS = 500_000_000


class StatusReporter:
    """Reads a pipeline and changes nothing; any thread may call it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._newest: Result | None = None
        self._measured_ns = 0
        self._busy_s = 0.0
        self._load: float | None = None
        self._started = time.monotonic()

    def predicted(self, result: Result) -> None:
        """Take the newest result."""
        # Before the first one, workers have started and waited for the source, which says nothing about their load.
        if not self._measured_ns:
            self._measured_ns = result.trace.infer_start or result.trace.captured
        self._newest = result

    def restart_clock(self) -> None:
        """Count the uptime from now."""
        self._started = time.monotonic()

    def uptime_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._started

    def lost(self) -> str:
        """Return why there is no image, or ""."""
        status = self._pipeline.capture.status
        return status.reason if status.state is CaptureState.LOST else ""

    def bounded_step(self) -> str:
        """Name the step that delays predictions and has a time limit (see `Watchdog`), or return ""."""
        run = self._pipeline
        if run.started and run.capture.is_within_limits():
            if run.paused:
                return "paused"
            if run.capture.status.state in (CaptureState.OPENING, CaptureState.LOST):
                return "no image: " + (self.lost() or "opening the source")
            if not run.stats.in_flight():
                return "waiting for the next frame"
        return run.inference.pool.bounded_step()

    def hud(self) -> Hud:
        """Return the current rates, latencies and drops."""
        run, stats = self._pipeline, self._pipeline.stats
        balance = stats.balance()
        target_fps = run.settings.target_fps
        if run.source.fps > 0:
            # No part of a run can be faster than its source.
            target_fps = min(target_fps, run.source.fps)
        return Hud(
            camera_fps=stats.camera.rate(),
            infer_fps=stats.inference.rate(),
            display_fps=stats.display.rate(),
            target_fps=target_fps,
            latency_ms={
                stage: stats.latency[stage].at(50, last=60)[0] for stage in stats.latency if stage != "overhead"
            },
            drops={**balance.dropped, **balance.failed},
            workers_busy=self._workers_busy(),
            workers=run.workers,
            restarts=run.inference.restarts,
            source=redacted(run.source.uri),
            model=run.model_name,
            paused=run.paused,
            idle=run.idle is not None and run.idle.idle,
            slowness="" if self.lost() else run.source.slowness,
            health=run.health.latest,
        )

    def status(self) -> Status:
        """Return the full status of this moment; costs about a millisecond."""
        run, newest = self._pipeline, self._newest
        return Status(
            camera=run.name,
            state=self._state(),
            reason=run.ended or self.lost(),
            figures=self.hud(),
            balance=run.stats.balance(),
            latency_ms={
                stage: quantiles.at(50, 95, 99, last=_STATUS_OVER)  # type: ignore[misc]
                for stage, quantiles in run.stats.latency.items()
            },
            prediction=newest.prediction if newest else None,
            age_s=(time.monotonic_ns() - newest.trace.captured) / 1e9 if newest else 0.0,
            task=run.task.name,
            labels=run.task.card.labels,
            size=run.capture.size,
            roi=run.settings.roi,
            uptime_s=self.uptime_s(),
        )

    def line(self) -> str:
        """Return the rates, the latency and any problem as one line for a terminal."""
        hud, lost = self.hud(), self.lost()
        return (
            f"camera {hud.camera_fps:5.1f}  inference {hud.infer_fps:5.1f} of {hud.target_fps:g} fps  "
            f"latency {hud.latency_ms['total']:.1f} ms  dropped {sum(hud.drops.values())}  "
            + (f"workers {hud.workers_busy:.0%} busy" if self._newest else "workers starting")
            + (f"  restarts {hud.restarts}" if hud.restarts else "")
            + (f"  {', '.join(hud.health.alerts)}" if hud.health.alerts else "")
            + ("  idle" if hud.idle else "")
            + (f"  slow camera: {hud.slowness}" if hud.slowness else "")
            + (f"  NO SIGNAL: {lost}" if lost else "")
        )

    def _state(self) -> State:
        if self._pipeline.ended:
            return State.ENDED
        if self._pipeline.paused:
            return State.PAUSED
        if self.lost():
            return State.NO_SIGNAL
        return State.RUNNING if self._newest else State.STARTING

    def _workers_busy(self) -> float:
        """Return the share of the workers' time spent on inference, 0 to 1."""
        now, busy_s = time.monotonic_ns(), self._pipeline.inference.pool.busy_seconds()
        before, before_s = self._measured_ns, self._busy_s
        if before and (self._load is None or now - before > _LOAD_OVER_NS):
            share = (busy_s - before_s) / ((now - before) / 1e9) / max(1, self._pipeline.workers)
            self._load = min(1.0, max(0.0, share))
            if now - before > _LOAD_OVER_NS:
                self._measured_ns, self._busy_s = now, busy_s
        return self._load or 0.0
