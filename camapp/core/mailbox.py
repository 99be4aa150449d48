"""A one-place mailbox between two threads: newest wins, or the writer waits."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Holds at most one item."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def replace(self, item: T) -> T | None:
        """Put an item in at once; returns the one it pushes out, if any (or `item` itself when closed)."""
        with self._changed:
            if self._closed:
                return item
            old, self._item = self._item, item
            self._changed.notify_all()
            return old

    def put(self, item: T, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the place to be free; False if it did not become so."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is None or self._closed, timeout)
            if self._item is not None or self._closed:
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def wait(self, timeout: float) -> bool:
        """Whether an item is there, or comes within `timeout` seconds; it stays."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            return self._item is not None

    def get(self, timeout: float) -> T | None:
        """Take the item, waiting up to `timeout` seconds; None if there was none."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._item is None:
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    return None
                self._changed.wait(left)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> T | None:
        """Refuse further items, wake every waiter, and hand back what was left."""
        with self._changed:
            self._closed = True
            item, self._item = self._item, None
            self._changed.notify_all()
            return item
