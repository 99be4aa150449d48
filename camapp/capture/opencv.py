"""Reads webcams (V4L2), network streams and video files by OpenCV."""

from __future__ import annotations

import logging
import math
import os
import time
from abc import abstractmethod
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.capture.clock import Pace, SensorClock
from camapp.capture.rate_monitor import RateMonitor
from camapp.capture.source import EndOfStream, Source, SourceOptions, local_path, redacted
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceDenied, SourceLost
from camapp.core.frames import Shot
from camapp.core.image import as_image, fit_within, silence_opencv
from camapp.system.video_devices import DEV, busy_advice, holders, name_of, problem_of, video_nodes

log = logging.getLogger(__name__)

_DEFAULT_SIZE = 1280, 720
# Largest image to transfer uncompressed, pixels: most webcams lack the USB bandwidth for more at 30 fps.
_MAX_RAW = 640 * 480
_MJPG = cv2.VideoWriter.fourcc(*"MJPG")
# Seconds for a stream's first frame (key frames may be 20 s apart), and for FFmpeg to wait for data: it takes one limit
# for a whole connection, whose rate is not known yet.
_OPEN_S, _READ_S = 30.0, 10.0
# One buffer fills while the other is decoded; with only one, the camera skips every other frame.
_BUFFERS = 2
_FALLBACK_FPS = 30.0

# Controls that OpenCV's V4L2 backend passes to the driver.
_V4L2_CONTROLS = (
    *("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE", "GAIN", "EXPOSURE", "AUTO_EXPOSURE", "AUTO_WB", "WB_TEMPERATURE"),
    *("GAMMA", "SHARPNESS", "BACKLIGHT", "FOCUS", "AUTOFOCUS", "ZOOM", "PAN", "TILT", "TEMPERATURE"),
)


class _OpenCVSource(Source):
    """Holds the VideoCapture of a webcam, stream or file; the first frame proves that it works."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._capture: cv2.VideoCapture | None = None
        self._first: NDArray[np.generic] | None = None

    def close(self) -> None:
        """Release the device or file."""
        self._first = None
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def describe(self) -> str:
        """Return name, size and rate."""
        if self._capture is None:
            return redacted(self.uri)
        width, height = (round(self._get(prop)) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        return f"{redacted(self.uri)}, {width}x{height}" + (f" at {self.fps:g} fps" if self.fps else "")

    def _get(self, prop: int) -> float:
        assert self._capture is not None
        return self._capture.get(prop)

    def _opened(self, target: str, backend: int, parameters: tuple[int, ...] = ()) -> bool:
        """Open the target; return whether OpenCV accepts it."""
        self.close()
        if self.options.read_timeout:
            # Seconds; OpenCV reads this once, before the first frame. Its default of 10 s suits slow cameras.
            os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(self.options.read_timeout)))
        silence_opencv()
        self._capture = cv2.VideoCapture(target, backend, list(parameters))
        return self._capture.isOpened()


class _LiveSource(_OpenCVSource):
    """Reads a device or stream that is lost if it delivers no frame."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._clock = SensorClock(redacted(uri))

    def read(self, timeout: float) -> Shot:
        """Return the next frame; the wait is bounded by the limit set in `open`."""
        raw, self._first = self._first, None
        if raw is None:
            raw = self._grab()
        image = as_image(raw)
        return Shot(image, image, self._clock.checked(self._stamp_ns()))

    def _grab(self) -> NDArray[np.generic]:
        if self._capture is None:
            raise SourceLost(f"{redacted(self.uri)} is not open")
        good, raw = self._capture.read()
        if not good:
            raise SourceLost(self._silence())
        return np.asarray(raw)

    def _stamp_ns(self) -> int:
        return 0

    @abstractmethod
    def _silence(self) -> str:
        """Return why no frame came, and the remedy."""


class CameraSource(_LiveSource):
    """Reads a webcam: `v4l2://0`, `v4l2:///dev/video2`, or `/dev/video2`."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        device = uri.removeprefix("v4l2://")
        if not device.isdecimal() and not device.startswith("/"):
            raise PermanentSourceError(f"'{uri}' names no webcam: write v4l2://0 or v4l2:///dev/video0")
        self._device = DEV / f"video{device}" if device.isdecimal() else Path(device)
        self._name = ""
        self._rate = RateMonitor()
        self._controls = [_control(name, text) for name, text in options.controls.items()]

    def open(self) -> None:
        """Open the device and read its first frame.

        Raises:
            SourceLost: it is absent, busy or silent.
            SourceDenied: this user may not read it.
            PermanentSourceError: it is not a webcam, or has no such control.
        """
        self._rate.restart()
        self._find()
        if not self._opened(str(self._device), cv2.CAP_V4L2):
            raise SourceAbsent(f"{self._device} ({self._name}) does not open: {busy_advice(self._device)}")
        self._configure()
        self._first = self._grab()

    def read(self, timeout: float) -> Shot:
        """Return the next frame."""
        shot = super().read(timeout)
        self._rate.add(self._name, self.fps, shot.sensor_ns or time.monotonic_ns())
        return shot

    @property
    def slowness(self) -> str:
        """Return why the camera is slower than its configured rate."""
        return self._rate.reason

    def describe(self) -> str:
        """Return the camera's name with size and rate."""
        return f"{self._name} ({super().describe()})"

    def _find(self) -> None:
        """Find the device; a camera that was unplugged may return under another number."""
        problem = problem_of(self._device)
        if isinstance(problem, SourceLost) and self._name:
            for node in video_nodes():
                if node.problem is None and node.name == self._name:
                    log.warning("%s is now %s", self._name, node.path)
                    self._device, problem = node.path, None
                    break
        if problem is not None:
            raise problem
        self._name = name_of(self._device)

    def _configure(self) -> None:
        assert self._capture is not None
        width, height = self.options.size or _DEFAULT_SIZE
        if width * height > _MAX_RAW:
            self._capture.set(cv2.CAP_PROP_FOURCC, _MJPG)
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        if fps := self.options.fps or self.options.target_fps:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
        for name, prop, value in self._controls:
            if not self._capture.set(prop, value):
                raise PermanentSourceError(f"{self._name} does not accept the control {name}={value:g}")
        self.fps = _sane_fps(self._get(cv2.CAP_PROP_FPS))
        got = round(self._get(cv2.CAP_PROP_FRAME_WIDTH)), round(self._get(cv2.CAP_PROP_FRAME_HEIGHT))
        if got != (width, height):
            log.info("%s gives %dx%d instead of %dx%d", self._name, *got, width, height)

    def _stamp_ns(self) -> int:
        # Time stamp of the V4L2 buffer; UVC cameras use the monotonic clock.
        return round(self._get(cv2.CAP_PROP_POS_MSEC) * 1e6)

    def _silence(self) -> str:
        if not self._device.exists():
            return f"{self._name} ({self._device}) was unplugged"
        advice = busy_advice(self._device) if holders(self._device) else "plug it in again, or try a smaller --size"
        return f"{self._name} ({self._device}) gives no image: {advice}"


class StreamSource(_LiveSource):
    """Reads a network camera: `rtsp://`, `rtsps://`, `http://` or `https://`. Its password appears in no message."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        open_ms = round(1000 * (options.open_timeout or _OPEN_S))
        read_ms = round(1000 * (options.read_timeout or _READ_S))
        self._limits = cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms

    def open(self) -> None:
        """Connect and read the first frame, within `open_timeout`.

        Raises:
            SourceLost: no answer, or no video.
            PermanentSourceError: it is a file on a web server, which has an end and no rate to keep.
        """
        if not self._opened(self.uri, cv2.CAP_FFMPEG, self._limits):
            raise SourceLost(f"{redacted(self.uri)} does not answer with video: check address, user and password")
        if self.uri.startswith("http") and self._get(cv2.CAP_PROP_FRAME_COUNT) > 0:
            raise PermanentSourceError(f"{redacted(self.uri)} is a file, not a live stream: download it, give its path")
        self.fps = _sane_fps(self._get(cv2.CAP_PROP_FPS))
        self._first = self._grab()

    def _silence(self) -> str:
        return f"{redacted(self.uri)} sends no more frames: check the camera and the network"


class VideoSource(_OpenCVSource):
    """Reads a video file: every frame as fast as possible, or in realtime by its time stamps.

    In realtime it behaves like a camera: frames that were not read in time are skipped, and `Shot.sensor_ns` is the
    moment at which the frame was due.

    Args:
        catch_up_s: longest time to skip frames in realtime before a late one is shown and the schedule shifted.
    """

    def __init__(self, uri: str, options: SourceOptions, catch_up_s: float = 0.25) -> None:
        super().__init__(uri, options)
        self.live = bool(options.realtime)
        self._catch_up_s = catch_up_s
        self._path = local_path(uri)
        self._pace = Pace()

    def open(self) -> None:
        """Open the file and decode its first frame.

        Raises:
            PermanentSourceError: it is missing, or not a readable video.
            SourceDenied: this user may not read it.
        """
        self._start_s = 0.0
        self._pace = Pace()
        self._rewind()

    def read(self, timeout: float) -> Shot:
        """Return the next frame; in realtime the next that is not late, at its due time."""
        if not self.live:
            self._advance()
            return self._shot(0)
        deadline = time.monotonic() + self._catch_up_s
        self._advance()
        while self._pace.lateness(self._media_s) > self._period:
            if time.monotonic() > deadline:
                self._pace.rebase(self._media_s)
                break
            self._advance()
        self._pace.wait(self._media_s, self.stopping)
        return self._shot(self._pace.due_ns(self._media_s))

    def _rewind(self) -> None:
        """Open the file again and grab the first frame. Seeking to it would not be exact in every format."""
        path = self._path
        if not path.exists():
            raise PermanentSourceError(f"no such file: {path}")
        if not path.is_file():
            raise PermanentSourceError(f"{path} is not a file; cameras are v4l2://N or picamera://N")
        if not os.access(path, os.R_OK):
            raise SourceDenied(f"{path} may not be read by this user: chmod u+r it, or change the user")
        if not self._opened(str(path), cv2.CAP_FFMPEG) or self._capture is None or not self._capture.grab():
            self.close()
            raise PermanentSourceError(f"{path} is damaged, or not a video (ffmpeg cannot read it)")
        self.fps = _sane_fps(self._get(cv2.CAP_PROP_FPS)) or _FALLBACK_FPS
        self._period = 1 / self.fps
        self._grabbed = True
        self._frames = 0
        self._media_s = self._start_s

    def _advance(self) -> None:
        """Grab the next frame without decoding it, and set `_media_s` to its time."""
        if self._capture is None:
            raise EndOfStream
        if self._grabbed:
            self._grabbed = False
        elif self._capture.grab():
            own_s = self._start_s + self._get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Some files have no time stamps, or decreasing ones.
            self._media_s = own_s if own_s > self._media_s else self._media_s + self._period
        else:
            self._end()
        self._frames += 1

    def _end(self) -> None:
        expected = round(self._get(cv2.CAP_PROP_FRAME_COUNT))
        # Containers only estimate the number of frames, so a few missing ones are no damage.
        if self._frames < 0.95 * expected - 2:
            log.warning("%s ends after %d of about %d frames: it is damaged", self._path, self._frames, expected)
        if not self.options.loop:
            raise EndOfStream
        self._start_s = self._media_s + self._period
        self._rewind()
        self._grabbed = False

    def _shot(self, due_ns: int) -> Shot:
        assert self._capture is not None
        good, raw = self._capture.retrieve()
        if not good:
            log.warning("%s cannot be decoded past frame %d: it is damaged", self._path, self._frames)
            raise EndOfStream
        image = fit_within(as_image(np.asarray(raw)), self.options.size)
        return Shot(image, image, due_ns, name=self._path.name, moment_ns=round(self._media_s * 1e9))


def _sane_fps(fps: float) -> float:
    """Return the rate, or 0 if it is implausible."""
    return fps if 0 < fps <= 1000 else 0.0


def _control(name: str, text: str) -> tuple[str, int, float]:
    """Return (name, CAP_PROP number, value) of a control, named with or without that prefix."""
    short = name.upper().removeprefix("CAP_PROP_")
    if short not in _V4L2_CONTROLS:
        raise PermanentSourceError(f"a webcam has no control '{name}'; known are {', '.join(_V4L2_CONTROLS)}")
    try:
        return name, int(getattr(cv2, f"CAP_PROP_{short}")), float(text)
    except ValueError:
        raise PermanentSourceError(f"control {name}={text}: a webcam's controls are numbers") from None
