"""The capture thread: opens a source, numbers its frames, and opens it again when it was lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from camapp.capture.orientation import Orientation
from camapp.capture.source import EndOfStream, Source, redacted
from camapp.core.errors import PermanentSourceError, SourceError, SourceLost
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.stats import Stats

log = logging.getLogger(__name__)

READ_TIMEOUT = 1.5
# A source that never opened is more likely a wrong name than a loose cable.
FIRST_OPEN_PATIENCE = 10.0
BACK_OFF_START, BACK_OFF_MOST = 0.1, 1.0


class CaptureState(Enum):
    """What the capture thread is doing."""

    OPENING = "opening"
    RUNNING = "running"
    LOST = "lost"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True)
class CaptureStatus:
    """State with its reason in words, and the error that ended the run, if one did."""

    state: CaptureState
    reason: str = ""
    error: SourceError | None = None


class CaptureThread(threading.Thread):
    """Reads a source until it ends, fails for good, or `stop` is set.

    Args:
        source: not yet opened; this thread alone touches it.
        stats: where frames are accounted.
        deliver: called with each frame and its trace; may block, for sources whose every frame counts.
        patience: seconds for which a lost live source is retried.
        max_frames: end after so many.
        on_back: called when a source that was lost gives images again.
        first_patience: seconds for which a live source that never opened is retried; None: at most 10.

    Attributes:
        size: (width, height) of the newest frame, None before the first.
    """

    def __init__(
        self,
        source: Source,
        stats: Stats,
        deliver: Callable[[Frame, Trace], None],
        patience: float = 60.0,
        max_frames: int | None = None,
        on_back: Callable[[], None] = lambda: None,
        first_patience: float | None = None,
    ) -> None:
        super().__init__(name="capture", daemon=True)
        self.source = source
        self.status = CaptureStatus(CaptureState.OPENING)
        self.paused = threading.Event()
        self.size: tuple[int, int] | None = None
        self._step_began = time.monotonic()
        self._stats = stats
        self._deliver = deliver
        self._first_patience = min(patience, FIRST_OPEN_PATIENCE) if first_patience is None else first_patience
        self._patience = patience
        self._max_frames = max_frames
        self._on_back = on_back
        self._stop_event = threading.Event()
        self._seq = 0
        self._silent_since = 0.0

    def stop(self) -> None:
        """Ask the thread to end after the read that it is in."""
        self._stop_event.set()

    def step_seconds(self) -> float:
        """How long its present step (an open, a read, a close, a wait) has taken; each is bounded when all is well."""
        return time.monotonic() - self._step_began

    def run(self) -> None:  # noqa: D102
        self._silent_since = time.monotonic()
        back_off = BACK_OFF_START
        try:
            while not self._stop_event.is_set():
                try:
                    self._step()
                    self.source.open()
                    self._read_all()
                    return
                except SourceLost as error:
                    if self.status.state is CaptureState.RUNNING:
                        back_off = BACK_OFF_START
                    self._lost(error)
                finally:
                    self._step()
                    self.source.close()
                self._step()
                self._stop_event.wait(back_off)
                back_off = min(2 * back_off, BACK_OFF_MOST)
        except EndOfStream as end:
            self._end(CaptureStatus(CaptureState.ENDED, str(end) or "end of stream"))
        except SourceError as error:
            self._end(CaptureStatus(CaptureState.FAILED, str(error), error))
        except Exception as error:
            log.debug("capture failed", exc_info=True)
            reason = f"{redacted(self.source.uri)}: {type(error).__name__}: {error}"
            self._end(CaptureStatus(CaptureState.FAILED, reason, PermanentSourceError(reason)))
        finally:
            if self.status.state not in (CaptureState.ENDED, CaptureState.FAILED):
                self._end(CaptureStatus(CaptureState.ENDED, "stopped"))

    def _step(self) -> None:
        self._step_began = time.monotonic()

    def _end(self, status: CaptureStatus) -> None:
        self.status = status

    def _read_all(self) -> None:
        orientation = Orientation(*self.source.remaining_orientation)
        while not self._stop_event.is_set():
            self._step()
            if self.paused.is_set() and not self.source.live:
                self._stop_event.wait(0.05)
                continue
            shot = self.source.read(READ_TIMEOUT)
            if self.status.state is not CaptureState.RUNNING:
                if self.status.state is CaptureState.LOST:
                    log.warning("source is back: %s", self.source.describe())
                    self._on_back()
                self.status = CaptureStatus(CaptureState.RUNNING)
            self._silent_since = time.monotonic()
            self._enter(orientation.shot(shot))
            if self._max_frames is not None and self._seq >= self._max_frames:
                raise EndOfStream(f"--max-frames {self._max_frames} reached")

    def _enter(self, shot: Shot) -> None:
        trace = self._stats.captured(self._seq, shot.sensor_ns)
        frame = Frame(self._seq, shot)
        self.size = shot.view.size
        self._seq += 1
        if self.paused.is_set():
            self._stats.dropped(trace, "paused")
        else:
            self._deliver(frame, trace)

    def _lost(self, error: SourceLost) -> None:
        """Note the loss; raises the error when patience is at its end."""
        silent = time.monotonic() - self._silent_since
        patience = self._patience if self._seq else self._first_patience
        if not self.source.live or silent > patience:
            raise PermanentSourceError(f"{error} (gave up after {silent:.0f} s)" if self.source.live else str(error))
        if self.status.state is not CaptureState.LOST or self.status.reason != str(error):
            log.warning("no image: %s; trying again", error)
        self._stats.source_lost()
        self.status = CaptureStatus(CaptureState.LOST, str(error))
