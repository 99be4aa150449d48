"""Constructs the stages of one camera's run, starts them in order and stops them in reverse."""

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

from camapp.capture.shared import SharedCapture
from camapp.capture.source import Source, build_source
from camapp.capture.thread import FIRST_OPEN_S, CaptureState, CaptureThread
from camapp.core.errors import ExitCode, SourceDenied
from camapp.core.frames import Frame, Trace
from camapp.core.log_once import LogOnce
from camapp.core.settings import Settings
from camapp.core.stats import Balance, Stats
from camapp.core.status import Status
from camapp.core.timeouts import register_stuck
from camapp.pipeline.idle_gate import IdleGate
from camapp.pipeline.inference import Inference, Result
from camapp.pipeline.model_swap import load_for_workers, until_ready
from camapp.pipeline.renderer import Renderer
from camapp.pipeline.status_reporter import StatusReporter
from camapp.sinks.sink import ImageSink, PredictionSink, Sink, guarded
from camapp.system.health import HealthMonitor
from camapp.tasks.collect import LabelBoard
from camapp.tasks.task import Task
from camapp.workers.shared_pool import SharedWorkers
from engine.model import Model

log = logging.getLogger(__name__)

_TICK = 0.05
# Limits of the steps of a stop, in seconds.
_LAST_READ, _DRAIN_LIVE, DRAIN_FILE, _JOIN = 0.2, 0.5, 30.0, 0.6


@dataclass(frozen=True)
class Summary:
    """Describes how a run ended.

    Attributes:
        error: what caused the failure, if one did.
    """

    code: ExitCode
    reason: str
    balance: Balance
    seconds: float
    error: Exception | None = None


class Pipeline:
    """Runs one source and one model, and sends the results to the sinks.

    Args:
        workers: number of worker processes; 0 takes it from the settings.
        shared: workers that it shares with other cameras; None gives it its own.
        images: reads the source for it and the other regions of the same camera; None if it has no others.
        first_open_s: seconds to retry a live source that never opened, at most `settings.reconnect`.
        drain_file_s: limit in seconds for the last frames of a file to be predicted.
        watched: a person looks at it in a window: a film has its own pace; see `stay_at_end`.

    Attributes:
        board: labels to collect images of; None in any other run.
        capture: the thread that reads the source, perhaps for other regions, too.

    Raises:
        BadModel, SourceError: the model or the source cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model | None = None,
        *,
        source: Source | type[Source] | None = None,
        task: type[Task] | None = None,
        workers: int = 0,
        shared: SharedWorkers | None = None,
        images: SharedCapture | None = None,
        health: HealthMonitor | None = None,
        first_open_s: float = FIRST_OPEN_S,
        drain_file_s: float = DRAIN_FILE,
        watched: bool = False,
    ) -> None:
        # The stages run in parallel already, and the workers use the other cores: OpenCV's own threads would only
        # busy-wait for them (measured: 11.1 ms of CPU per frame against 9.4, and a 95th percentile of prepare of 8 ms
        # against 2).
        cv2.setNumThreads(1)
        self.settings = settings
        self.name = settings.name
        self.board: LabelBoard | None = None
        self.stats = Stats()
        self.workers = shared.workers if shared else workers or settings.workers or default_workers()
        self._load = partial(load_for_workers, workers=self.workers, shared=shared, own_task=task)
        first = self._load(settings, model)
        if not first.task.infers:
            self.workers = 0
        self.source = (images.source if images else None) or build_source(settings, first.model, source, watched)
        if learned := self.source.learned:
            first.task.recall(learned)
        self._prediction_sinks: list[PredictionSink] = []
        self._image_sinks: list[ImageSink] = []
        self.inference = Inference(first, self.stats, self.source.live, self.workers + 1, self._publish)
        self._share = (images or SharedCapture(1)).share(
            self.source,
            self.stats,
            self._deliver,
            settings.reconnect,
            settings.max_frames,
            self.inference.forget,
            first_open_s,
        )
        self.capture = self._share.thread
        self.idle = IdleGate(settings.idle_fps, settings.idle_after) if settings.idle_fps and self.source.live else None
        self.health = health or HealthMonitor()
        self.ended = ""
        self.reporter = StatusReporter(self)
        self.renderer = Renderer(
            self.stats,
            self._image_sinks,
            self.reporter.hud,
            self.reporter.lost,
            self._share.paused,
            lambda: self.capture.at_end,
            lambda: self.inference.loaded.knows,
            settings.size or (1280, 720),
        )
        self.set_hud(settings.hud)
        self._drain_file_s = drain_file_s
        self._ticks: list[Callable[[], None]] = []
        self._stays_at_end: Callable[[], bool] = lambda: False
        self._changing = threading.Lock()
        self._stop_reason = ""
        self._time_is_up = ""
        self._log_once = LogOnce(log)

    @property
    def model(self) -> Model:
        """The model in use."""
        return self.inference.loaded.model

    @property
    def task(self) -> Task:
        """The task of the model in use."""
        return self.inference.loaded.task

    @property
    def model_name(self) -> str:
        """Name of the model, or of its file without the suffix: exporters to ONNX give all nets one name."""
        return Path(self.settings.model).stem

    @property
    def started(self) -> bool:
        """Whether the workers are ready and the capture thread was started."""
        return self.capture.ident is not None

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return bool(self._stop_reason)

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

    def stay_at_end(self, while_: Callable[[], bool]) -> None:
        """At the end of a file, keep its last picture as long as `while_()` is True."""
        self._stays_at_end = while_

    @property
    def paused(self) -> bool:
        """Whether the image and the predictions are held."""
        return self._share.paused.is_set()

    def pause(self) -> None:
        """Hold the image and the predictions."""
        self._share.paused.set()

    def resume(self) -> None:
        """Continue after `pause`."""
        if self.paused:
            self._share.paused.clear()
            self.inference.forget()

    def toggle_pause(self) -> None:
        """Pause, or resume if paused."""
        (self.resume if self.paused else self.pause)()

    def step(self) -> None:
        """Let one frame pass if paused, else pause."""
        if self.paused:
            self.capture.step()
        else:
            self.pause()

    @property
    def hud_shown(self) -> bool:
        """Whether the statistics are drawn on the image."""
        return self.renderer.show_hud

    def set_hud(self, shown: bool) -> None:
        """Draw the statistics on the image, or leave them out."""
        self.renderer.show_hud = shown

    def status(self) -> Status:
        """Return the state, counts and rates of this moment; costs about a millisecond."""
        return self.reporter.status()

    def apply(self, change: Callable[[Settings], Settings]) -> None:
        """Apply changed settings of the model and the display during the run; from any thread.

        Args:
            change: makes the new settings from the present ones, which another thread may just have changed.

        Raises:
            BadModel, PoolError: the model cannot be used; nothing has changed.
        """
        with self._changing:
            settings = change(self.settings)
            self.inference.apply(self._load(settings))
            self.settings = settings
            self.set_hud(settings.hud)

    def request_stop(self, reason: str) -> None:
        """Request the end of the run and return at once; for any thread or signal handler, so it takes no lock."""
        self._stop_reason = self._stop_reason or reason

    def run(self, before_stop: Callable[[], None] = lambda: None) -> Summary:
        """Run until the source ends, a limit is reached, something fails, or a stop is requested.

        Args:
            before_stop: called when the run is about to stop.

        Raises:
            SinkError: a sink cannot be used as requested.
            PoolError: no worker has started.
        """
        started: list[Sink] = []
        self.reporter.restart_clock()
        self.health.start()
        try:
            self.inference.start()
            # By identity: a sink that is a dataclass has no hash.
            for sink in {id(sink): sink for sink in (*self._prediction_sinks, *self._image_sinks)}.values():
                sink.start()
                started.append(sink)
            if self._image_sinks:
                self.renderer.start()
            if until_ready(self.inference.pool, self._tick):
                self._share.start()
                self._wait()
                before_stop()
        finally:
            self._stop(started)
        code, self.ended = exit_reason(self.inference, self.capture, self._stop_reason or self._time_is_up)
        error = self.inference.error or self.inference.pool.error or self.capture.status.error
        return Summary(code, self.ended, self.stats.balance(), self.reporter.uptime_s(), error)

    # -- called by the stages, in their threads

    def _deliver(self, frame: Frame, trace: Trace) -> None:
        if self._image_sinks and self.source.live:
            self.renderer.offer(frame, trace)
        if self.idle is not None and not self.idle.admits(frame):
            self.stats.dropped(trace, "idle")
            return
        self.inference.offer(frame, trace)

    def _publish(self, result: Result) -> None:
        self.reporter.predicted(result)
        if self._image_sinks and self.source.live:
            # Before the sinks: one of them may request the next image for what this prediction shows.
            self.renderer.predicted(result)
        if self.idle is not None:
            self.idle.predicted(result.prediction)
        for sink in self._prediction_sinks:
            guarded(self._log_once, sink, sink.accept, result.prediction, result.frame, result.trace)
        if self._image_sinks and not self.source.live:
            self.renderer.put(result)

    # -- the end of the run

    def _tick(self) -> bool:
        """Make one step of a wait: call the ticks; return False after a stop was requested."""
        for tick in self._ticks:
            tick()
        return not self._stop_reason

    def _wait(self) -> None:
        deadline = None
        while self._tick():
            time.sleep(_TICK)
            if self.inference.pool.error is not None or self.inference.error is not None:
                return
            if self.capture.status.state in (CaptureState.ENDED, CaptureState.FAILED) and not (
                self.capture.at_end and self._stays_at_end()
            ):
                return
            if self.settings.duration is not None and self.stats.balance().captured:
                deadline = deadline or time.monotonic() + self.settings.duration
                if time.monotonic() >= deadline:
                    self._time_is_up = f"--duration {self.settings.duration:g} s are over"
                    return

    def _stop(self, sinks: list[Sink]) -> None:
        """Stop the stages in reverse; every step has a time limit."""
        self.health.stop()
        self._share.stop()
        if self._share.is_alive():
            self._share.join(_LAST_READ)
        drained = not self.source.live and self.inference.drain(self._drain_file_s, lambda: not self._stop_reason)
        drained = drained or self.inference.drain(_DRAIN_LIVE)
        if not drained and self._image_sinks:
            # Publishing may be waiting for it.
            self.renderer.stop()
        self.inference.stop(_DRAIN_LIVE if drained else 0.0)
        if self._share.is_alive():
            self._share.join(_JOIN)
            if self._share.is_alive():
                log.warning("the source did not close within %g s and is abandoned", _JOIN)
                register_stuck(self.capture)
        if self._image_sinks:
            self.renderer.stop()
        for sink in reversed(sinks):
            guarded(self._log_once, sink, sink.stop)


def exit_reason(inference: Inference, capture: CaptureThread, stop_reason: str) -> tuple[ExitCode, str]:
    """Return the exit code of an ended run, and why it ended.

    Args:
        stop_reason: of a requested stop or a limit; "" if neither ended the run.
    """
    if inference.pool.error is not None:
        return ExitCode.INTERNAL, str(inference.pool.error)
    if inference.error is not None:
        return ExitCode.INTERNAL, f"preparing frames failed: {inference.error!r}"
    status = capture.status
    if status.state is CaptureState.FAILED:
        denied = isinstance(status.error, SourceDenied)
        return (ExitCode.DENIED if denied else ExitCode.SOURCE_GONE), status.reason
    return ExitCode.OK, stop_reason or status.reason


def default_workers() -> int:
    """Return the number of cores that this process may use, less one for everything else."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
