"""Finds video devices in /sys, /dev and /proc: which can be a webcam, and which process uses one."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceDenied, SourceError, SourceLost
from camapp.core.files import natural_key

DEV, SYS, PROC = Path("/dev"), Path("/sys/class/video4linux"), Path("/proc")

# Names in /sys of the Raspberry Pi's own nodes: raw sensor data, and video processors.
_CSI = ("unicam", "rp1-cfe", "pisp")
_PROCESSORS = ("bcm2835-isp", "bcm2835-codec", "hevc", "rpivid")

# linux/videodev2.h: struct v4l2_capability (104 bytes) and the bits of its device_caps that capture images.
_VIDIOC_QUERYCAP = 0x80685600
_CAPTURES = 0x00000001 | 0x00001000

JOIN_VIDEO = "run 'sudo usermod -aG video $USER' and log in again (a service needs SupplementaryGroups=video)"


@dataclass(frozen=True)
class VideoNode:
    """A V4L2 node. `problem` is the error that opening it as a webcam would raise; None if it can be opened."""

    path: Path
    name: str
    problem: SourceError | None


def video_nodes() -> list[VideoNode]:
    """Return every V4L2 node of the machine, by number."""
    paths = sorted((DEV / entry.name for entry in SYS.glob("video*")), key=lambda path: natural_key(path.name))
    return [VideoNode(path, name_of(path), problem_of(path)) for path in paths]


def name_of(device: Path) -> str:
    """Return the driver's name of a node, or the node's own if /sys has none."""
    node = Path(os.path.realpath(device)).name
    try:
        # The kernel cuts names at a length in bytes, perhaps within a letter.
        return (SYS / node / "name").read_text(errors="replace").strip() or node
    except OSError:
        return node


def problem_of(device: Path) -> SourceError | None:
    """Return why a node cannot be a webcam, as the error to raise; None if it can."""
    name = name_of(device)
    if any(part in name.lower() for part in _CSI):
        return PermanentSourceError(f"{device} ({name}) has a Pi camera's raw data: use picamera://0 instead")
    if any(part in name.lower() for part in _PROCESSORS):
        return PermanentSourceError(f"{device} ({name}) is a video processor, not a camera")
    try:
        if not _captures(device):
            return PermanentSourceError(f"{device} ({name}) gives no images: try its neighbour, see 'camapp sources'")
    except FileNotFoundError:
        return SourceAbsent(f"no camera at {device}: plug it in, or choose another from 'camapp sources'")
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
    """Return other processes that have one of the devices open, as 'name (pid 123)', if this user may inspect them."""
    wanted = {os.path.realpath(device) for device in devices}
    found = []
    for process in sorted((entry for entry in PROC.iterdir() if entry.name.isdecimal()), key=lambda p: int(p.name)):
        if int(process.name) != os.getpid() and wanted & set(_open_files(process)):
            found.append(f"{_process_name(process)} (pid {process.name})")
    return found


def busy_advice(*devices: Path) -> str:
    """Return which processes use the devices, and what to do about it."""
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
                continue  # it was just closed
    except OSError:
        return links  # another user's process, or it has just ended
    return links


def _process_name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"
