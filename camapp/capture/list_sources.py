"""Lists the sources of this machine for `camapp sources`, and why some cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from camapp.capture.picamera2 import pi_cameras
from camapp.core.errors import SourceError
from camapp.scenes.scene import REGISTRY as SCENES
from camapp.system.video_devices import video_nodes

READY = "ready"


@dataclass(frozen=True)
class SourceInfo:
    """Describes one source.

    Attributes:
        uri: value for --source.
        status: 'ready', or why it cannot be used and the remedy.
    """

    uri: str
    name: str
    detail: str
    status: str = READY


def list_sources() -> list[SourceInfo]:
    """Return Pi cameras, V4L2 devices and built-in patterns. Missing devices or packages raise no error."""
    return [*_pi_cameras(), *_webcams(), *_patterns()]


def _pi_cameras() -> list[SourceInfo]:
    # Machines other than a Pi have no picamera2, which needs no report.
    if find_spec("picamera2") is None:
        return []
    try:
        cameras = pi_cameras()
    except SourceError as error:
        return [SourceInfo("picamera://0", "Pi camera", "picamera2", str(error))]
    return [
        SourceInfo(f"picamera://{camera['Num']}", str(camera["Model"]), str(camera.get("Id", ""))) for camera in cameras
    ]


def _webcams() -> list[SourceInfo]:
    """Return usable ones first."""
    webcams = [
        SourceInfo(f"v4l2://{node.path}", node.name, str(node.path), str(node.problem) if node.problem else READY)
        for node in video_nodes()
    ]
    return sorted(webcams, key=lambda webcam: webcam.status != READY)


def _patterns() -> list[SourceInfo]:
    return [SourceInfo(f"pattern://{name}", f"generated {name}", "built in, needs no camera") for name in SCENES]
