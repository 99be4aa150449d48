"""Prints predictions as they change, and a status line, for runs without a display."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from camapp.core.events import Situation, counts_text
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.core.program import spelled
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import PredictionSink

# Lines kept while the terminal is held (Ctrl-S) or its reader is slow.
_MAX_QUEUED = 1000
# In a street, counts change with every frame.
_OBJECTS_EVERY_S = 1.0
_CLEAR_LINE = "\r\x1b[2K"


class ConsoleSink(BackgroundSink[str], PredictionSink):
    """Prints a line when the label changes, or the objects in sight and those that have crossed a line.

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
        self._situation = Situation()
        self._text: str | None = None
        self._text_due = 0.0
        self._next_status = 0.0

    def start(self) -> None:
        """Start printing."""
        # Rates need a moment to settle.
        self._next_status = time.monotonic() + 2.0
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue a line if what it says has changed; of objects at most one a second."""
        self._situation.update(prediction, frame, trace)
        text = _objects(prediction, self._situation) if self._situation.finds_objects else prediction.label
        now = time.monotonic()
        if text == self._text or (self._situation.finds_objects and now < self._text_due):
            return
        self._text, self._text_due = text, now + _OBJECTS_EVERY_S
        score = f"  {prediction.change_score:.0%}" if text and not self._situation.finds_objects else ""
        what = f"{text or '-'}{score}"
        self.put(f"{time.strftime('%H:%M:%S')}  {self._camera}frame {prediction.seq}  {what}\n")

    def _handle(self, item: str) -> None:
        text = item
        if self._is_terminal:
            # A line that wraps could not be cleared.
            width = shutil.get_terminal_size().columns - 1
            text = _CLEAR_LINE + text if text or self._status else ""
            text += spelled(self._status())[:width] if self._status and not self.stopping.is_set() else ""
        elif self._status and time.monotonic() >= self._next_status:
            self._next_status += self._every
            text += spelled(self._status()) + "\n"
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


def _objects(prediction: Prediction, situation: Situation) -> str:
    """Return a text such as '3 person, 1 dog  porch: 1 inside  gate: 2 in, 1 out'."""
    parts = [counts_text(situation.counts)]
    for zone in prediction.zones:
        inside = {label: situation.count(f"{label}@{zone.name}") for label in zone.inside}
        parts.append(f"{zone.name}: {counts_text(inside)}" if sum(inside.values()) else "")
    parts += [
        f"{line.name}: {sum(line.into.values())} in, {sum(line.out.values())} out" for line in prediction.counting_lines
    ]
    return "  ".join(part for part in parts if part)
