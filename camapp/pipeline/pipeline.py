"""Builds the stages, starts them in order, stops them in reverse, and says how the run went."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from camapp.capture.source import Source, SourceOptions, create_source, redacted
from camapp.capture.thread import CaptureState, CaptureThread
from camapp.core.errors import BadSource, ExitCode, PermanentSourceError, SourceDenied
from camapp.core.frames import Frame, Trace
from camapp.core.models import identity_of, load_model
from camapp.core.predictions import Prediction
from camapp.core.settings import Settings
from camapp.core.stats import Balance, Stats
from camapp.core.status import Hud, State, Status
from camapp.core.timeouts import register_stuck
from camapp.pipeline.idle_gate import IdleGate
from camapp.pipeline.inference import Inference, Result, until_ready
from camapp.pipeline.renderer import Renderer
from camapp.sinks.sink import ImageSink, PredictionSink, Sink
from camapp.system.health import HealthMonitor
from camapp.tasks.task import Task, task_for
from camapp.workers.pool import WorkerPool
from camapp.workers.shared_pool import MakePool, SharedWorkers
from engine.model import Model, ModelError

log = logging.getLogger(__name__)

_TICK = 0.05
# The longest step of any source: opening a network stream.
_SOURCE_STEP = 15.0
# Bounds of the steps of a stop, in seconds.
_LAST_READ, _DRAIN_LIVE, _DRAIN_FILE, _JOIN = 0.2, 0.5, 30.0, 0.6
# Predictions that a status takes its percentiles over: about a minute's.
_STATUS_OVER = 1800


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    code: ExitCode
    reason: str
    balance: Balance
    seconds: float
    error: Exception | None = None


class Pipeline:
    """One source, one model, and the sinks of a run.

    Args:
        settings: what the user asked for.
        model: to run; None loads the one the settings name.
        workers: how many of its own; 0 leaves it to the settings.
        shared: workers that it shares with other cameras; None gives it its own.
        health: of the machine, which it shares likewise.

    Raises:
        ModelError, SourceError: the model or the source cannot be used, known before anything was started.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model | None = None,
        workers: int = 0,
        shared: SharedWorkers | None = None,
        health: HealthMonitor | None = None,
    ) -> None:
        # The stages already run side by side, and workers have the other cores: OpenCV's own threads would only
        # spin for them (measured: 11.1 ms of CPU a frame against 9.4, and a 95th percentile of prepare of 8 ms for 2).
        cv2.setNumThreads(1)
        self.settings = settings
        self.name = settings.name
        self.stats = Stats()
        model = model or load_model(settings)
        task = task_for(settings, model.card)
        self.source = build_source(settings, model)
        self._shared = shared
        self._identity = identity_of(settings)
        self.workers = shared.workers if shared else workers or settings.workers or default_workers()
        self._prediction_sinks: list[PredictionSink] = []
        self._image_sinks: list[ImageSink] = []
        self.inference = Inference(
            Path(settings.model).name,
            model,
            task,
            self.stats,
            self.source.live,
            self._maker(settings),
            self.workers + 1,
            self._publish,
        )
        self.capture = CaptureThread(
            self.source, self.stats, self._deliver, settings.reconnect, settings.max_frames, self.inference.forget
        )
        self.renderer = Renderer(
            self.stats, self._image_sinks, self.hud, self.lost, self.capture.paused, settings.size or (1280, 720)
        )
        self.set_hud(settings.hud)
        self.idle = IdleGate(settings.idle_fps, settings.idle_after) if settings.idle_fps and self.source.live else None
        self.health = health or HealthMonitor()
        self._ticks: list[Callable[[], None]] = []
        self._changing = threading.Lock()
        self._newest: tuple[Prediction, Trace] | None = None
        self.ended = ""
        self._stop_reason = ""
        self._time_is_up = ""
        self._failing_sinks: set[Sink] = set()
        self._busy_mark = (0, 0.0)
        self._busy_share = 0.0
        self._started = time.monotonic()

    @property
    def model(self) -> Model:
        """The model that runs now."""
        return self.inference.generation.model

    @property
    def task(self) -> Task:
        """Its task."""
        return self.inference.generation.task

    def apply(self, settings: Settings) -> None:
        """Take up changed settings of the model and the display while the run goes on; from any thread.

        Raises:
            ModelError, PoolError: the model cannot be used; everything stays as it was.
        """
        with self._changing:
            model = load_model(settings)
            broken = [name for name, array in model.graph.initializers.items() if not np.isfinite(array).all()]
            if broken:
                raise ModelError(f"{settings.model}: {broken[0]} holds values that are no numbers")
            task, identity = task_for(settings, model.card), identity_of(settings)
            if identity == self._identity and task.max_items == self.task.max_items:
                self.inference.retask(model, task)  # the workers' part stays as it is
            else:
                self.inference.swap(Path(settings.model).name, model, task, self._maker(settings))
            self._identity = identity
            self.settings = settings
            self.set_hud(settings.hud)

    def _maker(self, settings: Settings) -> MakePool:
        """What makes the workers of a model as the settings name it."""
        if self._shared is None:
            return lambda model, items, spare, on_outcome: WorkerPool(
                model, items, self.workers, settings.threads, spare, on_outcome
            )
        return partial(self._shared.share, identity_of(settings))

    @property
    def started(self) -> bool:
        """Workers are ready, and the source was set going; from here on frames come, or there is a reason why not."""
        return self.capture.ident is not None

    def request_stop(self, reason: str) -> None:
        """Ask the run to end; returns at once, from any thread or signal handler (so it takes no lock)."""
        self._stop_reason = self._stop_reason or reason

    def add_sink(self, sink: Sink) -> None:
        """Send predictions, drawn images, or both to `sink`; before the run starts.

        Raises:
            TypeError: it is neither a PredictionSink nor an ImageSink.
        """
        if not isinstance(sink, PredictionSink | ImageSink):
            raise TypeError(f"{type(sink).__name__} is neither a PredictionSink nor an ImageSink")
        if isinstance(sink, PredictionSink):
            self._prediction_sinks.append(sink)
        if isinstance(sink, ImageSink):
            self._image_sinks.append(sink)

    def on_tick(self, call: Callable[[], None]) -> None:
        """Call `call` in every step of the run's waits, about 20 times a second."""
        self._ticks.append(call)

    @property
    def paused(self) -> bool:
        """Whether the image and the predictions are held."""
        return self.capture.paused.is_set()

    def pause(self) -> None:
        """Hold the image and the predictions."""
        self.capture.paused.set()

    def resume(self) -> None:
        """Continue after `pause`."""
        if self.capture.paused.is_set():
            self.capture.paused.clear()
            self.inference.forget()

    def toggle_pause(self) -> None:
        """Pause, or resume if paused."""
        (self.resume if self.paused else self.pause)()

    @property
    def hud_shown(self) -> bool:
        """Whether the statistics are drawn on the image."""
        return self.renderer.show_hud

    def set_hud(self, shown: bool) -> None:
        """Draw the statistics on the image, or leave them out."""
        self.renderer.show_hud = shown

    def run(self, before_stop: Callable[[], None] = lambda: None) -> Summary:
        """Run until the source ends, a limit is reached, something fails, or a stop is requested.

        Raises:
            SinkError: a sink cannot be used as asked.
            PoolError: no worker would start.
        """
        started: list[Sink] = []
        self._started = time.monotonic()
        self.health.start()
        try:
            self.inference.start()
            for sink in dict.fromkeys((*self._prediction_sinks, *self._image_sinks)):
                sink.start()
                started.append(sink)
            if self._image_sinks:
                self.renderer.start()
            if until_ready(self.inference.pool, self._goes_on):
                self.capture.start()
                self._wait()
                before_stop()
        finally:
            self._stop(started)
        code, reason = self._verdict()
        self.ended = reason
        error = self.inference.error or self.inference.pool.error or self.capture.status.error
        return Summary(code, reason, self.stats.balance(), time.monotonic() - self._started, error)

    # -- callbacks of the stages

    def _deliver(self, frame: Frame, trace: Trace) -> None:
        if self._image_sinks and self.source.live:
            self.renderer.offer(frame, trace)
        if self.idle is not None and not self.idle.admits(frame):
            self.stats.dropped(trace, "idle")
            return
        self.inference.offer(frame, trace)

    def _publish(self, result: Result) -> None:
        self._newest = result.prediction, result.trace
        if self.idle is not None:
            self.idle.predicted(result.prediction)
        for sink in self._prediction_sinks:
            try:
                sink.accept(result.prediction, result.frame, result.trace)
            except Exception as error:  # noqa: BLE001 - one sink that fails must not end predictions
                self._complain(sink, error)
        if self._image_sinks:
            if self.source.live:
                self.renderer.predicted(result)
            else:
                self.renderer.put(result)

    def lost(self) -> str:
        """Why there is no image, or ""."""
        status = self.capture.status
        return status.reason if status.state is CaptureState.LOST else ""

    def bounded_step(self) -> str:
        """What holds predictions up within a bound of its own (see `Watchdog`), or ""."""
        if self.started and self.capture.step_seconds() < _SOURCE_STEP:
            if self.capture.paused.is_set():
                return "paused"
            if self.capture.status.state in (CaptureState.OPENING, CaptureState.LOST):
                return "no image: " + (self.lost() or "opening the source")
        return self.inference.pool.bounded_step()

    def hud(self) -> Hud:
        """The figures of this moment."""
        stats = self.stats
        balance = stats.balance()
        return Hud(
            camera_fps=stats.camera.rate(),
            infer_fps=stats.inference.rate(),
            display_fps=stats.display.rate(),
            target_fps=self.settings.target_fps,
            latency_ms={
                stage: stats.latency[stage].at(50, last=60)[0] for stage in stats.latency if stage != "overhead"
            },
            drops={**balance.dropped, **balance.failed},
            workers_busy=self._workers_busy(),
            workers=self.workers,
            restarts=self.inference.restarts,
            source=redacted(self.source.uri),
            model=self.model.card.net,
            paused=self.capture.paused.is_set(),
            idle=self.idle is not None and self.idle.idle,
            slowness="" if self.lost() else self.source.slowness,
            health=self.health.latest,
        )

    def status(self) -> Status:
        """All that can be told of this moment; costs about a millisecond."""
        newest = self._newest
        return Status(
            camera=self.name,
            state=self._state(),
            reason=self.ended or self.lost(),
            figures=self.hud(),
            balance=self.stats.balance(),
            latency_ms={
                stage: self.stats.latency[stage].at(50, 95, 99, last=_STATUS_OVER)  # type: ignore[misc]
                for stage in self.stats.latency
            },
            prediction=newest[0] if newest else None,
            age_s=(time.monotonic_ns() - newest[1].captured) / 1e9 if newest else 0.0,
            task=self.task.name,
            labels=self.model.card.labels,
            size=self.capture.size,
            roi=self.settings.roi,
            uptime_s=time.monotonic() - self._started,
        )

    def _state(self) -> State:
        if self.ended:
            return State.ENDED
        if self.capture.paused.is_set():
            return State.PAUSED
        if self.lost():
            return State.NO_SIGNAL
        return State.RUNNING if self._newest else State.STARTING

    def status_line(self) -> str:
        """The same for a terminal."""
        hud = self.hud()
        drops = sum(hud.drops.values())
        lost = self.lost()
        return (
            f"camera {hud.camera_fps:5.1f}  inference {hud.infer_fps:5.1f} of {hud.target_fps:g} fps  "
            f"latency {hud.latency_ms['total']:.1f} ms  dropped {drops}  workers {hud.workers_busy:.0%} busy"
            + (f"  restarts {hud.restarts}" if hud.restarts else "")
            + (f"  {', '.join(hud.health.alerts)}" if hud.health.alerts else "")
            + ("  idle" if hud.idle else "")
            + (f"  slow camera: {hud.slowness}" if hud.slowness else "")
            + (f"  NO SIGNAL: {lost}" if lost else "")
        )

    def _workers_busy(self) -> float:
        now, busy = time.monotonic_ns(), self.inference.pool.busy_seconds()
        then, was = self._busy_mark
        if now - then > 500_000_000:
            self._busy_mark = (now, busy)
            if then:
                self._busy_share = min(1.0, max(0.0, busy - was) / ((now - then) / 1e9) / self.workers)
        return self._busy_share

    # -- the end

    def _complain(self, sink: Sink, error: Exception) -> None:
        if sink not in self._failing_sinks:
            self._failing_sinks.add(sink)
            log.error("%s failed: %s: %s (said once)", type(sink).__name__, type(error).__name__, error)
            log.debug("traceback", exc_info=error)

    def _goes_on(self) -> bool:
        """Asked in every step of a wait: calls the ticks; False once a stop was asked for."""
        for tick in self._ticks:
            tick()
        return not self._stop_reason

    def _wait(self) -> None:
        deadline = None
        while self._goes_on():
            time.sleep(_TICK)
            if self.inference.pool.error is not None or self.inference.error is not None:
                return
            if self.capture.status.state in (CaptureState.ENDED, CaptureState.FAILED):
                return
            if self.settings.duration is not None and self.stats.balance().captured:
                deadline = deadline or time.monotonic() + self.settings.duration
                if time.monotonic() >= deadline:
                    self._time_is_up = f"--duration {self.settings.duration:g} s are over"
                    return

    def _stop(self, sinks: list[Sink]) -> None:
        """Every step has a bound."""
        self.health.stop()
        self.capture.stop()
        if self.capture.is_alive():
            self.capture.join(_LAST_READ)
        to_the_end = not self._stop_reason and not self.source.live
        drained = self.inference.drain(_DRAIN_FILE if to_the_end else _DRAIN_LIVE)
        if not drained and self._image_sinks:
            self.renderer.stop()  # what publishes may be waiting for it
        self.inference.stop(_DRAIN_LIVE if drained else 0.0)
        if self.capture.is_alive():
            self.capture.join(_JOIN)
            if self.capture.is_alive():
                log.warning("the source did not close within %g s and is left behind", _JOIN)
                register_stuck(self.capture)
        if self._image_sinks:
            self.renderer.stop()
        for sink in reversed(sinks):
            sink.stop()

    def _verdict(self) -> tuple[ExitCode, str]:
        if self.inference.pool.error is not None:
            return ExitCode.INTERNAL, str(self.inference.pool.error)
        if self.inference.error is not None:
            return ExitCode.INTERNAL, f"preparing frames failed: {self.inference.error!r}"
        status = self.capture.status
        if status.state is CaptureState.FAILED:
            denied = isinstance(status.error, SourceDenied)
            return (ExitCode.DENIED if denied else ExitCode.SOURCE_GONE), status.reason
        return ExitCode.OK, self._stop_reason or self._time_is_up or status.reason


def default_workers() -> int:
    """The cores that this process may use, less one for everything else."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def build_source(settings: Settings, model: Model) -> Source:
    """The source, not yet opened. Raises BadSource: making one touches no device, so it is what was written."""
    _, height, width = model.card.input_shape
    options = SourceOptions(
        size=settings.size,
        fps=settings.fps,
        target_fps=settings.target_fps,
        realtime=settings.realtime,
        loop=settings.loop,
        hflip=settings.hflip,
        vflip=settings.vflip,
        rotate=settings.rotate,
        controls=settings.controls,
        # A model's view has room for a crop; tasks that search the image need about this much anyway.
        model_size=(max(320, width), max(240, height)),
    )
    try:
        return create_source(settings.source, options)
    except PermanentSourceError as error:
        raise BadSource(str(error)) from error
