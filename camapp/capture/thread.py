"""Reads a source in a thread: opens it, numbers its frames, and opens it again after a loss."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from camapp.capture.orientation import Orientation
from camapp.capture.retry import BackOff, LossLog, ReadLimit
from camapp.capture.source import EndOfStream, Source, redacted
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceError, SourceLost
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.stats import Stats

log = logging.getLogger(__name__)

# Seconds to retry a live source that never opened.
FIRST_OPEN_S = 10.0

# Longest time that a source opens or closes unless --open-timeout says more, or that a retry waits; and what the
# machine's load may add.
_LONGEST_STEP_S, _MARGIN_S = 30.0, 5.0
# Reason of the end of a file or folder.
_END = "end of stream"


class CaptureState(Enum):
    """Names what the capture thread is doing."""

    OPENING = "opening"
    RUNNING = "running"
    LOST = "lost"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True)
class CaptureStatus:
    """Holds the state, its reason in words, and the error that ended the run, if any."""

    state: CaptureState
    reason: str = ""
    error: SourceError | None = None


class Receiver:
    """Counts the frames of a capture thread, and passes them on.

    Args:
        deliver: called with each frame and its trace; may block if every frame counts.
        on_recovered: called when a lost source is back.

    Attributes:
        paused: frames are counted as dropped, and not passed on.
        lock: held while a frame is passed on.
        closed: no further frames are taken.
    """

    def __init__(
        self, stats: Stats, deliver: Callable[[Frame, Trace], None], on_recovered: Callable[[], None] = lambda: None
    ) -> None:
        self.stats = stats
        self.on_recovered = on_recovered
        self.paused = threading.Event()
        self.lock = threading.Lock()
        self.closed = False
        self._deliver = deliver

    def take(self, frame: Frame, regular: bool, stepping: bool) -> None:
        """Count a frame and pass it on, also if paused while `stepping`; `regular` as of the source."""
        with self.lock:
            if self.closed:
                return
            trace = self.stats.captured(frame.seq, frame.shot.sensor_ns, regular)
            if self.paused.is_set() and not stepping:
                self.stats.dropped(trace, "paused")
            else:
                self._deliver(frame, trace)


class CaptureThread(threading.Thread):
    """Reads a source until it ends, fails for good, or `stop` is set.

    Args:
        source: not yet opened; used by this thread only.
        stats: as well as `deliver` and `on_recovered` of its first receiver.
        reconnect_s: seconds to retry a lost live source.
        first_open_s: seconds to retry a live source that never opened, at most `reconnect_s`: it is more likely a
            wrong name than a loose cable.

    Attributes:
        receivers: each takes every frame; more may be added before `start`.
        read_limit: the present time to wait for a frame; may be replaced before `start`.
        size: (width, height) of the newest frame, None before the first.
        gives_up: whether to fail once a live source was lost for too long; may be replaced before `start`.
    """

    def __init__(
        self,
        source: Source,
        stats: Stats,
        deliver: Callable[[Frame, Trace], None],
        reconnect_s: float = 60.0,
        max_frames: int | None = None,
        on_recovered: Callable[[], None] = lambda: None,
        first_open_s: float = FIRST_OPEN_S,
    ) -> None:
        super().__init__(name="capture", daemon=True)
        self.source = source
        self.status = CaptureStatus(CaptureState.OPENING)
        self.receivers = [Receiver(stats, deliver, on_recovered)]
        self.paused = self.receivers[0].paused
        self.size: tuple[int, int] | None = None
        self.gives_up: Callable[[], bool] = lambda: True
        self._step_began = time.monotonic()
        self._first_open_s = min(reconnect_s, first_open_s)
        self.read_limit = ReadLimit(source.options.read_timeout, source.options.fps)
        self._reconnect_s = reconnect_s
        self._max_frames = max_frames
        self._stop_event = source.stopping = threading.Event()
        self._step_wanted = threading.Event()
        self._seq = 0
        self._silent_since = self._running_since = 0.0
        self._back_off = BackOff()
        self._loss_log = LossLog()

    def stop(self) -> None:
        """Request the thread to end after its present read."""
        self._stop_event.set()

    def step(self) -> None:
        """Let one frame pass during a pause."""
        self._step_wanted.set()

    @property
    def at_end(self) -> bool:
        """Whether a file or folder was read to its end."""
        return self.status.state is CaptureState.ENDED and self.status.reason == _END

    def is_within_limits(self) -> bool:
        """Return whether the present step (open, read, close, wait) began no longer ago than it may take."""
        limit = max(_LONGEST_STEP_S, self.source.options.open_timeout or 0.0, self.read_limit.seconds()) + _MARGIN_S
        return time.monotonic() - self._step_began < limit

    def run(self) -> None:  # noqa: D102
        self._silent_since = time.monotonic()
        try:
            while not self._stop_event.is_set():
                try:
                    self._step()
                    self.source.open()
                    self._read_all()
                    return
                except SourceLost as error:
                    wait = self._lost(error)
                finally:
                    self._step()
                    self.source.close()
                self._step()
                self._stop_event.wait(wait)
        except EndOfStream as end:
            self.status = CaptureStatus(CaptureState.ENDED, str(end) or _END)
        except SourceError as error:
            self.status = CaptureStatus(CaptureState.FAILED, str(error), error)
        except Exception as error:
            log.debug("capture failed", exc_info=True)
            reason = f"{redacted(self.source.uri)}: {type(error).__name__}: {error}"
            self.status = CaptureStatus(CaptureState.FAILED, reason, PermanentSourceError(reason))
        finally:
            if self.status.state not in (CaptureState.ENDED, CaptureState.FAILED):
                self.status = CaptureStatus(CaptureState.ENDED, "stopped")

    def _step(self) -> None:
        self._step_began = time.monotonic()

    def _read_all(self) -> None:
        orientation = Orientation(*self.source.remaining_orientation)
        waited = False
        while not self._stop_event.is_set():
            self._step()
            paused = any(receiver.paused.is_set() for receiver in self.receivers)
            if paused and (self.source.finite or not self.source.live) and not self._step_wanted.is_set():
                waited = True
                self._stop_event.wait(0.05)
                continue
            if waited:
                waited = False
                self.source.resume()
            shot = self.source.read(self.read_limit.seconds())
            now = time.monotonic()
            if self.status.state is not CaptureState.RUNNING:
                if self.status.state is CaptureState.LOST:
                    self._loss_log.back(self.source.describe(), now)
                    for receiver in self.receivers:
                        receiver.on_recovered()
                self.status = CaptureStatus(CaptureState.RUNNING)
                self._running_since = now
            self._silent_since = now
            self.read_limit.arrived(now)
            self._add(orientation.shot(shot))
            if self._max_frames is not None and self._seq >= self._max_frames:
                raise EndOfStream(f"--max-frames {self._max_frames} reached")

    def _add(self, shot: Shot) -> None:
        frame = Frame(self._seq, shot)
        self.size = shot.view.size
        self._seq += 1
        stepping = self._step_wanted.is_set()
        self._step_wanted.clear()
        for receiver in self.receivers:
            receiver.take(frame, self.source.regular, stepping)

    def _lost(self, error: SourceLost) -> float:
        """Note the loss; return the seconds to the next attempt. Raises PermanentSourceError if it lasts too long."""
        now = time.monotonic()
        silent = now - self._silent_since
        limit = self._reconnect_s if self._seq else self._first_open_s
        if not self.source.live or (silent > limit and self.gives_up()):
            raise PermanentSourceError(f"{error} (gave up after {silent:.0f} s)" if self.source.live else str(error))
        healthy = 0.0
        if self.status.state is CaptureState.RUNNING:
            healthy = self._silent_since - self._running_since
            self.read_limit.lost(healthy)
        self._loss_log.lost(str(error), now)
        for receiver in self.receivers:
            receiver.stats.source_lost()
        self.status = CaptureStatus(CaptureState.LOST, str(error))
        # One more attempt is made when the time is over.
        wait = self._back_off.after_loss(healthy, absent=isinstance(error, SourceAbsent))
        return min(wait, limit - silent) if silent < limit else wait
