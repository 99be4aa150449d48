"""Saves images away from the frames' way, whole or not at all: snapshots, and labelled frames to learn from."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.image_ops import Roi, roi_pixels
from camapp.core.predictions import Prediction
from camapp.sinks.sink import ImageSink, PredictionSink

log = logging.getLogger(__name__)

_WAITING = 4
_STOP_S = 2.0
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)


class ImageWriter:
    """A thread that encodes and writes images; each appears under its name only when it is whole.

    Attributes:
        saved: how many were.
        lost: how many were not: the disk did not take them, or too many waited.
        reason: why the last one was lost.
    """

    def __init__(self, what: str, on_saved: Callable[[Path], None] = lambda path: None) -> None:
        self.saved = 0
        self.lost = 0
        self.reason = ""
        self._what = what
        self._on_saved = on_saved
        self._queue: queue.Queue[tuple[Pixels, Path] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._save_all, name=what, daemon=True)

    def start(self) -> None:
        """Be ready to save."""
        self._thread.start()

    def put(self, image: Pixels, path: Path) -> None:
        """Save an image (B first, or grey) that nobody writes to any more; returns at once."""
        try:
            self._queue.put_nowait((image, path))
        except queue.Full:
            self._lose(path, f"{_WAITING} are still being written")

    def stop(self) -> None:
        """Finish the images that wait."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=_STOP_S)
            except queue.Full:
                return
            self._thread.join(_STOP_S)

    def _save_all(self) -> None:
        while (item := self._queue.get()) is not None:
            image, path = item
            partial = path.with_name(f".{path.name}.partial")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _, encoded = cv2.imencode(path.suffix, image, _JPEG if path.suffix == ".jpg" else ())
                partial.write_bytes(encoded.tobytes())
                os.replace(partial, path)
            except OSError as error:
                self._lose(path, error.strerror or str(error))
                with contextlib.suppress(OSError):
                    partial.unlink()
                continue
            self.saved += 1
            self._on_saved(path)

    def _lose(self, path: Path, reason: str) -> None:
        self.lost += 1
        self.reason = reason
        log.warning("cannot save the %s '%s': %s", self._what, path, reason)


class SnapshotSink(ImageSink):
    """After `request`, saves the next image shown as `folder/YYYYmmdd-HHMMSS-seq.png`.

    Args:
        folder: made when first needed.
        on_saved: called in this sink's thread with the file.
    """

    def __init__(
        self,
        folder: Path = Path("snapshots"),
        on_saved: Callable[[Path], None] = lambda path: log.info("saved '%s'", path),
    ) -> None:
        self.writer = ImageWriter("snapshot", on_saved)
        self._folder = folder
        self._wanted = threading.Event()

    def start(self) -> None:
        """Be ready to save."""
        self.writer.start()

    def request(self) -> None:
        """Save the next image."""
        self._wanted.set()

    def wanted(self) -> bool:
        """An image was asked for."""
        return self._wanted.is_set()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Save this image if one was asked for."""
        if not self._wanted.is_set():
            return
        self._wanted.clear()
        number = f"{trace.seq:06d}" if trace else "notice"
        self.writer.put(canvas.copy(), self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}.png")

    def stop(self) -> None:
        """Finish the images that wait."""
        self.writer.stop()


class CollectSink(PredictionSink):
    """Saves frames as they came, without the drawing, when asked or by a timer: `folder/YYYYmmdd-HHMMSS-mmm-seq.jpg`.

    Args:
        folder: the label's; made when first needed.
        every: seconds between two frames, by the clock or (`fps` given) by the file's own time; None waits for
            `request`.
        fps: frames a second of a file, 0 of a folder of images (then every one is taken); None of a live source.
        roi: part of the image to save, as the model is shown it; None is all.
        most: save no more than so many; None has no bound.
        on_saved: called in this sink's thread with the number saved so far.
    """

    def __init__(
        self,
        folder: Path,
        every: float | None,
        fps: Callable[[], float | None],
        roi: Roi | None = None,
        most: int | None = None,
        on_saved: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.writer = ImageWriter("picture", lambda path: on_saved(self.writer.saved))
        self._folder = folder
        self._every = every
        self._fps = fps
        self._roi = roi
        self._most = most
        self._wanted = threading.Event()
        self._due = 0.0
        self._taken = 0

    def start(self) -> None:
        """Be ready to save."""
        self.writer.start()

    def request(self) -> None:
        """Save the next frame."""
        self._wanted.set()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Save this frame if it is its turn."""
        if not (self._wanted.is_set() or self._is_due(trace)) or self._taken == self._most:
            return
        self._wanted.clear()
        self._taken += 1
        image = frame.view
        x0, y0, x1, y1 = roi_pixels(image.size, self._roi)
        now = time.time()
        milliseconds = int(now * 1000) % 1000
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{milliseconds:03d}-{frame.seq:06d}.jpg"
        self.writer.put(image.bgr()[y0:y1, x0:x1].copy(), self._folder / name)

    def stop(self) -> None:
        """Finish the images that wait."""
        self.writer.stop()

    def _is_due(self, trace: Trace) -> bool:
        fps = self._fps()
        if fps == 0:
            return True
        if self._every is None:
            return False
        now = trace.captured / 1e9 if fps is None else trace.seq / fps
        if now < self._due:
            return False
        # From when it was due, so that the rate holds; from now where that is long past.
        self._due = (self._due if now - self._due < self._every else now) + self._every
        return True
