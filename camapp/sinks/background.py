"""A sink that does its work in a thread, with a bounded queue between the pipeline and that thread."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections import deque
from typing import Generic, TypeVar

from camapp.core.timeouts import register_stuck
from camapp.sinks.sink import Sink

log = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundSink(Sink, Generic[T]):
    """Queues items with `put` and calls `_handle` with one at a time in a daemon thread.

    A full queue or a failure costs items, never the run. `stop` handles what is queued, within a bound.

    Args:
        name: of the thread.
        capacity: maximum number of queued items.
        stop_s: longest wait of `stop`.
        newest: a full queue drops its oldest item instead of the new one.
        blocking: `put` waits for room (for files, whose frames can wait).
        wait_s: longest wait of a blocking `put`; None for no limit.
        tick_s: seconds without an item after which `_idle` is called; None for never.
        linger_s: how long items collect before the thread wakes, unless the queue is half full earlier.

    Attributes:
        stopping: set when `stop` begins.
        lost: number of items lost.
        reason: why the last one was lost, for those that `lose` counted.
        closed: set by `close`, and once the thread has ended.
    """

    def __init__(
        self, name: str, capacity: int, stop_s: float = 2.0, *, newest: bool = False, blocking: bool = False,
        wait_s: float | None = None, tick_s: float | None = None, linger_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.stopping = threading.Event()
        self.lost = 0
        self.reason = ""
        self._capacity, self._newest = capacity, newest
        self._blocking, self._wait_s = blocking, wait_s
        self._stop_s, self._tick_s, self._linger_s = stop_s, tick_s, linger_s
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self.closed = self._stuck = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def pending(self) -> int:
        """Number of queued items."""
        return len(self._items)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Handle what is queued and end the thread."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self.running:
            self._thread.join(self._stop_s)
            if self.running:
                # OpenCV's encoders are C++: Python's shutdown would abort the process while the thread is in one.
                register_stuck(self._thread)

    def put(self, item: T) -> bool:
        """Queue an item; return False if it, or with `newest` the oldest one, was dropped for lack of room.

        A blocking call does not wait while `_handle` fails, nor after a wait in vain (without `newest`), until an item
        was taken.
        """
        with self._changed:
            if self._blocking:
                self._changed.wait_for(self._need_not_wait, self._wait_s)
            full = self.pending >= self._capacity
            self._stuck |= full and not self._newest
            if self.closed or self.stopping.is_set() or (full and not self._newest):
                return False
            if full:
                self._items.popleft()
            self._items.append(item)
            if self.pending in (1, self._capacity // 2):
                self._changed.notify_all()
            return not full

    def requeue(self, item: T) -> None:
        """Queue an item that could not be handled as the oldest one; it is lost if there is no room."""
        with self._changed:
            self._stuck = True
            self._changed.notify_all()
            if self.pending < self._capacity:
                self._items.appendleft(item)
            else:
                self.lost += 1

    def lose(self, reason: str) -> bool:
        """Count a loss; return whether to log it.

        Only the 1st, 2nd, 4th, 8th ... is logged, so that a disk that stays full for weeks does not fill the journal.
        """
        self.lost += 1
        self.reason = reason
        return self.lost & (self.lost - 1) == 0

    def close(self) -> None:
        """End the thread once `_handle` returns; queued items stay pending, further ones are refused."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    @abstractmethod
    def _handle(self, item: T) -> None:
        """Handle an item, in the thread; an unexpected error costs this item."""

    def _idle(self) -> None:
        """Called in the thread if no item came for `tick_s`."""

    def _finish(self) -> None:
        """Called in the thread as its last step."""

    def _need_not_wait(self) -> bool:
        return self.pending < self._capacity or self._stuck or self.closed or self.stopping.is_set()

    def _work(self) -> None:
        try:
            while not self.closed:
                items = self._next()
                if not items and self.stopping.is_set():
                    return
                try:
                    (self._handle if items else self._idle)(*items)
                except Exception as error:
                    if self.lose(f"{type(error).__name__}: {error}"):
                        log.error("%s failed: %s (%d lost)", type(self).__name__, self.reason, self.lost)
                    log.debug("traceback", exc_info=error)
        finally:
            # In any case, so that no `put` waits for a thread that has ended.
            self.close()
            self._finish()

    def _next(self) -> list[T]:
        """Wait for an item and take it; return nothing if none came for `tick_s`, or the sink stops."""
        with self._changed:
            if not self._items:
                self._changed.wait_for(lambda: self._items or self.stopping.is_set(), self._tick_s)
                half = self._capacity // 2
                self._changed.wait_for(lambda: self.pending >= half or self.stopping.is_set(), self._linger_s)
            self._stuck = False
            self._changed.notify_all()
            return [self._items.popleft()] if self._items else []
