"""Bounds calls that may hang, and ends the process although one still hangs."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

# Longest wait for the last output of a process that ends although a thread is stuck.
_FLUSH_S = 1.0

_stuck: list[threading.Thread] = []


def register_stuck(thread: threading.Thread) -> None:
    """Register a thread stuck in a driver call, so that interpreter shutdown does not wait for it."""
    _stuck.append(thread)


def stuck_threads() -> list[str]:
    """Return the names of the registered threads that still run."""
    return [thread.name for thread in _stuck if thread.is_alive()]


def exit_process(code: object) -> NoReturn:
    """End the process, at once if a thread is stuck: libcamera would block interpreter shutdown for ever.

    Args:
        code: exit code, as SystemExit takes it.

    Raises:
        SystemExit: no thread is stuck.
    """
    if not (names := stuck_threads()):
        raise SystemExit(code)

    def finish_output() -> None:
        log.warning("ending although %s hangs", ", ".join(names))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    # A stuck thread may hold a stream's lock, or the reader of a stream may have stopped.
    output = threading.Thread(target=finish_output, name="output", daemon=True)
    output.start()
    output.join(_FLUSH_S)
    os._exit(code if isinstance(code, int) else int(bool(code)))


def call_bounded(call: Callable[[], object], seconds: float, name: str) -> None:
    """Run `call` in a daemon thread and wait for its end.

    Raises:
        TimeoutError: it did not end within `seconds`; its thread is registered as stuck.
        Exception: the exception that `call` raised.
    """
    from concurrent.futures import Future

    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller below
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        done.result(timeout=seconds)
    except TimeoutError:
        if not done.done():  # else the call itself raised it
            register_stuck(thread)
        raise
