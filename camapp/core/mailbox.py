"""Passes one item between two threads: the newest replaces an older one, or the writer waits."""

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
        """Put an item in at once; return the item that it replaces, if any (or `item` itself if closed)."""
        with self._changed:
            if self._closed:
                return item
            old, self._item = self._item, item
            self._changed.notify_all()
            return old

    def put(self, item: T, timeout: float) -> bool:
        """Put an item in, waiting up to `timeout` seconds for the place to be free; return whether that succeeded."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is None or self._closed, timeout)
            if self._item is not None or self._closed:
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def wait(self, timeout: float) -> bool:
        """Return whether an item is present or arrives within `timeout` seconds; leave it in place."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            return self._item is not None

    def get(self, timeout: float) -> T | None:
        """Take the item, waiting up to `timeout` seconds; return None if there was none."""
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
        """Refuse further items, wake all waiting threads, and return the item that was left."""
        with self._changed:
            self._closed = True
            item, self._item = self._item, None
            self._changed.notify_all()
            return item
