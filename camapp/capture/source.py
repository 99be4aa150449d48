"""The Source protocol, its errors, and the registry that turns a URI into a Source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from camapp.capture.drm_preview import DrmPreview
from camapp.core.errors import PermanentSourceError
from camapp.core.frames import Shot

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


class EndOfStream(Exception):
    """A file or folder has no more images: the normal end."""


@dataclass(frozen=True)
class SourceOptions:
    """What the user asked of a source; one that cannot do a thing says so or does the nearest.

    Attributes:
        size: (width, height) of the view; None leaves it to the source (cameras and patterns: 1280x720).
        fps: frames a second asked of cameras and patterns, and the pace of image folders; None leaves it.
        target_fps: what cameras are set to where `fps` is None; None leaves it to them.
        realtime: None follows the source's nature (cameras and patterns live, files every frame).
        loop: start files again at their end.
        hflip: mirror left and right. Sources with a camera's own transform do it there.
        vflip: mirror top and bottom.
        rotate: 0, 90, 180 or 270 degrees clockwise, after the flips.
        controls: camera controls by libcamera's (or OpenCV's CAP_PROP_) name.
        model_size: smallest (width, height) that the model needs from `model_view`.
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


class Source(ABC):
    """A device or file that yields shots.

    One thread calls `open`, then `read` again and again, then `close`; after `SourceLost` and `close` a source
    may be opened again.

    Attributes:
        live: newest frame wins and the source is retried when lost; else every frame counts, in order.
        fps: nominal frames a second, known after `open`; 0 when it has none.
    """

    live: bool = True
    fps: float = 0.0

    def __init__(self, uri: str, options: SourceOptions) -> None:
        self.uri = uri
        self.options = options

    @abstractmethod
    def open(self) -> None:
        """Acquire the device. Raises PermanentSourceError or SourceLost; bounded in time."""

    @abstractmethod
    def read(self, timeout: float) -> Shot:
        """Wait at most about `timeout` seconds for the next shot.

        Raises:
            EndOfStream: there are no more.
            SourceLost: none came in time, or the device went away.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device; safe to call twice and after a failed `open`."""

    def describe(self) -> str:
        """One line for people, such as 'imx708 1280x720 at 30 fps, lores 320x240'."""
        return redacted(self.uri)

    @property
    def slowness(self) -> str:
        """Why a camera gives fewer frames than it was set to, such as 'low light, ...'; "" while it does not."""
        return ""

    @property
    def drm_preview(self) -> DrmPreview | None:
        """The device's own way of showing its image; None where it has none, or before `open`."""
        return None

    @property
    def remaining_orientation(self) -> tuple[bool, bool, int]:
        """(hflip, vflip, rotate) that the caller must still apply to every shot; known after `open`."""
        return self.options.hflip, self.options.vflip, self.options.rotate


# scheme -> module:class, imported when first used: picamera2 and OpenCV are heavy.
REGISTRY = {
    "auto": "camapp.capture.auto:AutoSource",
    "picamera": "camapp.capture.picamera2:PicameraSource",
    "v4l2": "camapp.capture.opencv:CameraSource",
    "rtsp": "camapp.capture.opencv:StreamSource",
    "rtsps": "camapp.capture.opencv:StreamSource",
    "http": "camapp.capture.opencv:StreamSource",
    "https": "camapp.capture.opencv:StreamSource",
    "video": "camapp.capture.opencv:VideoSource",
    "images": "camapp.capture.images:ImagesSource",
    "pattern": "camapp.capture.pattern:PatternSource",
}


def scheme_of(uri: str) -> str:
    """The registry key for a URI or a path: paths become `video` or `images` by what they are."""
    if uri == "auto":
        return uri
    scheme, sep, _ = uri.partition("://")
    if sep and scheme != "file":
        if scheme not in REGISTRY:
            known = ", ".join(f"{name}://" for name in REGISTRY if name not in ("auto", "video", "images"))
            raise PermanentSourceError(
                f"unknown source scheme '{scheme}://' in '{uri}'; known are {known} and file paths"
            )
        return scheme
    path = local_path(uri)
    if path.match("/dev/video*"):
        return "v4l2"
    if any(char in uri for char in "*?[") and not path.exists():
        return "images"
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return "images"
    return "video"


def local_path(uri: str) -> Path:
    """The path in a `file://`, `images://` or `video://` URI, or the plain path itself."""
    return Path(uri.partition("://")[2] if "://" in uri else uri).expanduser()


def redacted(uri: str) -> str:
    """The URI as it may be shown or logged: user, password and query are credentials as often as not."""
    scheme, sep, rest = uri.partition("://")
    if scheme not in ("rtsp", "rtsps", "http", "https"):
        return uri
    # The last @, for a password may hold a bare / or ?, against the rules.
    _, at, address = rest.rpartition("@")
    address, question, _ = address.partition("?")
    return f"{scheme}{sep}{'***@' if at else ''}{address}{'?***' if question else ''}"


def query_of(uri: str) -> dict[str, str]:
    """The options after `?` in a URI such as `pattern://digits?size=640x480&seed=1`."""
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))


def create_source(uri: str, options: SourceOptions) -> Source:
    """The Source for a URI, not yet opened.

    Raises:
        PermanentSourceError: unknown scheme, or options that the URI cannot have.
    """
    module, _, name = REGISTRY[scheme_of(uri)].partition(":")
    source: Source = getattr(import_module(module), name)(uri, options)
    return source
