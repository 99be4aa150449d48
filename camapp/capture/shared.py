"""Shares one capture thread among the pipelines of a camera: one, or one for each region of its images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from camapp.capture.source import Source
from camapp.capture.thread import CaptureThread, Receiver
from camapp.core.frames import Frame, Trace
from camapp.core.stats import Stats


class SharedCapture:
    """Reads one source for `members` pipelines; it begins once all have started, so that all see every frame.

    Attributes:
        source: of the first member; None before it has joined.
    """

    def __init__(self, members: int) -> None:
        self.source: Source | None = None
        self._thread: CaptureThread | None = None
        self._awaited = members
        self._open = members
        self._lock = threading.Lock()

    def share(
        self,
        source: Source,
        stats: Stats,
        deliver: Callable[[Frame, Trace], None],
        reconnect_s: float,
        max_frames: int | None,
        on_recovered: Callable[[], None],
        first_open_s: float,
    ) -> CaptureShare:
        """Return the share of one more member; the arguments are those of `CaptureThread`."""
        if self._thread is None:
            self.source = source
            self._thread = CaptureThread(
                source, stats, deliver, reconnect_s, max_frames, on_recovered, first_open_s=first_open_s
            )
        else:
            self._thread.receivers.append(Receiver(stats, deliver, on_recovered))
        return CaptureShare(self, self._thread, self._thread.receivers[-1])

    def enter(self) -> None:
        """Count a member that has started, or that has left without: the last one starts the thread."""
        with self._lock:
            self._awaited -= 1
            begins = not self._awaited and self._open
        if begins and self._thread is not None:
            self._thread.start()

    def leave(self) -> bool:
        """Count a member that takes no more frames; return whether it was the last."""
        with self._lock:
            self._open -= 1
            return not self._open


class CaptureShare:
    """One member's share of a capture thread; made by `SharedCapture.share`.

    Attributes:
        thread: that reads the source.
        paused: the member's frames are counted as dropped.
    """

    def __init__(self, group: SharedCapture, thread: CaptureThread, receiver: Receiver) -> None:
        self.thread = thread
        self.paused = receiver.paused
        self._group = group
        self._receiver = receiver
        self._has_entered = self._has_left = self._is_last = False

    def start(self) -> None:
        """Begin to read once all members have started."""
        self._has_entered = True
        self._group.enter()

    def stop(self) -> None:
        """Take no more frames; the last member ends the thread after its present read."""
        self._receiver.closed = True
        if self._has_left:
            return
        self._has_left = True
        self._is_last = self._group.leave()
        if not self._has_entered:
            self._group.enter()
        if self._is_last:
            self.thread.stop()

    def is_alive(self) -> bool:
        """Return whether a frame is still being delivered to this member, or the thread that it has ended runs."""
        return self._receiver.lock.locked() or (self._is_last and self.thread.is_alive())

    def join(self, timeout: float) -> None:
        """Wait until that is over, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        if self._receiver.lock.acquire(timeout=timeout):
            self._receiver.lock.release()
        if self._is_last and self.thread.is_alive():
            self.thread.join(max(0.0, deadline - time.monotonic()))
