"""What /sys, /dev and /proc tell of the machine's video devices: which can be a webcam, and which process holds one."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from camapp.core.errors import PermanentSourceError, SourceDenied, SourceError, SourceLost
from camapp.core.files import natural_key

DEV, SYS, PROC = Path("/dev"), Path("/sys/class/video4linux"), Path("/proc")

# Names in /sys of the Raspberry Pi's own nodes: raw sensor data, and processors that are no cameras.
_CSI = ("unicam", "rp1-cfe", "pisp")
_PROCESSORS = ("bcm2835-isp", "bcm2835-codec", "hevc", "rpivid")

# linux/videodev2.h: struct v4l2_capability (104 bytes) and the bits of its device_caps that capture images.
_VIDIOC_QUERYCAP = 0x80685600
_CAPTURES = 0x00000001 | 0x00001000

JOIN_VIDEO = "run 'sudo usermod -aG video $USER' and log in again (a service needs SupplementaryGroups=video)"


@dataclass(frozen=True)
class VideoNode:
    """A V4L2 node. `problem` is the error that opening it as a webcam would meet; None for one that can be opened."""

    path: Path
    name: str
    problem: SourceError | None


def video_nodes() -> list[VideoNode]:
    """Every V4L2 node of the machine, in the order of their numbers."""
    paths = sorted((DEV / entry.name for entry in SYS.glob("video*")), key=lambda path: natural_key(path.name))
    return [VideoNode(path, name_of(path), problem_of(path)) for path in paths]


def name_of(device: Path) -> str:
    """The driver's name for a node, or the node's own where /sys does not tell."""
    node = Path(os.path.realpath(device)).name
    try:
        return (SYS / node / "name").read_text().strip() or node
    except OSError:
        return node


def problem_of(device: Path) -> SourceError | None:
    """Why a node cannot be a webcam, as the error to raise; None if it can."""
    name = name_of(device)
    if any(part in name.lower() for part in _CSI):
        return PermanentSourceError(f"{device} ({name}) carries a Pi camera's raw data: use picamera://0 instead")
    if any(part in name.lower() for part in _PROCESSORS):
        return PermanentSourceError(f"{device} ({name}) is a video processor, not a camera")
    try:
        if not _captures(device):
            return PermanentSourceError(f"{device} ({name}) gives no images: try its neighbour, see 'camapp sources'")
    except FileNotFoundError:
        return SourceLost(f"no camera at {device}: plug it in, or choose another from 'camapp sources'")
    except PermissionError:
        return SourceDenied(f"{device} ({name}) may not be read by this user: {JOIN_VIDEO}")
    except OSError as error:
        return SourceLost(f"{device} ({name}) does not answer: {error.strerror}")
    return None


def _captures(device: Path) -> bool:
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(handle, _VIDIOC_QUERYCAP, bytes(104))
    finally:
        os.close(handle)
    return bool(int.from_bytes(answer[88:92], "little") & _CAPTURES)


def holders(*devices: Path) -> list[str]:
    """Other processes that have one of the devices open, as 'name (pid 123)'; only those this user may look into."""
    wanted = {os.path.realpath(device) for device in devices}
    found = []
    for process in sorted((entry for entry in PROC.iterdir() if entry.name.isdecimal()), key=lambda p: int(p.name)):
        if int(process.name) != os.getpid() and wanted & set(_open_files(process)):
            found.append(f"{_process_name(process)} (pid {process.name})")
    return found


def busy_advice(*devices: Path) -> str:
    """Who holds the devices, and what to do about it."""
    held_by = holders(*devices)
    if held_by:
        return f"in use by {', '.join(held_by)}: stop it first"
    return f"in use by another user's process: 'sudo fuser -v {' '.join(map(str, devices))}' names it"


def _open_files(process: Path) -> list[str]:
    links = []
    try:
        for handle in (process / "fd").iterdir():
            try:
                links.append(os.readlink(handle))
            except FileNotFoundError:
                continue  # closed while we looked
    except OSError:
        return links  # another user's process, or one that has just ended
    return links


def _process_name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
