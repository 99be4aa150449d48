"""Records the drawn preview to a video file whose playing time is the real time, without ever slowing the run."""

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
import numpy as np

from camapp.core.arrays import Pixels
from camapp.core.errors import SinkError
from camapp.core.frames import Trace
from camapp.sinks.sink import ImageSink

log = logging.getLogger(__name__)

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_DEFAULT_FPS = 30.0
_QUEUED = 4  # frames: 11 MB at 1280x720
_TICK_S = 0.2
_STOP_S = 5.0
_CHECK_S = 1.0
_MIN_FREE_BYTES = 32_000_000  # below it the file is finished while its index still fits on the disk
_STALLED_S = 30.0  # written frames that never reach the file
_MAX_BEHIND_S = 1.0


class VideoSink(ImageSink):
    """Writes one video file, under a `.partial` name until it is complete.

    Images of a live source are repeated or skipped so that the file keeps the clock; those of a file are written
    once each, and `show` waits for the encoder. A full disk ends the recording with one warning, never the run.

    Args:
        path: `.mp4` (MPEG-4) or `.avi` (Motion JPEG). Its frames have the size of the first image.
        fps: gives the frames a second of the file, asked at the first image; 0 takes 30.
        live: keep the clock and never wait.

    Raises:
        SinkError: no file of that name can be a video.
    """

    def __init__(self, path: Path, fps: Callable[[], float], live: bool = True) -> None:
        if path.suffix.lower() not in CODECS:
            allowed = " or ".join(CODECS)
            raise SinkError(f"cannot record to '{path}': the name must end in {allowed}")
        self.written = 0
        self.skipped = 0
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._ask_fps = fps
        self._fps = _DEFAULT_FPS
        self._live = live
        self._queue: queue.Queue[tuple[Pixels, int]] = queue.Queue(_QUEUED)
        self._stop_event = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._record, name="video", daemon=True)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._skips_seen = 0
        self._origin_ns = 0
        self._last: Pixels | None = None
        self._said_slow = False
        self._disk = _DiskWatch(self._partial)

    def start(self) -> None:
        """Make sure that the file can be written. Raises SinkError."""
        if self._path.is_dir():
            raise SinkError(f"cannot record to '{self._path}': it is a folder")
        try:
            self._partial.open("wb").close()
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise SinkError(f"cannot record to '{self._path}': {error.strerror}", denied=denied) from error
        self._thread.start()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Record an image as of now."""
        self.write(canvas, time.monotonic_ns())

    def write(self, canvas: Pixels, t_ns: int) -> None:
        """Record a (h, w, 3) uint8 BGR image that was shown at `t_ns`, monotonic nanoseconds.

        Live, it returns at once, and an image that finds the queue full is skipped. Else it waits for room.
        """
        if self._live and self._queue.full():
            self.skipped += 1
            return
        item = (canvas.copy(), t_ns)
        while not self._ended.is_set() and not self._stop_event.is_set():
            try:
                self._queue.put(item, timeout=0 if self._live else _TICK_S)
                return
            except queue.Full:
                if self._live:
                    break
        self.skipped += 1

    def stop(self) -> None:
        """Encode what is queued and close the file, which can then be played."""
        self._stop_event.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                log.warning("the video encoder did not finish in %g s; '%s' is incomplete", _STOP_S, self._partial)

    def _record(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    image, t_ns = self._queue.get(timeout=0 if self._stop_event.is_set() else _TICK_S)
                except queue.Empty:
                    if self._stop_event.is_set():
                        break
                    continue
                self._encode(image, t_ns)
        except (OSError, cv2.error) as error:
            self._give_up(str(error).strip())
        finally:
            self._ended.set()
            self._finish()

    def _encode(self, image: Pixels, t_ns: int) -> None:
        if self._writer is None:
            self._open(image, t_ns)
        if self._writer is None:
            return
        image = self._fitted(image)
        if self._live:
            due = self._within_reach(round((t_ns - self._origin_ns) * 1e-9 * self._fps))
            if due < self.written:  # more images than the file's rate; this one is still what a gap would repeat
                self._last = image
                return
            while self.written < due and self._last is not None and not self._ended.is_set():
                self._put(self._last)
        self._put(image)
        self._last = image

    def _within_reach(self, due: int) -> int:
        """Let the clock slip where the encoder is too slow: catching up would take longer than falling behind did."""
        behind = due - self.written
        overloaded = self.skipped > self._skips_seen
        self._skips_seen = self.skipped
        if not overloaded or behind <= _MAX_BEHIND_S * self._fps:
            return due
        if not self._said_slow:
            self._said_slow = True
            log.warning(
                "this machine cannot encode %dx%d at %g fps; the recording plays too fast", *self._size, self._fps
            )
        self._origin_ns += round(behind / self._fps * 1e9)
        return self.written

    def _open(self, image: Pixels, t_ns: int) -> None:
        # Both codecs halve the colour's resolution: sides must be even, and OpenCV drops other frames in silence.
        self._size = max(2, image.shape[1] & ~1), max(2, image.shape[0] & ~1)
        self._fps = self._ask_fps() or _DEFAULT_FPS
        codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._partial), codec, self._fps, self._size)
        if not writer.isOpened():
            self._give_up(f"OpenCV has no encoder for {self._path.suffix} here")
            return
        self._writer, self._origin_ns = writer, t_ns

    def _fitted(self, image: Pixels) -> Pixels:
        width, height = self._size
        rows, columns = image.shape[:2]
        if (columns & ~1, rows & ~1) == self._size:
            return image[:height, :width]
        return np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)

    def _put(self, image: Pixels) -> None:
        assert self._writer is not None
        self._writer.write(image)
        self.written += 1
        trouble = self._disk.trouble()
        if trouble:
            self._give_up(trouble)

    def _give_up(self, why: str) -> None:
        self._ended.set()
        log.warning("recording to '%s' ended after %d frames: %s", self._path, self.written, why)

    def _finish(self) -> None:
        """Close the file and give it its name."""
        if self._writer is not None:
            self._writer.release()
        try:
            if self.written:
                os.replace(self._partial, self._path)
            else:
                self._partial.unlink()
        except OSError as error:
            log.warning("cannot finish the recording '%s': %s", self._path, error.strerror)
            return
        if self.written:
            skipped = f", {self.skipped} images skipped" if self.skipped else ""
            log.info(
                "recorded %d frames (%.1f s) to '%s'%s", self.written, self.written / self._fps, self._path, skipped
            )


class _DiskWatch:
    """Looks once a second whether what is written reaches the disk, for VideoWriter does not tell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._check_at = 0.0
        self._size = -1
        self._grew_at = time.monotonic()

    def trouble(self) -> str:
        """What is wrong, or ''."""
        now = time.monotonic()
        if now < self._check_at:
            return ""
        self._check_at = now + _CHECK_S
        with contextlib.suppress(OSError):
            space = os.statvfs(self._path.parent)
            free = space.f_bavail * space.f_frsize
            if free < _MIN_FREE_BYTES:
                return f"the disk is full ({free / 1e6:.0f} MB left)"
        try:
            size = self._path.stat().st_size
        except OSError as error:
            return f"the file is gone ({error.strerror})"
        if size != self._size:
            self._size, self._grew_at = size, now
        return f"the file has not grown for {_STALLED_S:g} s" if now - self._grew_at > _STALLED_S else ""
