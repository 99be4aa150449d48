"""Reads Raspberry Pi cameras by picamera2; the ISP scales each frame to two sizes, for display and model."""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from camapp.capture.clock import SensorClock
from camapp.capture.drm_preview import DrmPreview
from camapp.capture.rate_monitor import RateMonitor
from camapp.capture.source import EndOfStream, Source, SourceOptions
from camapp.core.arrays import Pixels
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceDenied, SourceError, SourceLost
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout
from camapp.core.settings import parse_float
from camapp.core.timeouts import call_bounded
from camapp.system.video_devices import DEV, JOIN_VIDEO, PROC, busy_advice

log = logging.getLogger(__name__)

_DEFAULT_SIZE, _DEFAULT_FPS = (1280, 720), 30.0
# Seconds between looks at whether the run ends, while a frame is awaited.
_STEP_S = 0.1
# Numbers of buffers to try; the second if memory is short.
_BUFFER_COUNTS = 4, 2
# Share of the widest view that counts as the full one: a binned mode may lose a few columns of the sensor.
_FULL_VIEW = 0.95

# libcamera names formats as little-endian words, so the bytes in memory are reversed.
_PACKED = {
    "XBGR8888": (Layout.RGBX, 4),
    "XRGB8888": (Layout.BGRX, 4),
    "BGR888": (Layout.RGB, 3),
    "RGB888": (Layout.BGR, 3),
}
_PLANAR = "YUV420", "NV12"


def import_picamera2() -> Any:
    """Import the picamera2 module.

    Raises:
        PermanentSourceError: it is missing or broken; the message contains the commands that repair it.
    """
    os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:WARN")
    try:
        return import_module("picamera2")
    except ModuleNotFoundError as error:
        raise PermanentSourceError(
            f"Pi cameras need picamera2, and Python module '{error.name}' is missing: "
            "run 'sudo apt install -y python3-picamera2 --no-install-recommends', "
            "then make the environment with 'python3 -m venv --system-site-packages .venv'"
        ) from error
    except (ImportError, ValueError) as error:
        if "numpy" not in str(error):
            raise PermanentSourceError(f"picamera2 cannot be imported: {error}") from error
        raise PermanentSourceError(
            f"picamera2 was built for another NumPy ({error}): pip's NumPy {np.__version__} hides the one of apt; "
            "run 'pip uninstall -y numpy opencv-python', then 'sudo apt install -y python3-numpy python3-opencv'"
        ) from error


def pi_cameras() -> list[dict[str, Any]]:
    """Return picamera2's records (Model, Num, Id, ...) of the cameras on the Pi's ribbon connectors, without USB ones.

    Raises:
        SourceError: picamera2 is missing, or fails.
    """
    picamera2 = import_picamera2()
    try:
        infos = picamera2.Picamera2.global_camera_info()
    except (RuntimeError, OSError) as error:
        raise SourceLost(f"libcamera cannot list the cameras: {error}") from error
    return [info for info in infos if "/usb" not in str(info.get("Id", ""))]


@dataclass(frozen=True)
class CameraTimeouts:
    """Bounds calls into libcamera, which may hang.

    Attributes:
        open_s: seconds to acquire, configure and start the camera.
        close_s: seconds to close it, to switch its preview, or to cancel a request.
    """

    open_s: float = 10.0
    close_s: float = 2.0


class PicameraSource(Source):
    """Reads `picamera://0`: the main stream for display and the lores stream for the model, one request per frame.

    The camera itself flips and rotates by 180 degrees; see `remaining_orientation`.

    Attributes:
        timeouts: as given; may be changed before `open`.
        rate_monitor: compares the frames with the configured rate; may be replaced before `open`.
    """

    def __init__(self, uri: str, options: SourceOptions, timeouts: CameraTimeouts = CameraTimeouts()) -> None:
        super().__init__(uri, options)
        self.timeouts = timeouts
        self.rate_monitor = RateMonitor()
        number = uri.partition("://")[2] or "0"
        if not number.isdecimal():
            raise PermanentSourceError(f"'{uri}' names no Pi camera: write picamera://0")
        self._number = int(number)
        self._camera: Any = None
        self._model = ""
        self._streams: dict[str, dict[str, Any]] = {}
        self._remaining = options.hflip, options.vflip, options.rotate
        self._stuck = False
        self._clock = SensorClock(uri)
        self._preview: DrmPreview | None = None

    def open(self) -> None:
        """Acquire, configure and start the camera, within `timeouts.open_s`.

        Raises:
            SourceLost: it is absent, busy or silent, or memory is short.
            SourceDenied: this user may not use it.
            PermanentSourceError: picamera2 is missing, the camera does not support the options, or it hangs.
        """
        if self._stuck:
            raise PermanentSourceError(
                f"{self.uri} hangs inside libcamera since it was last opened or closed: start camapp again"
            )
        self.rate_monitor.restart()
        try:
            call_bounded(self._acquire, self.timeouts.open_s, "picamera-open")
        except TimeoutError as error:
            # The stuck thread may still acquire the camera later, so only another process can try again.
            self._stuck = True
            self.close()
            raise PermanentSourceError(
                f"{self.uri} did not start within {self.timeouts.open_s:g} s: start camapp again, or reboot"
            ) from error
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> Shot:
        """Return the camera's newest frame: both images and the time stamp of the same request."""
        if self._camera is None:
            raise SourceLost(f"{self.uri} is not open")
        with self._translated():
            self._settle_preview()
            request = self._next_request(timeout)
            try:
                metadata = request.get_metadata()
                buffers = {name: request.make_buffer(name) for name in self._streams}
            finally:
                request.release()
        view, model_view = (_image(buffers[name], self._streams[name]) for name in ("main", "lores"))
        stamp = self._clock.checked(metadata.get("SensorTimestamp", 0))
        self.rate_monitor.add(self._model, self.fps, stamp or time.monotonic_ns(), metadata.get("ExposureTime", 0))
        return Shot(view, model_view, stamp)

    def close(self) -> None:
        """Close the camera; after `timeouts.close_s` a hanging one is left open until the process ends."""
        camera, self._camera = self._camera, None
        if camera is None:
            return
        if self._preview is not None:
            self._preview.on_closed()
        # Without stop() first: it waits for the event loop, which may have died.
        try:
            call_bounded(camera.close, self.timeouts.close_s, "picamera-close")
        except TimeoutError:
            self._stuck = True
            log.error(
                "%s did not close within %g s; it stays in use until this program ends",
                self._model,
                self.timeouts.close_s,
            )
        except (RuntimeError, OSError) as error:
            log.warning("%s did not close cleanly: %s", self._model, error)

    def describe(self) -> str:
        """Return model, sizes and rate as configured."""
        if not self._streams:
            return self.uri
        main, lores = ("{}x{}".format(*self._streams[name]["size"]) for name in ("main", "lores"))
        return f"{self._model} {main} at {self.fps:g} fps, lores {lores}"

    @property
    def remaining_orientation(self) -> tuple[bool, bool, int]:
        """Return the orientation left to the caller: quarter turns, and flips that the camera does not support."""
        return self._remaining

    @property
    def slowness(self) -> str:
        """Return why the camera is slower than its configured rate."""
        return self.rate_monitor.reason

    def try_open(self) -> None:
        """Look for the camera; another run may be using it."""
        with self._translated():
            self._find()

    @property
    def drm_preview(self) -> DrmPreview | None:
        """Return the preview on a console's screen, unless the image needs an orientation that the camera cannot do."""
        return None if any(self._remaining) else self._preview

    def _acquire(self) -> None:
        picamera2 = import_picamera2()
        libcamera = import_module("libcamera")
        with self._translated():
            self._model = str(self._find()["Model"])
            self._camera = picamera2.Picamera2(self._number)
            self._configure(libcamera)
            self._camera.set_controls(
                _controls(self.options.controls, self._camera.camera_controls, libcamera.controls)
            )
            self._camera.start()
        self._preview = self._preview or DrmPreview(picamera2.Preview)

    def _find(self) -> dict[str, Any]:
        cameras = pi_cameras()
        for camera in cameras:
            if camera["Num"] == self._number:
                return camera
        if cameras:
            found = ", ".join(f"picamera://{camera['Num']} ({camera['Model']})" for camera in cameras)
            raise PermanentSourceError(f"there is no {self.uri}; there is {found}")
        raise _no_camera()

    def _configure(self, libcamera: Any) -> None:
        """Configure, with fewer buffers if memory is short, and read back the resulting streams."""
        width, height = (side // 2 * 2 for side in self.options.size or _DEFAULT_SIZE)
        half_turn = self.options.rotate == 180
        hflip, vflip = self.options.hflip ^ half_turn, self.options.vflip ^ half_turn
        sensor = self._sensor_mode((width, height))
        period_us = round(1e6 / self.fps)
        has_rate = "FrameDurationLimits" in self._camera.camera_controls
        for buffers in _BUFFER_COUNTS:
            configuration = self._camera.create_video_configuration(
                main={"size": (width, height), "format": "XBGR8888"},
                lores={"size": lores_size((width, height), self.options.model_size), "format": "YUV420"},
                raw=None,
                sensor=sensor,
                transform=libcamera.Transform(hflip=hflip, vflip=vflip),
                # The matrix and range by which Image decodes I420.
                colour_space=libcamera.ColorSpace.Smpte170m(),
                buffer_count=buffers,
                controls={"FrameDurationLimits": (period_us, period_us)} if has_rate else {},
            )
            try:
                self._camera.configure(configuration)
                break
            except (OSError, RuntimeError) as error:
                if not _out_of_memory(error) or buffers == _BUFFER_COUNTS[-1]:
                    raise
                log.warning("%s; trying with fewer buffers", _memory_message())
        got = self._camera.camera_configuration()
        self._streams = {name: dict(got[name]) for name in ("main", "lores")}
        for name, stream in self._streams.items():
            if stream["format"] not in _PACKED and stream["format"] not in _PLANAR:
                allowed = ", ".join((*_PACKED, *_PLANAR))
                raise PermanentSourceError(
                    f"{self._model} gives its {name} stream as {stream['format']}; camapp reads {allowed}"
                )
        quarter = self.options.rotate if self.options.rotate in (90, 270) else 0
        self._remaining = hflip != bool(got["transform"].hflip), vflip != bool(got["transform"].vflip), quarter

    def _sensor_mode(self, size: tuple[int, int]) -> dict[str, Any]:
        """Choose the sensor mode and set `fps`. By default, picamera2 may choose a mode with a narrower view."""
        self.fps = self._rate()
        try:
            modes = [mode for mode in self._camera.sensor_modes if "crop_limits" in mode]
        except (RuntimeError, OSError, LookupError, AttributeError) as error:
            log.warning(
                "%s does not list its sensor modes (%s): its view may be narrower than possible", self._model, error
            )
            return {}
        if not modes:
            return {}
        mode = best_mode(modes, size, self.fps)
        if mode["fps"] < self.fps:
            log.warning("%s gives %g fps at most, %g were requested", self._model, mode["fps"], self.fps)
            self.fps = float(mode["fps"])
        return {"output_size": mode["size"], "bit_depth": mode["bit_depth"]}

    def _rate(self) -> float:
        """Return the rate to configure: the requested one, or what a requested exposure leaves of it."""
        fps = self.options.fps or self.options.target_fps or _DEFAULT_FPS
        exposure_us = _parse_value(self.options.controls.get("ExposureTime", "0"), 0.0)
        # What is no number is refused by `_controls`.
        if not isinstance(exposure_us, float) or exposure_us * fps <= 1e6:
            return fps
        possible = 1e6 / exposure_us
        log.warning("an ExposureTime of %g ms leaves %.3g of %g frames/s", exposure_us / 1000, possible, fps)
        return possible

    def _settle_preview(self) -> None:
        assert self._preview is not None
        if self._preview.settled:
            return
        try:
            call_bounded(partial(self._preview.settle, self._camera), self.timeouts.close_s, "picamera-preview")
        except TimeoutError as error:
            raise SourceLost(f"{self._model}: picamera2's event loop hangs") from error

    def _next_request(self, timeout: float) -> Any:
        assert self._preview is not None
        deadline = time.monotonic() + timeout
        job = self._camera.capture_request(wait=False)
        while True:
            try:
                request = job.get_result(timeout=min(_STEP_S, timeout))
                self._preview.on_frame()
                return request
            except TimeoutError as error:
                late = time.monotonic() > deadline
                if not late and not self.stopping.is_set():
                    continue
                self._cancel_requests()
                if not late:
                    raise EndOfStream("stopped") from error
                self._preview.on_timeout()
                raise SourceLost(
                    f"{self._model} gave no frame for {timeout:g} s: check its ribbon cable and the power supply"
                ) from error

    def _cancel_requests(self) -> None:
        """Cancel the request that did not come: picamera2 keeps it queued, and it would take the next frame."""
        try:
            call_bounded(self._camera.cancel_all_and_flush, self.timeouts.close_s, "picamera-cancel")
        except TimeoutError:
            log.warning("%s: picamera2's event loop hangs", self._model)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate picamera2's errors to ours."""
        try:
            yield
        except IndexError as error:
            raise _no_camera() from error
        except PermissionError as error:
            raise SourceDenied(f"{self.uri}: {error}: {JOIN_VIDEO}") from error
        except (OSError, RuntimeError) as error:
            raise self._translate(error) from error

    def _translate(self, error: OSError | RuntimeError) -> SourceError:
        text = _error_chain(error)
        if _out_of_memory(error):
            return SourceLost(_memory_message())
        if "busy" in text.lower():
            return SourceAbsent(f"{self.uri} is {busy_advice(*sorted(DEV.glob('media*')))}")
        if "dmaHeap" in text:
            return SourceDenied(f"{self.uri}: no access to /dev/dma_heap: {JOIN_VIDEO}")
        if "no camera" in text.lower():
            return _no_camera()
        if "configuration" in text.lower():
            return PermanentSourceError(f"{self._model} rejects the configuration: {text}; try another --size")
        return SourceLost(f"{self.uri} failed: {text}")


def lores_size(main: tuple[int, int], needed: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest even size with the aspect of `main` that contains `needed`, at most `main`.

    An exact aspect is preferred if it costs at most a quarter more on each side.
    """
    width, height = main
    scale = max(needed[0] / width, needed[1] / height)
    if scale >= 1:
        return main
    min_rows = math.ceil(height * scale / 2) * 2
    for rows in range(min_rows, min(height, min_rows * 5 // 4) + 1, 2):
        if rows * width % (2 * height) == 0:
            return rows * width // height, rows
    return min(width, math.ceil(width * scale / 2) * 2), min_rows


def best_mode(modes: list[dict[str, Any]], size: tuple[int, int], fps: float) -> dict[str, Any]:
    """Return the smallest sensor mode with, in order of importance, the rate, the full view and the pixels."""

    def view(mode: dict[str, Any]) -> int:
        return int(mode["crop_limits"][2] * mode["crop_limits"][3])

    def pixels(mode: dict[str, Any]) -> int:
        return int(mode["size"][0] * mode["size"][1])

    top = min(fps, max(mode["fps"] for mode in modes))
    # Rates differ a little from round numbers (29.97), and the driver reports them to 0.01.
    fast = [mode for mode in modes if mode["fps"] >= 0.99 * top]
    full = [mode for mode in fast if view(mode) >= _FULL_VIEW * max(map(view, fast))]
    enough = [mode for mode in full if mode["size"][0] >= size[0] and mode["size"][1] >= size[1]]
    return min(enough, key=pixels) if enough else max(full, key=pixels)


def _image(buffer: Pixels, stream: Mapping[str, Any]) -> Image:
    """Wrap the buffer of a stream (1-D, rows padded to the stride) as an image."""
    (width, height), stride = stream["size"], stream["stride"]
    if stream["format"] in _PACKED:
        layout, depth = _PACKED[stream["format"]]
        rows = buffer[: height * stride].reshape(height, stride)
        return Image(rows[:, : width * depth].reshape(height, width, depth), layout, width, height)
    rows = buffer[: height * 3 // 2 * stride].reshape(height * 3 // 2, stride)
    if stream["format"] == "NV12":
        rows = _nv12_to_i420(rows, height)
    return Image(rows, Layout.I420, width, height)


def _nv12_to_i420(rows: Pixels, height: int) -> Pixels:
    out = np.empty_like(rows)
    out[:height] = rows[:height]
    planes = out[height:].reshape(2, height // 2, -1)
    planes[0], planes[1] = rows[height:, 0::2], rows[height:, 1::2]
    return out


def _controls(requested: Mapping[str, str], available: Mapping[str, Any], enums: Any) -> dict[str, Any]:
    """Parse controls; `available` is picamera2's {name: (minimum, maximum, default)}."""
    for name in requested:
        if name not in available:
            raise PermanentSourceError(f"this camera has no control '{name}'; it has {', '.join(sorted(available))}")
    if "AfMode" in available and not {"AfMode", "LensPosition"} & requested.keys():
        # libcamera's own default is manual focus, which leaves a Camera Module 3 blurred.
        requested = {"AfMode": "Continuous", **requested}
    return {name: _control_value(name, text, available[name], enums) for name, text in requested.items()}


def _control_value(name: str, text: str, limits: tuple[Any, Any, Any], enums: Any) -> Any:
    members = _enum_of(name, enums)
    if text in members:
        return members[text]
    value = _parse_value(text, limits[0])
    if value is None:
        allowed = ", ".join(members) if members else f"{limits[0]} to {limits[1]}"
        raise PermanentSourceError(f"control {name}={text} is not valid; allowed: {allowed}")
    minimum, maximum = limits[:2]
    single = all(isinstance(number, int | float) for number in (value, minimum, maximum))
    if single and minimum <= maximum and not minimum <= value <= maximum:
        raise PermanentSourceError(f"control {name}={text} is out of range; allowed: {minimum} to {maximum}")
    return value


def _enum_of(name: str, enums: Any) -> Mapping[str, Any]:
    """Return the members of libcamera's enum for a control, such as AfModeEnum; {} if there is none."""
    for namespace in (enums, getattr(enums, "draft", None)):
        enum = getattr(namespace, f"{name}Enum", None)
        if enum is not None:
            members: Mapping[str, Any] = enum.__members__
            return members
    return {}


def _parse_value(text: str, like: object) -> bool | int | float | tuple[int | float, ...] | None:
    """Parse text to the type of `like` (bool, int or float), or to a tuple of numbers at commas; None if invalid."""
    if isinstance(like, bool):
        return {"true": True, "on": True, "yes": True, "1": True}.get(
            text.lower(), False if text.lower() in ("false", "off", "no", "0") else None
        )
    try:
        if "," in text:
            return tuple(float(part) if "." in part else int(part) for part in text.split(","))
        return parse_float(text) if isinstance(like, float) else int(text)
    except ValueError:
        return None


def _no_camera() -> SourceError:
    nodes = sorted(DEV.glob("media*"))
    if nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return SourceDenied(f"this user may not access the Pi camera: {JOIN_VIDEO}")
    return SourceAbsent(
        "no Pi camera found: check the ribbon cable (power off first) and, for cameras of other makers, "
        "the dtoverlay line in /boot/firmware/config.txt; 'rpicam-hello --list-cameras' must show it"
    )


def _out_of_memory(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOMEM or "allocate" in _error_chain(error)


def _memory_message() -> str:
    """Return a message with the free memory for camera buffers, and the remedies."""
    values = {}
    for line in Path(PROC / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        values[name] = value.strip()
    total, free = values.get("CmaTotal", "unknown"), values.get("CmaFree", "unknown")
    return (
        f"no memory for camera buffers (CmaTotal {total}, CmaFree {free}): close other camera programs, "
        "use a smaller --size, or set dtoverlay=vc4-kms-v3d,cma-256 in /boot/firmware/config.txt"
    )


def _error_chain(error: BaseException) -> str:
    """Return the texts of an error and its causes, outermost first."""
    parts = []
    link: BaseException | None = error
    while link is not None:
        parts.append(str(link))
        link = link.__cause__ or link.__context__
    return ": ".join(parts)
