"""Writes each drawn picture of a folder or film, at its own size and with its own prediction."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2

from camapp.core.arrays import Pixels
from camapp.core.files import try_to_create_in
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import ImageSink, PredictionSink, refusals
from camapp.sinks.snapshot import write_image

log = logging.getLogger(__name__)

_MAX_QUEUED = 4
_STOP_S = 10.0
# Longest wait for the disk before a picture is left out, in seconds.
_WAIT_S = 30.0
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92)


def write_drawn(canvas: Pixels, path: Path) -> Path:
    """Write a picture as JPEG, under the first free name of x.jpg, x-2.jpg, ...; return its path. Raises OSError."""
    return write_image(canvas, path.with_suffix(".jpg"), _JPEG)


def make_folder(folder: Path) -> None:
    """Create the folder of drawn pictures, and check that it can be written. Raises SinkError."""
    with refusals(f"cannot write drawn pictures into '{folder}'", "; give --drawn another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        try_to_create_in(folder)


class DrawnSink(BackgroundSink[tuple[Pixels, Path]], ImageSink, PredictionSink):
    """Writes `photo.jpg` for a picture of that name, and `film-000012.jpg` for a frame of a film.

    For sources whose frames can wait: the run waits for the disk.

    Args:
        folder: created if needed.
        stop_s: longest wait for the disk at the end of the run.

    Attributes:
        saved: pictures written.
        lost: pictures that could not be written.
    """

    def __init__(self, folder: Path, stop_s: float = _STOP_S) -> None:
        super().__init__("drawn", _MAX_QUEUED, stop_s, blocking=True, wait_s=_WAIT_S)
        self.saved = 0
        self._folder = folder
        self._names: dict[int, str] = {}

    def start(self) -> None:
        """Check that the folder can be written. Raises SinkError."""
        make_folder(self._folder)
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Note the name of the frame, which is drawn next."""
        stem = Path(frame.shot.name).stem
        self._names[frame.seq] = stem if frame.shot.still and stem else f"{stem or 'frame'}-{frame.seq:06d}"

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Queue a drawn picture; a notice is none."""
        name = self._names.pop(trace.seq, None) if trace is not None else None
        if name is not None and not self.put((canvas.copy(), self._folder / f"{name}.jpg")):
            self._lose("the disk is too slow")

    def stop(self) -> None:
        """Write what is queued."""
        super().stop()
        lost = self.lost + self.pending
        log.info("wrote %d drawn pictures into '%s'%s", self.saved, self._folder, f", {lost} lost" * bool(lost))

    def _handle(self, item: tuple[Pixels, Path]) -> None:
        try:
            write_drawn(*item)
            self.saved += 1
        except OSError as error:
            self._lose(error.strerror or str(error))

    def _lose(self, reason: str) -> None:
        if self.lose(reason):
            log.error("cannot write a drawn picture into '%s': %s (%d lost)", self._folder, reason, self.lost)
