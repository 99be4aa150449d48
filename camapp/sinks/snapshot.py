"""Saves images in the background, completely and never over another file: snapshots, and labelled training images."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2

from camapp.core.arrays import Pixels
from camapp.core.files import create_new, write_atomic
from camapp.core.frames import Frame, Trace
from camapp.core.image_ops import roi_pixels
from camapp.core.predictions import Prediction
from camapp.core.zones import Roi
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import ImageSink, PredictionSink

log = logging.getLogger(__name__)

_MAX_QUEUED = 4
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)


def write_image(image: Pixels, path: Path, options: Sequence[int] = ()) -> Path:
    """Write an image under the first free name of x.png, x-2.png, ...; return its path.

    Args:
        options: of `cv2.imencode`.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    # Another run may save into the same folder in the same second.
    created = create_new(path)
    try:
        _, encoded = cv2.imencode(path.suffix, image, options)
        write_atomic(created, encoded.tobytes())
    except BaseException:
        created.unlink(missing_ok=True)
        raise
    return created


class ImageFileSink(BackgroundSink[tuple[Pixels, Path]]):
    """Encodes and writes images in a background thread, when requested.

    Args:
        what: name of such an image in log lines.
        on_saved: called in the thread with each file.
        blocking: wait for the thread, at most 10 s, instead of losing images (for files, whose frames can wait).

    Attributes:
        saved: number of images saved.
        lost: number of images lost: the disk was full, or too many were queued.
    """

    def __init__(self, what: str, on_saved: Callable[[Path], None], blocking: bool = False) -> None:
        super().__init__(what, _MAX_QUEUED, 4.0, blocking=blocking, wait_s=10.0)
        self.saved = 0
        self._what = what
        self._on_saved = on_saved
        self._requested = threading.Event()

    def request(self) -> None:
        """Save the next image."""
        self._requested.set()

    def save(self, image: Pixels, path: Path) -> None:
        """Queue an image, BGR or grey, that is not written to any more."""
        if not self.put((image, path)):
            self._lose(path, f"{_MAX_QUEUED} are still being written")

    def _handle(self, item: tuple[Pixels, Path]) -> None:
        image, path = item
        try:
            path = write_image(image, path, _JPEG if path.suffix == ".jpg" else ())
        except OSError as error:
            self._lose(path, error.strerror or str(error))
        else:
            self.saved += 1
            self._on_saved(path)

    def _lose(self, path: Path, reason: str) -> None:
        if self.lose(reason):
            log.warning("cannot save the %s '%s': %s (%d lost)", self._what, path, reason, self.lost)


def raw_name(path: Path) -> Path:
    """Return the name of an image or film without the drawing, beside that with it: out.mp4 has out-raw.mp4."""
    return path.with_name(f"{path.stem}-raw{path.suffix}")


class SnapshotSink(ImageFileSink, ImageSink):
    """After `request`, saves the next image shown as `folder/YYYYmmdd-HHMMSS-seq.png`; raw too, if `raw`."""

    def __init__(
        self,
        folder: Path = Path("snapshots"),
        on_saved: Callable[[Path], None] = lambda path: log.info("saved '%s'", path),
        raw: bool = False,
    ) -> None:
        super().__init__("snapshot", on_saved)
        self.wants_raw = raw
        self._folder = folder
        self._raw: Pixels | None = None

    def wanted(self) -> bool:
        """Return whether an image was requested."""
        return self._requested.is_set()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Save this image if one was requested."""
        if self._requested.is_set():
            self._requested.clear()
            number = f"{trace.seq:06d}" if trace else "notice"
            path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}.png"
            self.save(canvas.copy(), path)
            if self._raw is not None and trace is not None:
                self.save(self._raw, raw_name(path))
        self._raw = None

    def show_raw(self, image: Pixels, trace: Trace) -> None:
        """Keep this image for the next call of `show`."""
        self._raw = image


class CollectSink(ImageFileSink, PredictionSink):
    """Saves frames without the overlay, on request or by a timer: `folder/YYYYmmdd-HHMMSS-mmm-seq.jpg`.

    Args:
        folder: returns that of the label; created when first needed.
        every: seconds between two frames, by the clock or (`fps` given) by the file's own time; None waits for
            `request`.
        fps: returns the frame rate of a file, 0 for a folder of images (then every one is saved), None for a live
            source.
        parts: parts of the image to save, as the model receives them, each with a name that ends its file's name; a
            None is all of the image.
        limit: maximum number of images; None for no limit.
        on_saved: called in the thread with each file.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        every: float | None,
        fps: Callable[[], float | None],
        parts: Mapping[str, Roi | None] = MappingProxyType({"": None}),
        limit: int | None = None,
        on_saved: Callable[[Path], None] = lambda path: None,
    ) -> None:
        super().__init__("image", on_saved, blocking=fps() is not None)
        self._folder = folder
        self._every = every
        self._fps = fps
        self._parts = parts
        self._limit = limit
        self._due = 0.0
        self._taken = 0

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Save this frame if it was requested or is due."""
        if not (self._requested.is_set() or self._is_due(trace)) or self._taken == self._limit:
            return
        self._requested.clear()
        image = frame.view
        now = time.time()
        milliseconds = int(now * 1000) % 1000
        stem = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{milliseconds:03d}-{frame.seq:06d}"
        for part, roi in self._parts.items():
            if self._taken == self._limit:
                return
            self._taken += 1
            x0, y0, x1, y1 = roi_pixels(image.size, roi)
            name = f"{stem}-{part}.jpg" if part else f"{stem}.jpg"
            self.save(image.bgr()[y0:y1, x0:x1].copy(), self._folder() / name)

    def _is_due(self, trace: Trace) -> bool:
        fps = self._fps()
        if fps == 0:
            return True
        if self._every is None:
            return False
        # A file's time is rounded: the nearest frame is due.
        now = trace.captured / 1e9 if fps is None else (trace.seq + 0.5) / fps
        if now < self._due:
            return False
        # From the time it was due, so that the rate holds; from now if that is long past.
        self._due = (self._due if now - self._due < self._every else now) + self._every
        return True
