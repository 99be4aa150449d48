"""A sink that does its work in a thread, with a bounded queue between the pipeline and that thread."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from typing import Generic, TypeVar

from camapp.sinks.sink import Sink

T = TypeVar("T")


class BackgroundSink(Sink, Generic[T]):
    """Queues items with `put` and calls `handle` with one at a time in a background thread.

    A full queue or a failure costs items, never the run. `stop` handles what is queued, within a bound.

    Args:
        name: of the thread.
        capacity: maximum number of queued items.
        newest: a full queue drops its oldest item instead of the new one.
        blocking: `put` waits for room (for files, whose frames can wait).
        wait_s: longest wait of a blocking `put`, None for no limit.
        linger_s: how long items collect before the thread wakes, unless the queue is half full earlier.
        stop_s: longest wait of `stop`; the thread is a daemon.

    Attributes:
        tick_s: seconds without an item after which `idle` is called, None for never.
        stopping: set when `stop` begins.
        closed: no more items are handled, by `close`.
        lost: items lost, by `lose`.
        reason: why the last one was lost.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        newest: bool = False,
        blocking: bool = False,
        wait_s: float | None = None,
        linger_s: float = 0.0,
        stop_s: float = 2.0,
    ) -> None:
        self.tick_s: float | None = None
        self.stopping = threading.Event()
        self.lost = 0
        self.reason = ""
        self._capacity = capacity
        self._newest = newest
        self._blocking = blocking
        self._wait_s = wait_s
        self._linger_s = linger_s
        self._stop_s = stop_s
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._stuck = False
        self.closed = False
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

    def put(self, item: T) -> bool:
        """Queue an item; return False if it, or with `newest` the oldest one, was dropped for lack of room.

        After a wait in vain, or while `handle` fails, a blocking `put` does not wait until an item was taken.
        """
        with self._changed:
            if self._blocking:
                self._changed.wait_for(self._need_not_wait, self._wait_s)
            full = len(self._items) >= self._capacity
            self._stuck |= full
            if self._ends() or (full and not self._newest):
                return False
            if full:
                self._items.popleft()
            self._items.append(item)
            if len(self._items) in (1, self._capacity // 2):
                self._changed.notify_all()
            return not full

    def requeue(self, item: T) -> None:
        """Queue an item again that `handle` could not handle, as the oldest; it is lost if there is no room."""
        with self._changed:
            self._stuck = True
            self._changed.notify_all()
            if len(self._items) < self._capacity:
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
        """End the thread once `handle` returns; queued items stay pending, further ones are refused."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    @abstractmethod
    def handle(self, item: T) -> None:
        """Handle an item, in the thread."""

    def idle(self) -> None:
        """Called in the thread if no item came for `tick_s`."""

    def finish(self) -> None:
        """Called in the thread as its last step."""

    def _need_not_wait(self) -> bool:
        return len(self._items) < self._capacity or self._stuck or self._ends()

    def _ends(self) -> bool:
        return self.closed or self.stopping.is_set()

    def _work(self) -> None:
        try:
            while not self.closed:
                self._await_items()
                if self._items:
                    self.handle(self._take())
                elif self.stopping.is_set():
                    return
                else:
                    self.idle()
        finally:
            # Also after an unexpected error, so that no `put` waits for a thread that has ended.
            self.close()
            self.finish()

    def _await_items(self) -> None:
        with self._changed:
            if self._items:
                return
            self._changed.wait_for(lambda: self._items or self.stopping.is_set(), self.tick_s)
            if self._linger_s:
                half = self._capacity // 2
                self._changed.wait_for(lambda: len(self._items) >= half or self.stopping.is_set(), self._linger_s)

    def _take(self) -> T:
        with self._changed:
            self._stuck = False
            self._changed.notify_all()
            return self._items.popleft()
