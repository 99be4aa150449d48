"""Signals and exit codes: how a run is told to end, and how it tells why it did."""

from __future__ import annotations

import os
import signal
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
    """Call `request` with the name of the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    `request` runs between any two steps of the main thread, so it must take no lock.
    """
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        request(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)
