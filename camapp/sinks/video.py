"""Records the drawn preview to video files whose playing time is the real time, without slowing the run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from camapp.core.arrays import Pixels
from camapp.core.frames import Trace
from camapp.core.letterbox import letterboxed
from camapp.sinks.background import BackgroundSink
from camapp.sinks.encoders import Encoder, EncoderError, FfmpegEncoder, JpegEncoder, h264_encoder, open_encoder
from camapp.sinks.film_files import FilmFiles
from camapp.sinks.sink import ImageSink

log = logging.getLogger(__name__)

_DEFAULT_FPS = 30.0
# Frames: 11 MB at 1280x720.
_MAX_QUEUED = 4
_STOP_S = 5.0
# Of it, the time for the encoder's last images.
_ENCODER_S = 3.0
# With less free space a film is finished, while its index still fits on the disk; with twice as much, one begins.
_MIN_FREE_BYTES = 32_000_000
_MAX_BEHIND_S = 1.0


class VideoSink(BackgroundSink[tuple[Pixels, int]], ImageSink):
    """Writes a film that can be played at any moment; see `FilmFiles` for the names of its files.

    Images of a live source are repeated or skipped so that the video keeps real time; those of a file are written
    once each, and `show` waits for the encoder. A full disk interrupts the recording, never the run: it continues in a
    new file once there is room.

    Args:
        path: `.mp4` (H.264, or MPEG-4 if there is no encoder for it) or `.avi` (Motion JPEG). The frames have the size
            of the first image; others are scaled to fit, on black.
        fps: returns the frame rate of the video, called at the first image; 0 means 30.
        live: keep real time and never wait.
        owner: name of the run, for another one that names the same path.
        check_s: seconds between two checks of the disk, and between two attempts to record again.
        stalled_s: seconds after which an encoder that still works on one image is ended, and replaced.

    Attributes:
        written: frames given to the encoder.
        skipped: images left out because the encoder was behind or the disk was full.
        lost: interruptions of the recording.

    Raises:
        SinkError: the file name has no video suffix.
    """

    def __init__(
        self,
        path: Path,
        fps: Callable[[], float],
        live: bool = True,
        owner: str = "camera",
        check_s: float = 1.0,
        stalled_s: float = 20.0,
    ) -> None:
        super().__init__("video", _MAX_QUEUED, _STOP_S, blocking=not live, wait_s=stalled_s)
        self.written = 0
        self.skipped = 0
        self._path = path
        self._files = FilmFiles(path, owner)
        self._get_fps = fps
        self._fps = _DEFAULT_FPS
        self._live = live
        self._check_s, self._stalled_s = check_s, stalled_s
        self._encoder: Encoder | None = None
        self._may_use_h264 = True
        self._size = (0, 0)
        # Frames since the encoder was opened, and the time of the first of them.
        self._frames = 0
        self._origin_ns = 0
        self._skips_seen = 0
        self._last: Pixels | None = None
        self._slow_reported = False
        self._check_at = 0.0
        self._resume_at = 0.0
        self._busy_since = 0.0

    def start(self) -> None:
        """Create the first file, and look for an encoder. Raises SinkError."""
        self._files.start()
        if self._path.suffix.lower() == ".mp4" and not h264_encoder():
            log.info(
                "this machine has no H.264 encoder for '%s': many browsers and phones will not play it; "
                "'sudo apt install ffmpeg' adds one",
                self._path,
            )
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
            if self._busy_since and time.monotonic() - self._busy_since > self._stalled_s:
                self._end_stalled_encoder()

    def stop(self) -> None:
        """Encode what is queued and finish the film."""
        super().stop()
        if self.running:
            log.warning("the video encoder did not finish in %g s; the end of the film is missing", _STOP_S)
            self._end_stalled_encoder()
        if self.skipped:
            log.info("%d images are not in the film '%s'", self.skipped, self._path)

    def _handle(self, item: tuple[Pixels, int]) -> None:
        try:
            self._encode(*item)
        except (EncoderError, ValueError) as error:
            self.skipped += 1
            self._replace_encoder(error)
        except (OSError, cv2.error) as error:
            self.skipped += 1
            self._interrupt(error)

    def _finish(self) -> None:
        self._close_encoder()
        self._files.close()

    def _encode(self, image: Pixels, t_ns: int) -> None:
        if self._encoder is None:
            if time.monotonic() < self._resume_at or (self.lost and self._free_bytes() < 2 * _MIN_FREE_BYTES):
                self.skipped += 1
                return
            self._open(image, t_ns)
        image = self._fitted(image)
        if self._live:
            due = self._attainable(round((t_ns - self._origin_ns) * 1e-9 * self._fps))
            if due < self._frames:
                # There are more images than frames; this one is still what a gap repeats.
                self._last = image
                return
            while self._frames < due and self._last is not None and not self.closed:
                self._put(self._last)
        self._put(image)
        self._last = image

    def _attainable(self, due: int) -> int:
        """Return the frame number to reach: `due`, or the present one if the encoder is overloaded.

        Catching up would then take longer than falling behind did, so the video's clock is set back instead.
        """
        behind = due - self._frames
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
        return self._frames

    def _open(self, image: Pixels, t_ns: int) -> None:
        # The codecs halve the resolution of the colour, so sides must be even.
        self._size = max(2, image.shape[1] & ~1), max(2, image.shape[0] & ~1)
        self._fps = self._get_fps() or _DEFAULT_FPS
        if self._path.suffix.lower() == ".avi":
            self._encoder = JpegEncoder(self._files.add)
        else:
            self._encoder = open_encoder(self._size, self._fps, self._files.add, self._may_use_h264)
        self._files.begin(self._encoder.codec, self._size, self._fps)
        self._frames, self._origin_ns, self._last, self._skips_seen = 0, t_ns, None, self.skipped
        text = "recording to '%s': %s, %dx%d at %g fps"
        log.info(text, self._files.path, self._encoder.name, *self._size, self._fps)

    def _fitted(self, image: Pixels) -> Pixels:
        width, height = self._size
        rows, columns = image.shape[:2]
        if (columns & ~1, rows & ~1) == self._size:
            return image[:height, :width]
        return letterboxed(image, width, height)

    def _put(self, image: Pixels) -> None:
        assert self._encoder is not None
        self._busy_since = time.monotonic()
        self._encoder.write(image)
        if self._encoder.error is not None:
            raise self._encoder.error
        self._busy_since = 0.0
        self.written += 1
        self._frames += 1
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + self._check_s
            if (free := self._free_bytes()) < _MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, f"the disk is full ({free / 1e6:.0f} MB left)")

    def _free_bytes(self) -> float:
        """Return the free space where the film is written; infinity if that is unknown."""
        with contextlib.suppress(OSError):
            space = os.statvfs(self._files.path.parent)
            return space.f_bavail * space.f_frsize
        return float("inf")

    def _interrupt(self, error: Exception) -> None:
        """End the film here, and begin another one later."""
        self._close_encoder()
        self._files.end()
        self._resume_at = time.monotonic() + self._check_s
        reason = error.strerror if isinstance(error, OSError) else str(error).strip()
        if self.lose(reason or type(error).__name__):
            text = "recording to '%s' is interrupted: %s; the film so far can be played (interruption %d)"
            log.error(text, self._path, self.reason, self.lost)

    def _replace_encoder(self, error: EncoderError | ValueError) -> None:
        failed = self._encoder
        self._close_encoder()
        if not isinstance(failed, FfmpegEncoder) or not self._may_use_h264:
            self._interrupt(error)
            return
        self._may_use_h264 = False
        log.warning("%s: %s; the recording continues in a new file", failed.name, error)

    def _end_stalled_encoder(self) -> None:
        self._busy_since = 0.0
        if (encoder := self._encoder) is not None:
            encoder.kill()

    def _close_encoder(self) -> None:
        encoder, self._encoder, self._busy_since = self._encoder, None, 0.0
        if encoder is not None:
            encoder.finish(_ENCODER_S)
            if encoder.error is not None and isinstance(encoder.error, OSError):
                log.debug("the encoder's last images are lost: %s", encoder.error)


class RawVideoSink(VideoSink):
    """Writes a film of the images without the drawing."""

    wants_raw = True

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Do nothing with what is drawn."""

    def show_raw(self, image: Pixels, trace: Trace) -> None:
        """Record an image as of now."""
        self.write(image, time.monotonic_ns())
