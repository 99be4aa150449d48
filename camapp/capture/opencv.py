"""Reads webcams (V4L2) by OpenCV."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.capture.clock import SensorClock
from camapp.capture.rate_monitor import RateMonitor
from camapp.capture.source import Source, SourceOptions, sane_fps
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceLost
from camapp.core.frames import Shot
from camapp.core.image import as_image, silence_opencv
from camapp.core.settings import parse_float
from camapp.system.video_devices import DEV, busy_advice, holders, name_of, problem_of, video_nodes

log = logging.getLogger(__name__)

_DEFAULT_SIZE = 1280, 720
# Largest image to transfer uncompressed, pixels: most webcams lack the USB bandwidth for more at 30 fps.
_MAX_RAW = 640 * 480
_MJPG = cv2.VideoWriter.fourcc(*"MJPG")
# One buffer fills while the other is decoded; with only one, the camera skips every other frame.
_BUFFERS = 2

# Controls that OpenCV's V4L2 backend passes to the driver.
_V4L2_CONTROLS = (
    *("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE", "GAIN", "EXPOSURE", "AUTO_EXPOSURE", "AUTO_WB", "WB_TEMPERATURE"),
    *("GAMMA", "SHARPNESS", "BACKLIGHT", "FOCUS", "AUTOFOCUS", "ZOOM", "PAN", "TILT", "TEMPERATURE"),
)


class CameraSource(Source):
    """Reads a webcam: `v4l2://0`, `v4l2:///dev/video2`, or `/dev/video2`."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._capture: cv2.VideoCapture | None = None
        # Proves that the camera works, and is the first to be read.
        self._first: NDArray[np.generic] | None = None
        self._clock = SensorClock(uri)
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
        if not self._opened():
            raise SourceAbsent(f"{self._device} ({self._name}) does not open: {busy_advice(self._device)}")
        self._configure()
        self._first = self._grab()

    def try_open(self) -> None:
        """Look for the device; another run may be using it."""
        self._find()

    def read(self, timeout: float) -> Shot:
        """Return the next frame; OpenCV bounds the wait."""
        raw, self._first = self._first, None
        image = as_image(self._grab() if raw is None else raw)
        shot = Shot(image, image, self._clock.checked(self._stamp_ns()))
        self._rate.add(self._name, self.fps, shot.sensor_ns or time.monotonic_ns())
        return shot

    def close(self) -> None:
        """Release the device."""
        self._first = None
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    @property
    def slowness(self) -> str:
        """Return why the camera is slower than its configured rate."""
        return self._rate.reason

    def describe(self) -> str:
        """Return the camera's name with size and rate."""
        if self._capture is None:
            return f"{self._name} ({self.uri})"
        width, height = (round(self._get(prop)) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        rate = f" at {self.fps:g} fps" if self.fps else ""
        return f"{self._name} ({self.uri}, {width}x{height}{rate})"

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

    def _opened(self) -> bool:
        """Open the device; return whether OpenCV accepts it."""
        self.close()
        if self.options.read_timeout:
            # Seconds; OpenCV reads this once, before the first frame. Its default of 10 s suits slow cameras.
            os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(self.options.read_timeout)))
        silence_opencv()
        self._capture = cv2.VideoCapture(str(self._device), cv2.CAP_V4L2)
        return self._capture.isOpened()

    def _get(self, prop: int) -> float:
        assert self._capture is not None
        return self._capture.get(prop)

    def _grab(self) -> NDArray[np.generic]:
        if self._capture is None:
            raise SourceLost(f"{self.uri} is not open")
        good, raw = self._capture.read()
        if not good:
            raise SourceLost(self._silence())
        return np.asarray(raw)

    def _configure(self) -> None:
        assert self._capture is not None
        # Pictures in colour whatever the version's default.
        self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
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
        self.fps = sane_fps(self._get(cv2.CAP_PROP_FPS))
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


def _control(name: str, text: str) -> tuple[str, int, float]:
    """Return (name, CAP_PROP number, value) of a control, named with or without that prefix."""
    short = name.upper().removeprefix("CAP_PROP_")
    if short not in _V4L2_CONTROLS:
        raise PermanentSourceError(f"a webcam has no control '{name}'; known are {', '.join(_V4L2_CONTROLS)}")
    try:
        return name, int(getattr(cv2, f"CAP_PROP_{short}")), parse_float(text)
    except ValueError:
        raise PermanentSourceError(f"control {name}={text}: a webcam's controls are numbers") from None
