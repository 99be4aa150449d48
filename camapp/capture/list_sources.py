"""What `camapp sources` shows: every source of this machine, and why the unusable ones are."""

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
    """One line of the list.

    Attributes:
        uri: what to give as --source.
        name: of the device, or what a pattern shows.
        detail: where it is, or what it is made of.
        status: 'ready', or why it cannot be used and what to do.
    """

    uri: str
    name: str
    detail: str
    status: str = READY


def list_sources() -> list[SourceInfo]:
    """Pi cameras, V4L2 devices and built-in patterns. Never raises for what a machine lacks."""
    return [*_pi_cameras(), *_webcams(), *_patterns()]


def _pi_cameras() -> list[SourceInfo]:
    # On anything but a Pi there is no picamera2, and nothing to say about it.
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
    """Usable ones first."""
    rows = [
        SourceInfo(f"v4l2://{node.path}", node.name, str(node.path), str(node.problem) if node.problem else READY)
        for node in video_nodes()
    ]
    return sorted(rows, key=lambda row: row.status != READY)


def _patterns() -> list[SourceInfo]:
    return [SourceInfo(f"pattern://{name}", f"generated {name}", "built in, needs no camera") for name in SCENES]
