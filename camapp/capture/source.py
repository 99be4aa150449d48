"""Defines sources, and makes one from a URI."""

from __future__ import annotations

import math
import os
import re
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from camapp.core.errors import BadSource, PermanentSourceError
from camapp.core.frames import Shot
from camapp.core.zones import parse_regions

if TYPE_CHECKING:
    from camapp.capture.drm_preview import DrmPreview
    from camapp.core.settings import Settings
    from engine.model import Model

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif", ".jxl"),
}
# Schemes of network streams that FFmpeg may know. Their user, password and query are shown nowhere.
_STREAMS = (
    *("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts", "udp", "udplite", "srt", "rtp", "srtp"),
    *("tcp", "tls", "rist", "mms", "mmsh", "mmst"),
)
_HTTP = ("http", "https")
# `tub:FOLDER` is a folder as donkeycar records it; catalogs are of its version 2, records of its version 1.
_TUB, _TUB_FILE = "tub:", re.compile(r"catalog_\d+\.catalog|record_\d+\.json")
# Beginnings of picture files, by which a file without a known suffix is recognised.
_PICTURES = (b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_JPEG, _JPEG_BEHIND_JPEG = b"\xff\xd8\xff", b"\xff\xd9\xff\xd8\xff"
_LONGEST_PICTURE = 64 << 20
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")


class EndOfStream(Exception):
    """Signals the normal end of a file or folder."""


@dataclass(frozen=True)
class SourceOptions:
    """Holds the user's requests; a source that cannot fulfil one logs that, or uses the nearest value.

    Attributes:
        size: (width, height) of the view; None is the source's default (cameras and patterns: 1280x720).
        fps: rate of cameras, patterns and image folders; None is the source's default.
        target_fps: rate of cameras if `fps` is None; None is the camera's default.
        realtime: None depends on the source (cameras and patterns live, files every frame).
        loop: restart files at their end.
        hflip: mirror left and right, by the camera itself if it can.
        vflip: mirror top and bottom, likewise.
        rotate: 0, 90, 180 or 270 degrees clockwise, after the flips.
        controls: camera controls by libcamera's (or OpenCV's CAP_PROP_) name.
        model_size: smallest (width, height) of `model_view` that the model needs.
        open_timeout: seconds for a stream to connect and give its first frame; None is the source's default.
        read_timeout: seconds to wait for a frame; None derives them from the rate.
        labels: of the model; an image file has a truth if its path names one of them.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    target_fps: float | None = None
    realtime: bool | None = None
    loop: bool = False
    hflip: bool = False
    vflip: bool = False
    rotate: int = 0
    controls: dict[str, str] = field(default_factory=dict)
    model_size: tuple[int, int] = (320, 240)
    open_timeout: float | None = None
    read_timeout: float | None = None
    labels: tuple[str, ...] = ()


class Source(ABC):
    """Yields shots from a device or file.

    One thread calls `open`, then `read` repeatedly, then `close`; after `SourceLost` and `close` a source may be
    opened again.

    Attributes:
        live: whether the newest frame wins and a lost source is opened again; else every frame counts, in order.
        fps: nominal frames per second, known after `open`; 0 if there is none.
        finite: whether it is a file, which can wait while a run is paused even if it is played at its own pace.
        regular: whether frames are taken at a steady rate, so that a gap means missed ones; files may vary theirs.
        stopping: set when the run ends; waits that may be long end with it.
    """

    live: bool = True
    finite: bool = False
    fps: float = 0.0
    regular: bool = True
    # For a subclass that does not call `__init__`.
    uri: str = ""
    options: SourceOptions = SourceOptions()
    stopping: threading.Event = threading.Event()

    def __init__(self, uri: str = "", options: SourceOptions | None = None) -> None:
        self.uri = uri
        self.options = options or SourceOptions()

    @abstractmethod
    def open(self) -> None:
        """Acquire the device, within bounded time. Raises PermanentSourceError or SourceLost."""

    @abstractmethod
    def read(self, timeout: float) -> Shot:
        """Return the next shot, waiting about `timeout` seconds at most.

        A file that is played at its own pace waits until the next frame is due, or `stopping` is set.

        Raises:
            EndOfStream: there are no more shots.
            SourceLost: no shot came in time, or the device is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device; may be called twice and after a failed `open`."""

    def resume(self) -> None:
        """Continue after a pause in which nothing was read: the next frame of a file is due now."""

    def try_open(self) -> None:
        """Prove that the source can be opened, without keeping it. Raises as `open` does.

        Sources that another run may be using look for their device only.
        """
        try:
            self.open()
        finally:
            self.close()

    def describe(self) -> str:
        """Return a line for the user, such as 'imx708 1280x720 at 30 fps, lores 320x240'."""
        return redacted(self.uri)

    def processes(self) -> list[int]:
        """Return the numbers of the processes that decode for this source."""
        return []

    @property
    def learned(self) -> Mapping[str, float]:
        """Return what a task has learned of this source's camera before; see `Task.recall`."""
        return {}

    @property
    def slowness(self) -> str:
        """Return why a camera is slower than its configured rate, such as 'low light, ...'; "" if it is not."""
        return ""

    @property
    def drm_preview(self) -> DrmPreview | None:
        """Return the preview of the device itself; None if it has none, or before `open`."""
        return None

    @property
    def remaining_orientation(self) -> tuple[bool, bool, int]:
        """Return (hflip, vflip, rotate) that the caller must still apply to every shot; known after `open`."""
        return self.options.hflip, self.options.vflip, self.options.rotate


# scheme -> module:class, imported on first use because picamera2 and OpenCV load slowly.
REGISTRY = {
    "auto": "camapp.capture.auto:AutoSource",
    "webcam": "camapp.capture.auto:WebcamSource",
    "picamera": "camapp.capture.picamera2:PicameraSource",
    "v4l2": "camapp.capture.opencv:CameraSource",
    **dict.fromkeys(_STREAMS, "camapp.capture.stream:StreamSource"),
    **dict.fromkeys(_HTTP, "camapp.capture.mjpeg:HttpSource"),
    "pipe": "camapp.capture.stream:PipeSource",
    "video": "camapp.capture.video:VideoSource",
    "images": "camapp.capture.images:ImagesSource",
    "tub": "camapp.capture.tub:TubSource",
    "pattern": "camapp.capture.pattern:PatternSource",
}

# Sources that are no address.
_WORDS = ("auto", "webcam")
# The schemes that an error lists.
_SHOWN = ("picamera", "v4l2", "rtsp", "http", "https", "rtmp", "udp", "srt", "tcp", "pattern")


def scheme_of(uri: str) -> str:
    """Return the registry key of a URI or path; a path is `video`, `images`, `tub` or `pipe`."""
    if uri in _WORDS and not Path(uri).exists():
        return uri
    if uri.lower().startswith(_TUB):
        return "tub"
    scheme, sep, _ = uri.partition("://")
    scheme = scheme.lower()
    if sep and scheme != "file":
        if scheme not in REGISTRY or scheme in _WORDS:
            known = ", ".join([*(f"{name}://" for name in _SHOWN), "tub:FOLDER"])
            raise PermanentSourceError(
                f"unknown source scheme '{scheme}://' in '{uri}'; known are {known} and file paths"
            )
        return scheme
    if uri == "-":
        return _standard_input()
    path = local_path(uri)
    if path.match("/dev/video*"):
        return "v4l2"
    if any(char in uri for char in "*?[") and not path.exists():
        return "images"
    if path.is_dir() and is_tub(path):
        return "tub"
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES or _holds_picture(path):
        return "images"
    return "pipe" if path.is_fifo() else "video"


def is_tub(folder: Path) -> bool:
    """Return whether a folder holds a donkeycar tub, of version 1 or 2."""
    try:
        with os.scandir(folder) as entries:
            return any(_TUB_FILE.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False


def _standard_input() -> str:
    """Return `video` if standard input comes from a file, which has an end and can be read again, else `pipe`."""
    try:
        return "video" if stat.S_ISREG(os.fstat(0).st_mode) else "pipe"
    except OSError as error:
        raise PermanentSourceError("standard input is closed: --source - reads what comes through a pipe") from error


def _holds_picture(path: Path) -> bool:
    """Return whether a file holds a picture by its content; JPEG pictures one after another are a video."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if head.startswith(_JPEG):
                return _JPEG_BEHIND_JPEG not in head + file.read(_LONGEST_PICTURE)
    except OSError:
        return False
    if head[4:8] == b"ftyp":
        return head[8:12] in _PICTURE_BRANDS
    return head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def local_path(uri: str) -> Path:
    """Return the path in a `file://`, `images://`, `video://` or `tub:` URI, or a plain path itself.

    A `file://` URI may name its characters by %XX, as browsers and file managers write it, or have them as they are.
    """
    if uri == "-":
        return Path(f"/proc/{os.getpid()}/fd/0")
    if uri.lower().startswith(_TUB):
        return _expanded(Path(uri[len(_TUB) :].removeprefix("//")))
    scheme, sep, rest = uri.partition("://")
    path = _expanded(Path(rest if sep else uri))
    if not sep:
        return path
    if scheme.lower() != "file" or path.exists():
        return path
    return Path(os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost"))))


def _expanded(path: Path) -> Path:
    """Return a path with ~ and ~USER replaced, unless there is no such user: then it is a name like any other."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def redacted(uri: str) -> str:
    """Return the URI for display and logs: without user, password and query, which may be credentials."""
    scheme, sep, rest = uri.partition("://")
    if not sep or scheme.lower() not in (*_STREAMS, *_HTTP):
        return uri
    # Split at the last @, because passwords may contain an unescaped / or ?.
    user, at, address = rest.rpartition("@")
    address, question, _ = address.partition("?")
    return f"{scheme}{sep}{'***' if user else ''}{at}{address}{'?***' if question else ''}"


def sane_fps(fps: float) -> float:
    """Return the rate, or 0 if it is implausible."""
    return fps if 0 < fps <= 1000 else 0.0


def query_of(uri: str) -> dict[str, str]:
    """Return the options after `?` in a URI such as `pattern://digits?size=640x480&seed=1`."""
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))


def create_source(uri: str, options: SourceOptions) -> Source:
    """Make the source of a URI, not yet opened.

    Raises:
        PermanentSourceError: unknown scheme, or options that the URI does not allow.
    """
    module, _, name = REGISTRY[scheme_of(uri)].partition(":")
    source: Source = getattr(import_module(module), name)(uri, options)
    return source


def options_of(settings: Settings, model: Model, watched: bool = False) -> SourceOptions:
    """Return the options of a source from the settings and the model's input size.

    Args:
        watched: a person looks at it in a window, where a film or a tub has its own pace unless --realtime or --drawn
            says more.
    """
    _, height, width = model.card.input_shape
    own_pace = watched and settings.drawn is None and scheme_of(settings.source) in ("video", "tub")
    # A region is enlarged to the model's input, so the whole image needs more pixels than that.
    parts = [region.roi for region in parse_regions(settings.region)] or [settings.roi or (0.0, 0.0, 1.0, 1.0)]
    needed = (max(320, *(width / part[2] for part in parts)), max(240, *(height / part[3] for part in parts)))
    return SourceOptions(
        size=settings.size,
        fps=settings.fps,
        target_fps=settings.target_fps,
        realtime=True if own_pace and settings.realtime is None else settings.realtime,
        loop=settings.loop,
        hflip=settings.hflip,
        vflip=settings.vflip,
        rotate=settings.rotate,
        controls=settings.controls,
        # The model's view has room for a crop; tasks that search the image need about this size anyway.
        model_size=(math.ceil(needed[0]), math.ceil(needed[1])),
        open_timeout=settings.open_timeout,
        read_timeout=settings.read_timeout,
        labels=model.card.labels,
    )


def build_source(
    settings: Settings, model: Model, own: Source | type[Source] | None = None, watched: bool = False
) -> Source:
    """Create the source that the settings name, not yet opened.

    Args:
        own: source to use instead, or its class, which is created with the URI and options of the settings. A source
            that was created with options of its own keeps them.
        watched: as for `options_of`.

    Raises:
        BadSource: the URI or an option is wrong. Creating a source touches no device.
    """
    if own is not None:
        options = options_of(settings, model)
        source = own if isinstance(own, Source) else own(settings.source, options)
        if source.options == SourceOptions():
            source.options = options
        source.uri = source.uri or settings.source
        return source
    try:
        return create_source(settings.source, options_of(settings, model, watched))
    except PermanentSourceError as error:
        raise BadSource(str(error)) from error
