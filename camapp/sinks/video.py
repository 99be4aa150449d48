"""Records the drawn preview to a video file whose playing time is the real time, without slowing the run."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from camapp.core.arrays import Pixels
from camapp.core.errors import SinkError
from camapp.core.frames import Trace
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import ImageSink, cannot_write

log = logging.getLogger(__name__)

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_DEFAULT_FPS = 30.0
# Frames: 11 MB at 1280x720.
_MAX_QUEUED = 4
_STOP_S = 5.0
# With less free space the file is finished, while its index still fits on the disk.
_MIN_FREE_BYTES = 32_000_000
_MAX_BEHIND_S = 1.0


class VideoSink(BackgroundSink[tuple[Pixels, int]], ImageSink):
    """Writes one video file, under a `.partial` name until it is complete.

    Images of a live source are repeated or skipped so that the video keeps real time; those of a file are written
    once each, and `show` waits for the encoder. A full disk ends the recording with one warning, never the run.

    Args:
        path: `.mp4` (MPEG-4) or `.avi` (Motion JPEG). Its frames have the size of the first image.
        fps: returns the frame rate of the video, called at the first image; 0 means 30.
        live: keep real time and never wait.
        check_s: seconds between two checks of the disk.
        stalled_s: seconds without growth of the file after which the recording ends.

    Attributes:
        written: frames in the video.
        skipped: images left out because the encoder was behind.

    Raises:
        SinkError: the file name has no video suffix.
    """

    def __init__(
        self, path: Path, fps: Callable[[], float], live: bool = True, check_s: float = 1.0, stalled_s: float = 30.0
    ) -> None:
        if path.suffix.lower() not in CODECS:
            allowed = " or ".join(CODECS)
            raise SinkError(f"cannot record to '{path}': the name must end in {allowed}")
        super().__init__("video", _MAX_QUEUED, _STOP_S, blocking=not live)
        self.written = 0
        self.skipped = 0
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._get_fps = fps
        self._fps = _DEFAULT_FPS
        self._live = live
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._skips_seen = 0
        self._origin_ns = 0
        self._last: Pixels | None = None
        self._slow_reported = False
        self._disk = _DiskMonitor(self._partial, check_s, stalled_s)

    def start(self) -> None:
        """Check that the file can be written. Raises SinkError."""
        if self._path.is_dir():
            raise SinkError(f"cannot record to '{self._path}': it is a folder")
        try:
            self._partial.open("wb").close()
        except OSError as error:
            raise cannot_write(f"cannot record to '{self._path}'", error) from error
        super().start()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Record an image as of now."""
        self.write(canvas, time.monotonic_ns())

    def write(self, canvas: Pixels, t_ns: int) -> None:
        """Record a (h, w, 3) uint8 BGR image that was shown at `t_ns`, monotonic nanoseconds.

        If live, it returns at once and skips the image if the queue is full. Otherwise it waits for room.
        """
        full = self._live and self.pending >= _MAX_QUEUED
        if full or not self.put((canvas.copy(), t_ns)):
            self.skipped += 1

    def stop(self) -> None:
        """Encode what is queued and close the file, which can then be played."""
        super().stop()
        if self.running:
            log.warning("the video encoder did not finish in %g s; '%s' is incomplete", _STOP_S, self._partial)

    def _handle(self, item: tuple[Pixels, int]) -> None:
        try:
            self._encode(*item)
        except (OSError, cv2.error) as error:
            self._end(str(error).strip())

    def _finish(self) -> None:
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
            seconds = self.written / self._fps
            log.info("recorded %d frames (%.1f s) to '%s'%s", self.written, seconds, self._path, skipped)

    def _encode(self, image: Pixels, t_ns: int) -> None:
        if self._writer is None:
            self._open(image, t_ns)
        if self._writer is None:
            return
        image = self._resized(image)
        if self._live:
            due = self._attainable(round((t_ns - self._origin_ns) * 1e-9 * self._fps))
            if due < self.written:
                # There are more images than frames; this one is still what a gap repeats.
                self._last = image
                return
            while self.written < due and self._last is not None and not self.closed:
                self._put(self._last)
        self._put(image)
        self._last = image

    def _attainable(self, due: int) -> int:
        """Return the frame number to reach: `due`, or the present one if the encoder is overloaded.

        Catching up would then take longer than falling behind did, so the video's clock is set back instead.
        """
        behind = due - self.written
        overloaded = self.skipped > self._skips_seen
        self._skips_seen = self.skipped
        if not overloaded or behind <= _MAX_BEHIND_S * self._fps:
            return due
        if not self._slow_reported:
            self._slow_reported = True
            log.warning(
                "this machine cannot encode %dx%d at %g fps; the recording plays too fast", *self._size, self._fps
            )
        self._origin_ns += round(behind / self._fps * 1e9)
        return self.written

    def _open(self, image: Pixels, t_ns: int) -> None:
        # Both codecs halve the resolution of the colour: sides must be even, and OpenCV silently drops other frames.
        self._size = max(2, image.shape[1] & ~1), max(2, image.shape[0] & ~1)
        self._fps = self._get_fps() or _DEFAULT_FPS
        codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._partial), codec, self._fps, self._size)
        if not writer.isOpened():
            self._end(f"this OpenCV has no encoder for {self._path.suffix}")
            return
        self._writer, self._origin_ns = writer, t_ns

    def _resized(self, image: Pixels) -> Pixels:
        width, height = self._size
        rows, columns = image.shape[:2]
        if (columns & ~1, rows & ~1) == self._size:
            return image[:height, :width]
        return np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)

    def _put(self, image: Pixels) -> None:
        assert self._writer is not None
        self._writer.write(image)
        self.written += 1
        if fault := self._disk.fault():
            self._end(fault)

    def _end(self, reason: str) -> None:
        self.close()
        log.warning("recording to '%s' ended after %d frames: %s", self._path, self.written, reason)


class _DiskMonitor:
    """Checks whether the written frames reach the disk, because VideoWriter reports no errors."""

    def __init__(self, path: Path, check_s: float, stalled_s: float) -> None:
        self._path = path
        self._check_s = check_s
        self._stalled_s = stalled_s
        self._check_at = 0.0
        self._size = -1
        self._grew_at = time.monotonic()

    def fault(self) -> str:
        """Return what is wrong, or ''."""
        now = time.monotonic()
        if now < self._check_at:
            return ""
        self._check_at = now + self._check_s
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
        return f"the file has not grown for {self._stalled_s:g} s" if now - self._grew_at > self._stalled_s else ""
