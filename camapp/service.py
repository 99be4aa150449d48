"""Signals and exit codes: how a run is told to end, and how it tells why it did."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType


class ExitCode(IntEnum):
    """What the process ends with; see sysexits.h. systemd does not restart a unit on CONFIG."""

    OK = 0
    USAGE = 2
    SOURCE_GONE = 69
    INTERNAL = 70
    DENIED = 77
    CONFIG = 78
    INTERRUPTED = 130


def on_stop_signals(request: Callable[[str], None]) -> None:
    """Call `request` with the signal's name at the first SIGINT or SIGTERM; a second one ends the process at once."""
    asked = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()
        request(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
