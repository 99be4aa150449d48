"""Logs a message once instead of with every frame."""

from __future__ import annotations

import logging
from collections.abc import Hashable


class LogOnce:
    """Logs the first message of each key; further ones of that key are dropped until `reset`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._seen: set[Hashable] = set()

    def __call__(
        self, level: int, key: Hashable, message: str, *args: object, error: BaseException | None = None
    ) -> bool:
        """Log `message % args` if `key` is new; return whether it was. The traceback of `error` goes to debug level."""
        if key in self._seen:
            return False
        self._seen.add(key)
        self._log.log(level, message, *args)
        if error is not None:
            self._log.debug("traceback", exc_info=error)
        return True

    def reset(self) -> None:
        """Forget all keys: the fault is over, and the next one is logged again."""
        self._seen.clear()
