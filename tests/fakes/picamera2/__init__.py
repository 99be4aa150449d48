"""Fakes picamera2 with the behaviour of the real one and, as configured, its faults.

Behaviour: an event-loop thread that keeps one finished request; a job that times out stays queued and takes the next
frame; rows padded to the stride; sizes, formats and strides decided by the 'hardware' at configure; requests that
must be released; a preview that is the event loop, and dies of the first frame that it cannot draw. Faults are set in
`plan`, or for a child process by the environment: FAKE_PICAMERA2_IMPORT (numpy: an ABI ValueError; libcamera: a
missing module), FAKE_PICAMERA2_PLAN (a JSON file with attributes of `plan`, read again when it changes).
"""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from libcamera import ColorSpace, Transform

_IMPORT_FAULTS: dict[str | None, Exception] = {
    "numpy": ValueError("numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header"),
    "libcamera": ModuleNotFoundError("No module named 'libcamera'", name="libcamera"),
}
if os.environ.get("FAKE_PICAMERA2_IMPORT") in _IMPORT_FAULTS:
    raise _IMPORT_FAULTS[os.environ.get("FAKE_PICAMERA2_IMPORT")]

COLOUR = (200, 60, 40)
# COLOUR in BT.601 limited range, the requested colour space.
YUV = (102, 98, 191)

_BYTES = {"XBGR8888": (0, 1, 2, None), "XRGB8888": (2, 1, 0, None), "BGR888": (0, 1, 2), "RGB888": (2, 1, 0)}

CAMERA = {"Model": "imx708", "Location": 2, "Rotation": 180, "Id": "/base/soc/i2c0mux/i2c@1/imx708@1a", "Num": 0}
WEBCAM = {"Model": "HD Webcam", "Location": 2, "Id": "/base/scb/pcie@7d500000/usb@0,0-1.3:1.0-046d:0825", "Num": 1}


@dataclass
class Plan:
    """Describes the cameras of this machine and their faults."""

    cameras: list[dict[str, Any]] = field(default_factory=lambda: [CAMERA, WEBCAM])
    # index, runtime, busy or hang
    init_error: str = ""
    # Format of the hardware by stream, instead of the requested one.
    formats: dict[str, str] = field(default_factory=dict)
    # Rows are padded to this number of bytes.
    align: int = 64
    bad_configuration: bool = False
    # Number of times that configure() runs out of memory.
    alloc_failures: int = 0
    can_flip: bool = True
    # Number of frames after which the event loop dies.
    frames: int | None = None
    make_buffer_fails: bool = False
    close_hangs: bool = False
    cancel_hangs: bool = False
    clock_offset_ns: int = 0
    # Of a DRM preview: absent or busy (an error at start), render (the first frame kills the loop).
    screen: str = ""
    overlays: bool = True
    overlay_error: str = ""
    exposure_us: int = 10_000
    # Period of the sensor if low light makes it longer than requested.
    slow_period: float = 0.0
    period: float = 0.005
    opened: list[Picamera2] = field(default_factory=list)


plan = Plan()


def _apply(file: Path, last: str) -> str:
    text = file.read_text()
    if text != last:
        for name, value in json.loads(text).items():
            setattr(plan, name, value)
    return text


def _follow(file: Path, text: str) -> None:
    while True:
        time.sleep(0.01)
        text = _apply(file, text)


if "FAKE_PICAMERA2_PLAN" in os.environ:
    _file = Path(os.environ["FAKE_PICAMERA2_PLAN"])
    threading.Thread(target=_follow, args=(_file, _apply(_file, "")), daemon=True).start()


def reset() -> Plan:
    """Remove all faults; return the plan to change."""
    global plan
    for camera in plan.opened:
        camera._loop_ends.set()
    plan = Plan()
    return plan


class Job(Future["Request"]):
    """As picamera2's: `get_result` waits with a limit, and a job that timed out stays queued."""

    def get_result(self, timeout: float | None = None) -> Request:
        assert timeout, "a wait without a limit never ends if the event loop is dead"
        return self.result(timeout)


class Request:
    def __init__(self, camera: Picamera2, seq: int) -> None:
        self.camera, self.seq, self.released = camera, seq, False
        self.stamp = time.monotonic_ns() + plan.clock_offset_ns

    def get_metadata(self) -> dict[str, Any]:
        assert not self.released, "metadata of a released request"
        return {"SensorTimestamp": self.stamp, "ExposureTime": plan.exposure_us}

    def make_buffer(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        assert not self.released, "buffer of a released request"
        if plan.make_buffer_fails:
            raise RuntimeError(f"Stream {name!r} is not defined")
        return render(self.camera.configuration[name])

    def release(self) -> None:
        assert not self.released, "released twice"
        self.released = True
        self.camera.held -= 1


def render(stream: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of a frame of COLOUR with a white top left quarter and padding 0x55, in the stream's format."""
    (width, height), stride, name = stream["size"], stream["stride"], stream["format"]
    if name in _BYTES:
        out = np.full((height, stride), 0x55, np.uint8)
        pixels = np.full((height, width, len(_BYTES[name])), 255, np.uint8)
        for index, channel in enumerate(_BYTES[name]):
            if channel is not None:
                pixels[..., index] = COLOUR[channel]
        pixels[: height // 2, : width // 2] = 255
        out[:, : width * len(_BYTES[name])] = pixels.reshape(height, -1)
        return out.ravel()
    out = np.full((height * 3 // 2, stride), 0x55, np.uint8)
    out[:height, :width] = YUV[0]
    out[: height // 2, : width // 2] = 235
    for plane in (1, 2):
        chroma = np.full((height // 2, width // 2), YUV[plane], np.uint8)
        chroma[: height // 4, : width // 4] = 128
        if name == "NV12":
            out[height:, plane - 1 : width : 2] = chroma
        else:
            out[height:].reshape(2, height // 2, stride // 2)[plane - 1, :, : width // 2] = chroma
    return out.ravel()


class Preview(Enum):
    NULL = 0
    DRM = 1


class Picamera2:
    camera_controls = {  # noqa: RUF012 - as in the real one, read only
        "AfMode": (0, 2, 0),
        "AeEnable": (False, True, True),
        "ExposureTime": (13, 112015096, None),
        "AnalogueGain": (1.0, 16.0, 1.0),
        "NoiseReductionMode": (0, 4, 0),
        "FrameDurationLimits": (17849, 220417486, None),
        "ColourGains": (0.0, 32.0, None),
    }
    sensor_modes = [  # noqa: RUF012 - an imx708's
        {"size": (1536, 864), "bit_depth": 10, "fps": 120.13, "crop_limits": (768, 432, 3072, 1728)},
        {"size": (2304, 1296), "bit_depth": 10, "fps": 56.03, "crop_limits": (0, 0, 4608, 2592)},
        {"size": (4608, 2592), "bit_depth": 10, "fps": 14.35, "crop_limits": (0, 0, 4608, 2592)},
    ]

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return plan.cameras

    def __init__(self, camera_num: int = 0) -> None:
        if plan.init_error == "hang":
            time.sleep(30)
        if plan.init_error == "index":
            raise IndexError("list index out of range")
        if plan.init_error == "runtime":
            raise RuntimeError("No cameras available: check the connection")
        if plan.init_error == "busy":
            try:
                raise RuntimeError("Failed to acquire camera: Device or resource busy")
            except RuntimeError as error:
                raise RuntimeError("Camera __init__ sequence did not complete.") from error
        self.configuration: dict[str, Any] = {}
        self.controls: dict[str, Any] = {}
        self.requested: dict[str, Any] = {}
        self.configured = 0
        self.held = 0
        self.closed = False
        self.cancelled = 0
        self._lock = threading.Lock()
        self._queue: list[Request] = []
        self._jobs: list[Job] = []
        self._loop: threading.Thread | None = None
        self._loop_ends = threading.Event()
        self._seq = 0
        self._running = False
        self.preview: Preview | None = None
        self.preview_window: dict[str, int] = {}
        self.previews: list[Preview] = []
        self.drawn = 0
        self.overlays: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        plan.opened.append(self)

    def create_video_configuration(
        self,
        main: dict[str, Any],
        lores: dict[str, Any],
        raw: None,
        sensor: dict[str, Any],
        transform: Transform,
        colour_space: ColorSpace,
        buffer_count: int,
        controls: dict[str, Any],
    ) -> dict[str, Any]:
        for stream in (main, lores):
            unknown = set(stream) - {"format", "size", "stride", "preserve_ar"}
            if unknown:
                raise ValueError(f"Bad key {unknown.pop()!r}")
        return {
            "main": dict(main),
            "lores": dict(lores),
            "raw": raw,
            "sensor": sensor,
            "transform": transform,
            "colour_space": colour_space,
            "buffer_count": buffer_count,
            "controls": controls,
        }

    def configure(self, configuration: dict[str, Any]) -> None:
        self.configured += 1
        self.requested = configuration
        main, lores = configuration["main"], configuration["lores"]
        for stream in (main, lores):
            if any(side % 2 for side in stream["size"]):
                raise RuntimeError("width and height should be even")
        if lores["size"] > main["size"]:
            raise RuntimeError("lores stream dimensions may not exceed main stream")
        if configuration["colour_space"].name != "SMPTE170M":
            raise AssertionError("this fake supports only SMPTE170M")
        if plan.bad_configuration:
            raise RuntimeError(f"Invalid camera configuration: {configuration}")
        if self.configured <= plan.alloc_failures:
            raise OSError(12, "Cannot allocate memory")
        got = dict(configuration)
        for name in ("main", "lores"):
            given = plan.formats.get(name, configuration[name]["format"])
            row = configuration[name]["size"][0] * len(_BYTES.get(given, (0,)))
            got[name] = dict(configuration[name], format=given, stride=-(-row // plan.align) * plan.align)
        if not plan.can_flip:
            got["transform"] = Transform()
        self.configuration = got

    def camera_configuration(self) -> dict[str, Any]:
        return self.configuration

    def set_controls(self, controls: dict[str, Any]) -> None:
        for name in controls:
            if name not in self.camera_controls:
                raise RuntimeError(f"Control {name} is not advertised by libcamera")
        self.controls.update(controls)

    def start(self) -> None:
        if not self.configuration:
            raise RuntimeError("Camera has not been configured")
        self._running = True
        if self.preview is None:
            self.start_preview(Preview.NULL)

    def start_preview(self, preview: Preview, **window: int) -> None:
        if self.preview is not None:
            raise RuntimeError("An event loop is already running")
        if preview is Preview.DRM and plan.screen in ("absent", "busy"):
            raise RuntimeError("DrmPreview: could not find a usable DRM device for any display device")
        self.preview, self.preview_window, self.drawn = preview, window, 0
        self.previews.append(preview)
        self._loop_ends = threading.Event()
        self._loop = threading.Thread(target=self._run, args=(preview, self._loop_ends), daemon=True)
        self._loop.start()

    def stop_preview(self) -> None:
        if self.preview is None or self._loop is None:
            raise RuntimeError("No preview specified.")
        self._loop_ends.set()
        self._loop.join()
        self.preview = None

    def set_overlay(self, overlay: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        if self.preview is None:
            raise RuntimeError("No preview specified.")
        if overlay.ndim != 3 or overlay.shape[2] != 4:
            raise RuntimeError("Overlay must be a 4-channel image")
        if not self.drawn or not plan.overlays:
            raise RuntimeError("Overlays not supported on this device")
        if plan.overlay_error:
            raise OSError(28, plan.overlay_error)
        self.overlays.append(overlay.copy())

    def _run(self, preview: Preview, ends: threading.Event) -> None:
        while not ends.wait(max(plan.period, plan.slow_period)):
            if plan.frames is not None and self._seq >= plan.frames:
                # The event loop has died and finishes no more jobs.
                return
            if not self._running:
                continue
            with self._lock:
                if self.held >= self.requested["buffer_count"]:
                    # The application holds all buffers, so the camera has none to fill.
                    continue
                request = Request(self, self._seq)
                self.held += 1
                for old in self._queue:
                    old.release()
                self._queue = [request]
                self._serve()
            self._seq += 1
            # A frame is drawn after the application received it.
            if preview is Preview.DRM:
                # The thread dies of "Failed to reserve DRM plane", which appears only on stderr.
                if plan.screen == "render":
                    return
                self.drawn += 1

    def _serve(self) -> None:
        if self._jobs and self._queue:
            self._jobs.pop(0).set_result(self._queue.pop(0))

    def capture_request(self, wait: bool | None = None, signal_function: None = None, flush: None = None) -> Job:
        assert wait is False, "a capture without a time limit waits for ever if the event loop is dead"
        job = Job()
        with self._lock:
            self._jobs.append(job)
            self._serve()
        return job

    def cancel_all_and_flush(self) -> None:
        if plan.cancel_hangs:
            time.sleep(30)
        with self._lock:
            self.cancelled += 1
            self._jobs.clear()

    @property
    def jobs_waiting(self) -> int:
        return len(self._jobs)

    def stop(self) -> None:
        raise AssertionError("stop() waits for the event loop; close() is to be called directly")

    def close(self) -> None:
        if plan.close_hangs:
            time.sleep(30)
        self._loop_ends.set()
        if self._loop is not None:
            self._loop.join()
        self.closed = True
