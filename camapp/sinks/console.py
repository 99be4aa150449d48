"""For a run without a display: predictions as they change, and a live status line on a terminal."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.sink import PredictionSink

STATUS_EVERY = 10.0
_REDRAW = 0.25
_CLEAR_LINE = "\r\x1b[2K"


class ConsoleSink(PredictionSink):
    """Prints a line when the label changes; keeps a status line below on a terminal, prints one now and then elsewhere.

    Args:
        status: gives the status line's text; None leaves that to another camera's sink.
        stream: a text stream.
        every: seconds from one status line to the next where there is no terminal.
        camera: its name, where there are several.
    """

    def __init__(
        self,
        status: Callable[[], str] | None,
        stream: TextIO | None = None,
        every: float = STATUS_EVERY,
        camera: str = "",
    ) -> None:
        self._every = every
        self._camera = f"{camera}  " if camera else ""
        self._status = status
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._changes: list[str] = []
        self._label: str | None = None
        self._lock = threading.Lock()
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._print_all, name="console", daemon=True)

    def start(self) -> None:
        """Start printing."""
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Note a changed label."""
        if prediction.label != self._label:
            self._label = prediction.label
            what = f"{prediction.label}  {prediction.score:.0%}" if prediction.label else "-"
            with self._lock:
                self._changes.append(f"{time.strftime('%H:%M:%S')}  {self._camera}frame {prediction.seq}  {what}")

    def stop(self) -> None:
        """Print what is left."""
        self._stop_event.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _print_all(self) -> None:
        next_status = time.monotonic() + 2.0  # rates need a moment
        stopping = False
        while not stopping:
            stopping = self._stop_event.wait(_REDRAW)
            with self._lock:
                changes, self._changes = self._changes, []
            text = "".join(f"{line}\n" for line in changes)
            if self._is_terminal:
                width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be wiped
                text = _CLEAR_LINE + text if text or self._status else ""
                text += self._status()[:width] if self._status and not stopping else ""
            elif self._status and time.monotonic() >= next_status:
                next_status += self._every
                text += self._status() + "\n"
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads the terminal any more; the run itself goes on
