"""Prints predictions as they change, and a status line, for runs without a display."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import PredictionSink

# Lines kept while the terminal is held (Ctrl-S) or its reader is slow.
_MAX_QUEUED = 1000
_CLEAR_LINE = "\r\x1b[2K"


class ConsoleSink(BackgroundSink[str], PredictionSink):
    """Prints a line when the label changes.

    A terminal also shows a status line below them; other streams get one every few seconds.

    Args:
        status: returns the text of the status line; None if another camera's sink shows it.
        every: seconds between two status lines on a stream that is not a terminal.
        camera: its name, if there are several.
    """

    def __init__(
        self, status: Callable[[], str] | None, stream: TextIO | None = None, every: float = 10.0, camera: str = ""
    ) -> None:
        super().__init__("console", _MAX_QUEUED, 1.0, newest=True, tick_s=0.25)
        self._every = every
        self._camera = f"{camera}  " if camera else ""
        self._status = status
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._label: str | None = None
        self._next_status = 0.0

    def start(self) -> None:
        """Start printing."""
        # Rates need a moment to settle.
        self._next_status = time.monotonic() + 2.0
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue a line if the label has changed."""
        if prediction.label != self._label:
            self._label = prediction.label
            what = f"{prediction.label}  {prediction.score:.0%}" if prediction.label else "-"
            self.put(f"{time.strftime('%H:%M:%S')}  {self._camera}frame {prediction.seq}  {what}\n")

    def _handle(self, item: str) -> None:
        text = item
        if self._is_terminal:
            # A line that wraps could not be cleared.
            width = shutil.get_terminal_size().columns - 1
            text = _CLEAR_LINE + text if text or self._status else ""
            text += self._status()[:width] if self._status and not self.stopping.is_set() else ""
        elif self._status and time.monotonic() >= self._next_status:
            self._next_status += self._every
            text += self._status() + "\n"
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # The terminal is closed; the run continues.
            self.close()

    def _idle(self) -> None:
        self._handle("")

    def _finish(self) -> None:
        self._handle("")
