"""Finds the display to open a window on, before window code is imported: OpenCV's aborts the process without one."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class DisplayKind(Enum):
    """Kinds of display that a window can be opened on."""

    X11 = "x11"
    KIOSK = "kiosk"
    DRM = "drm"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Display:
    """A display, or the reason why there is none; true if there is one.

    Attributes:
        kind: of display.
        reason: the display's name, or why there is none and what to do, for the user.
        size: (width, height) of a console's screen.
    """

    kind: DisplayKind
    reason: str
    size: tuple[int, int] = (0, 0)

    def __bool__(self) -> bool:
        return self.kind is not DisplayKind.NONE


def _none(why: str) -> Display:
    return Display(DisplayKind.NONE, f"no display: {why}")


def probe(environ: Mapping[str, str] | None = None, timeout: float = 1.0) -> Display:
    """Find the X server (under Wayland: XWayland) that `DISPLAY` names, and check that it accepts connections.

    Args:
        environ: environment variables; the process's own by default.
        timeout: seconds to wait for the server.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("DISPLAY", "")
    if not name:
        if environ.get("WAYLAND_DISPLAY"):
            return _none("Wayland runs without XWayland, which OpenCV needs; install xwayland")
        return _none("DISPLAY is not set; start from a desktop, or over ssh with 'ssh -X'")
    host, colon, rest = name.rpartition(":")
    number = rest.partition(".")[0]
    if not colon or not number.isdecimal() or int(number) > 65535 - 6000:
        return _none(f"DISPLAY is '{name}', expected something like ':0'")
    host = host.rpartition("/")[2]
    last: OSError | None = None
    for family, address in _addresses(host, int(number)):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout)
                connection.connect(address)
            return Display(DisplayKind.X11, name)
        except OSError as error:
            last = error
    why = "it took too long" if isinstance(last, TimeoutError) else getattr(last, "strerror", None) or str(last)
    return _none(f"the X server '{name}' does not answer ({why})")


# cage shows one window over the whole screen; with -s Ctrl-Alt-F2 switches to a terminal.
KIOSK_COMMAND = ("cage", "-s", "--")


def probe_kiosk(root: Path = Path("/")) -> Display:
    """Find a screen that the Wayland kiosk `cage` could show a window on."""
    for program, package in (("cage", "cage"), ("Xwayland", "xwayland")):
        if shutil.which(program) is None:
            return _none(f"the kiosk needs {program}; 'sudo apt install -y {package}'")
    if os.environ.get("WLR_BACKENDS") == "headless":
        return Display(DisplayKind.KIOSK, "headless kiosk")
    connected = connectors(root)
    if not any(connected.values()):
        return _no_screen(connected)
    return Display(DisplayKind.KIOSK, ", ".join(name for name, has_screen in connected.items() if has_screen))


def probe_drm(root: Path = Path("/")) -> Display:
    """Find a console screen that no other program draws on."""
    connected = connectors(root)
    screens = [name for name, has_screen in connected.items() if has_screen]
    if not screens:
        return _no_screen(connected)
    name = screens[0]
    card = root / "dev/dri" / name.partition("-")[0]
    try:
        if not _is_free(card):
            # Reads /proc, only to explain a busy card.
            from camapp.system.video_devices import busy_advice

            return _none(f"{name} is {busy_advice(card)}")
    except OSError as error:
        return _none(f"{card} cannot be opened ({error.strerror}): are you in group video?")
    size = screen_size(name, root)
    if size is None:
        return _none(f"{name} names no size that it can show")
    return Display(DisplayKind.DRM, f"{name} {size[0]}x{size[1]}", size)


def connectors(root: Path = Path("/")) -> dict[str, bool]:
    """Return the names of the screen connectors, such as 'card1-HDMI-A-1', and whether a screen is connected."""
    found = {}
    for status in sorted((root / "sys/class/drm").glob("card*-*/status")):
        try:
            found[status.parent.name] = status.read_text().strip() == "connected"
        except OSError:  # it was just removed
            found[status.parent.name] = False
    return found


def screen_size(connector: str, root: Path = Path("/")) -> tuple[int, int] | None:
    """Return (width, height) of the mode that a connector's screen prefers; the console uses that mode."""
    try:
        modes = (root / "sys/class/drm" / connector / "modes").read_text().split()
    except OSError:
        return None
    width, _, height = modes[0].partition("x") if modes else ("", "", "")
    height = height.rstrip("i")  # interlaced
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None


def _no_screen(connected: Mapping[str, bool]) -> Display:
    if connected:
        return _none("no screen is connected")
    return _none("this machine has no screen connector (no /sys/class/drm/card*-*)")


# linux/drm.h: DRM_IOCTL_SET_MASTER and DRM_IOCTL_DROP_MASTER. Only a graphics card's master can show images.
_SET_MASTER, _DROP_MASTER = 0x641E, 0x641F


def _is_free(card: Path) -> bool:
    """Return whether this process could become the graphics card's master. Raises OSError if it cannot be opened."""
    handle = os.open(card, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _SET_MASTER)
        fcntl.ioctl(handle, _DROP_MASTER)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _addresses(host: str, number: int) -> list[tuple[int, str | tuple[str, int]]]:
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return [(socket.AF_UNIX, "\0" + path), (socket.AF_UNIX, path)]  # the abstract name first, as Xlib does
    try:
        found = socket.getaddrinfo(host, 6000 + number, type=socket.SOCK_STREAM)
    except OSError:
        return [(socket.AF_INET, (host, 6000 + number))]  # `connect` then raises the same error, with its text
    return [(family, (str(address[0]), 6000 + number)) for family, _, _, _, address in found]
