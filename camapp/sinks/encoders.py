"""Encodes images as video in another process or library, and hands over what it makes, image by image.

H.264, which browsers and phones play, is made by the program `ffmpeg` if this machine has it, with the encoder of a
Raspberry Pi's chip or a library. Otherwise OpenCV makes MPEG-4 Visual. Both write an AVI stream into a pipe, whose
chunks are the encoded images; no file name of the user ever reaches them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import IO

import cv2

from camapp.core.arrays import Pixels
from camapp.core.files import write_all
from camapp.core.image import silence_opencv
from camapp.core.timeouts import register_stuck
from camapp.sinks.mp4 import H264, Codec, Mpeg4

log = logging.getLogger(__name__)

# ffmpeg's encoders with their options, the best first: the chip of a Raspberry Pi up to 4, x264, Cisco's OpenH264.
# At the same PSNR, x264's preset `superfast` takes 18 ms of CPU for a frame of 1280x720, and `ultrafast` 7.
_H264_ENCODERS = {
    "h264_v4l2m2m": ("-b:v", "{rate}"),
    "libx264": ("-preset", "ultrafast", "-crf", "23", "-threads", "2"),
    "libopenh264": ("-b:v", "{rate}"),
}
# Bits for each pixel, for encoders that need a rate.
_BITS_PER_PIXEL = 0.12
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85)
# The colours of OpenCV's conversion to YUV.
_COLOURS = ("smpte170m", "smpte170m", "smpte170m", "tv")
_TRIAL_S, _TRIAL_SIZE = 10.0, (320, 240)
_PIPE_BYTES = 1 << 20
# Encoders of chips take no smaller images.
_MIN_SIDE = 64


class EncoderError(Exception):
    """The encoder does not work on this machine, or has stopped working."""


class Encoder(ABC):
    """Encodes images of one size.

    Args:
        on_image: called with each encoded image in order, in a thread of the encoder; what it raises ends the encoding.

    Attributes:
        codec: what the encoded images are; None if each can be decoded by itself.
        name: of the format and the encoder, for the user.
        error: what `on_image` has raised.
    """

    codec: Codec | None
    name: str

    def __init__(self, on_image: Callable[[bytes], None]) -> None:
        self.error: Exception | None = None
        self._on_image = on_image
        self._reader: threading.Thread | None = None

    @abstractmethod
    def write(self, image: Pixels) -> None:
        """Encode an image, (h, w, 3) uint8 BGR with even sides; waits while the encoder is busy.

        Raises:
            EncoderError: the encoder has failed.
        """

    @abstractmethod
    def finish(self, timeout: float) -> None:
        """Hand over the images that are still being encoded, and end the encoder; kill it after `timeout` seconds."""

    @abstractmethod
    def kill(self) -> None:
        """End the encoder at once; a `write` that waits for it fails."""

    def _read_from(self, pipe: IO[bytes]) -> None:
        self._reader = threading.Thread(target=self._read, args=(pipe,), name="encoded", daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            try:
                read_avi(pipe, self._on_image)
            except Exception as error:  # noqa: BLE001 - the caller of `write` handles it
                self.error = error
                # Otherwise the encoder would wait for ever for a reader.
                with contextlib.suppress(OSError):
                    while pipe.read(1 << 16):
                        pass

    def _join(self, timeout: float) -> None:
        if self._reader is not None:
            self._reader.join(timeout)
            if self._reader.is_alive():
                register_stuck(self._reader)


def read_avi(stream: IO[bytes], on_image: Callable[[bytes], None]) -> None:
    """Call `on_image` with each image of an AVI stream, until its end."""
    if len(stream.read(12)) < 12:
        return
    while len(head := stream.read(8)) == 8:
        kind, size = struct.unpack("<4sI", head)
        if kind == b"LIST":
            # The images follow one another in a list whose length is not known yet.
            if stream.read(4) != b"movi":
                stream.read(size - 4 + size % 2)
            continue
        data = stream.read(size + size % 2)
        if kind == b"00dc" and len(data) >= size > 0:
            on_image(data[:size])


class FfmpegEncoder(Encoder):
    """Makes H.264 by the program `ffmpeg`.

    Args:
        encoder: a key of `_H264_ENCODERS`, as `h264_encoder` finds it.

    Raises:
        EncoderError: the program cannot be started.
    """

    codec = H264()

    def __init__(self, encoder: str, size: tuple[int, int], fps: float, on_image: Callable[[bytes], None]) -> None:
        super().__init__(on_image)
        self.name = f"H.264 by ffmpeg's {encoder}"
        output = ("-g", str(max(1, round(fps))), "-flush_packets", "1", "-f", "avi", "pipe:1")
        try:
            self._process = subprocess.Popen(
                [*_command(encoder, size, fps), *output],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # A terminal sends Ctrl-C to the parent's group only.
                process_group=0,
            )
        except OSError as error:
            raise EncoderError(f"ffmpeg cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        _widen(self._input.fileno())
        self._read_from(os.fdopen(os.dup(self._process.stdout.fileno()), "rb", buffering=_PIPE_BYTES))
        self._process.stdout.close()

    def write(self, image: Pixels) -> None:
        """Send an image to the program."""
        view = memoryview(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)).cast("B")
        try:
            write_all(self._input, view)
        except (OSError, ValueError) as error:
            raise EncoderError("ffmpeg has ended") from error

    def finish(self, timeout: float) -> None:
        """Close the program's input and wait for its end."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            log.warning("ffmpeg did not finish in %g s; the end of the film is missing", timeout)
            self.kill()
            self._process.wait()
        self._join(timeout)

    def kill(self) -> None:
        """Kill the program."""
        self._process.kill()


class OpenCvEncoder(Encoder):
    """Makes MPEG-4 Visual by OpenCV's own FFmpeg.

    Raises:
        EncoderError: this OpenCV cannot do that.
    """

    codec = Mpeg4()
    name = "MPEG-4 Visual by OpenCV"

    def __init__(self, size: tuple[int, int], fps: float, on_image: Callable[[bytes], None]) -> None:
        super().__init__(on_image)
        silence_opencv()
        with tempfile.TemporaryDirectory(prefix="camapp-") as folder:
            # VideoWriter takes the container's format from the name, and nothing but a name.
            pipe = os.path.join(folder, "pipe.avi")
            os.mkfifo(pipe)
            descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(descriptor, True)
            _widen(descriptor)
            code = cv2.VideoWriter.fourcc(*"FMP4")
            self._writer = cv2.VideoWriter(pipe, cv2.CAP_FFMPEG, code, fps, size)
        if not self._writer.isOpened():
            os.close(descriptor)
            raise EncoderError("this OpenCV has no encoder for .mp4; name the film .avi")
        self._read_from(os.fdopen(descriptor, "rb", buffering=_PIPE_BYTES))

    def write(self, image: Pixels) -> None:
        """Encode an image in this thread."""
        try:
            self._writer.write(image)
        except cv2.error as error:
            raise EncoderError(str(error).strip()) from error

    def finish(self, timeout: float) -> None:
        """Encode the last image."""
        self._writer.release()
        self._join(timeout)

    def kill(self) -> None:
        """Do nothing: a library cannot be killed, and this one does not wait for anything but the reader."""


class JpegEncoder(Encoder):
    """Makes JPEG images in the calling thread; errors of `on_image` are raised by `write`."""

    codec = None
    name = "Motion JPEG"

    def write(self, image: Pixels) -> None:
        """Encode an image."""
        _, jpeg = cv2.imencode(".jpg", image, _JPEG)
        self._on_image(jpeg.tobytes())

    def finish(self, timeout: float) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""


def open_encoder(size: tuple[int, int], fps: float, on_image: Callable[[bytes], None], h264: bool = True) -> Encoder:
    """Return the best encoder of this machine for images of a size; without `h264`, that of OpenCV.

    Raises:
        EncoderError: there is none.
    """
    if h264 and min(size) >= _MIN_SIDE and (encoder := h264_encoder()):
        return FfmpegEncoder(encoder, size, fps, on_image)
    return OpenCvEncoder(size, fps, on_image)


@cache
def h264_encoder() -> str:
    """Return the first of ffmpeg's H.264 encoders that works on this machine, or ""; each is tried with an image."""
    if shutil.which("ffmpeg") is None:
        return ""
    width, height = _TRIAL_SIZE
    for encoder in _H264_ENCODERS:
        command = [*_command(encoder, _TRIAL_SIZE, 30.0), "-f", "null", "-"]
        try:
            done = subprocess.run(command, input=bytes(width * height * 3 // 2), capture_output=True, timeout=_TRIAL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.debug("ffmpeg's encoder %s does not work: %s", encoder, error)
            continue
        if done.returncode == 0:
            return encoder
        log.debug("ffmpeg's encoder %s does not work: %s", encoder, done.stderr.decode(errors="replace").strip())
    return ""


def _command(encoder: str, size: tuple[int, int], fps: float) -> list[str]:
    width, height = size
    rate = str(round(width * height * fps * _BITS_PER_PIXEL))
    options = [option.format(rate=rate) for option in _H264_ENCODERS[encoder]]
    space, primaries, transfer, levels = _COLOURS
    return [
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin"),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", f"{width}x{height}", "-framerate", f"{fps:g}"),
        *("-i", "pipe:0", "-an", "-c:v", encoder, *options, "-bf", "0", "-pix_fmt", "yuv420p"),
        *("-colorspace", space, "-color_primaries", primaries, "-color_trc", transfer, "-color_range", levels),
    ]


def _widen(descriptor: int) -> None:
    """Give a pipe room for an image or more, if the system allows it: writer and reader then wait less often."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
