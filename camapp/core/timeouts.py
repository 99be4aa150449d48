"""A call that may hang, made in a thread of its own and waited for only so long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

_left_behind: list[threading.Thread] = []


def left_behind() -> list[str]:
    """Names of calls that hang still: a process with such a thread may hang too when Python ends it properly."""
    return [thread.name for thread in _left_behind if thread.is_alive()]


def leave_behind(thread: threading.Thread) -> None:
    """Note a thread that does not come back from its call: what it does then, Python's own end must not wait for."""
    _left_behind.append(thread)


def call_bounded(call: Callable[[], object], seconds: float, name: str) -> None:
    """Run `call` in a daemon thread and wait for its end.

    Raises:
        TimeoutError: it has not ended in time; the thread is left behind, and ends with the process at the latest.
        Exception: whatever `call` raised.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        done.result(timeout=seconds)
    except TimeoutError:
        if thread.is_alive():  # else it is the call's own
            leave_behind(thread)
        raise
