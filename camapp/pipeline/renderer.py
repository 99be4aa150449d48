"""Draws the newest prediction on each camera frame, at camera rate, for all sinks that show images."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.keys import Keys
from camapp.core.log_once import LogOnce
from camapp.core.mailbox import Mailbox
from camapp.core.predictions import Prediction
from camapp.core.stats import Stats
from camapp.core.status import Hud
from camapp.overlay.no_signal import no_signal
from camapp.overlay.overlay import Overlay
from camapp.pipeline.inference import Result
from camapp.sinks.sink import ImageSink, guarded

log = logging.getLogger(__name__)

_TICK = 0.05
# Interval in seconds at which NO SIGNAL, or the image of a pause, is redrawn without new frames.
_IDLE_EVERY = 0.4
# Interval at which the statistics are refreshed: percentiles cost more than drawing.
_REFRESH_EVERY_NS = 200_000_000
# Number of drawn frames for which a sink may still report that they are on the screen.
_RECENT = 32


class Renderer:
    """Draws images in one thread and sends them to the image sinks.

    Live frames come from the capture thread and are drawn with the newest prediction, dimmed if it is old. Frames of a
    file come with their own result.

    Args:
        lost: returns why the source is lost, or "".
        ended: returns whether the last image of a file stays.
        knows: returns what the model knows.
        default_size: size of the NO SIGNAL image before the first frame.

    Attributes:
        show_hud: whether the statistics are drawn.
        keys: keys of the window to list on the image.
    """

    def __init__(
        self,
        stats: Stats,
        sinks: list[ImageSink],
        hud: Callable[[], Hud],
        lost: Callable[[], str],
        paused: threading.Event,
        ended: Callable[[], bool],
        knows: Callable[[], str],
        default_size: tuple[int, int] = (1280, 720),
    ) -> None:
        self.show_hud = True
        self.keys: Keys = ()
        self._stats = stats
        self._sinks = sinks
        self._make_hud = hud
        self._lost = lost
        self._paused = paused
        self._ended = ended
        self._knows = knows
        self._size = default_size
        self._overlay = Overlay()
        self._mailbox: Mailbox[tuple[Frame, Trace, Prediction | None]] = Mailbox()
        self._newest: tuple[Prediction, Trace] | None = None
        self._recent: OrderedDict[int, Trace] = OrderedDict()
        self._hud: Hud | None = None
        self._stale_after_ms = 0.0
        self._refreshed_at = 0
        self._log_once = LogOnce(log)
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._draw_all, name="render", daemon=True)

    def start(self) -> None:
        """Start drawing."""
        self._thread.start()

    def offer(self, frame: Frame, trace: Trace) -> None:
        """Draw a live frame; replaces one that is not drawn yet."""
        self._mailbox.replace((frame, trace, None))

    def predicted(self, result: Result) -> None:
        """Draw this prediction on the next live frames."""
        self._newest = (result.prediction, result.trace)

    def put(self, result: Result) -> None:
        """Draw a frame of a file with its own prediction; waits until the frame before is being drawn."""
        item = (result.frame, result.trace, result.prediction)
        while not self._mailbox.put(item, _TICK) and not self._stop_event.is_set():
            pass

    def shown(self, seq: int, t_ns: int) -> None:
        """Count a frame as shown; called by a sink with the time in nanoseconds at which it was on the screen."""
        trace = self._recent.get(seq)
        if trace is not None and not trace.shown:
            self._stats.shown(trace, t_ns)

    def stop(self, timeout: float = 1.0) -> None:
        """Draw the waiting frame, then end the thread."""
        self._stop_event.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _draw_all(self) -> None:
        item = None
        drawn_at = time.monotonic()
        lost_since = 0.0
        while True:
            fresh = self._mailbox.get(0.0 if self._stop_event.is_set() else _TICK)
            now = time.monotonic()
            if fresh is None and self._stop_event.is_set():
                return
            try:
                if fresh is not None:
                    item, drawn_at, lost_since = fresh, now, 0.0
                    self._draw(*item)
                elif now - drawn_at > _IDLE_EVERY:
                    drawn_at = now
                    reason = self._lost()
                    if reason:
                        lost_since = lost_since or now
                        self._show(no_signal(self._size, reason, now - lost_since), None)
                    elif item is not None and (self._paused.is_set() or self._ended()):
                        self._draw(*item, again=True)
            except Exception as error:  # noqa: BLE001 - a failing preview must not end predictions
                reason = f"{type(error).__name__}: {error}"
                self._log_once(logging.ERROR, "", "drawing the preview failed: %s (logged once)", reason, error=error)

    def _draw(self, frame: Frame, trace: Trace, prediction: Prediction | None, again: bool = False) -> None:
        if not any(sink.wanted() for sink in self._sinks):
            return
        # A copy, since the model may still crop from these pixels, and a device may own them.
        canvas = frame.view.bgr().copy()
        self._size = frame.view.size
        self._show_raw(canvas, trace)
        now = time.monotonic_ns()
        age_ms = 0.0
        is_own = prediction is not None
        if prediction is None and self._newest is not None:
            prediction, predicted = self._newest
            # Of an image that stays, it does not grow old.
            age_ms = max(0, (trace.captured if again else now) - predicted.captured) / 1e6
        self._refresh(now)
        stale = age_ms > self._stale_after_ms
        truth = frame.shot.truth.label if frame.shot.truth else ""
        self._overlay.draw(
            *(canvas, prediction, self._hud_of(truth), age_ms, stale, self._paused.is_set(), truth),
            exact=is_own,
            keys=self.keys,
            knows=self._knows(),
        )
        self._show(canvas, trace)

    def _show_raw(self, canvas: Pixels, trace: Trace) -> None:
        if sinks := [sink for sink in self._sinks if sink.wants_raw and sink.wanted()]:
            image = canvas.copy()
            for sink in sinks:
                guarded(self._log_once, sink, sink.show_raw, image, trace)

    def _refresh(self, now: int) -> None:
        """Update the statistics if it is time."""
        if now - self._refreshed_at > _REFRESH_EVERY_NS:
            self._refreshed_at = now
            if self._ended() and self._hud is not None:
                # The rates of a film that has ended would fall to 0, and alarm.
                self._hud = replace(self._hud, ended=True)
                return
            self._hud = self._make_hud()
            self._stale_after_ms = self._stats.stale_after_ms()

    def _hud_of(self, truth: str) -> Hud | None:
        if not self.show_hud or self._hud is None:
            return None
        return replace(self._hud, truth=truth) if truth != self._hud.truth else self._hud

    def _show(self, canvas: Pixels, trace: Trace | None) -> None:
        if trace is not None:
            self._recent[trace.seq] = trace
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        for sink in self._sinks:
            guarded(self._log_once, sink, sink.show, canvas, trace)
        if trace is not None and not any(sink.reports_shown for sink in self._sinks):
            self.shown(trace.seq, time.monotonic_ns())
