"""Is there a display to open a window on? Asked before any window code is imported, because OpenCV's aborts if not."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a window would be opened on."""

    X11 = "x11"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Display:
    """A display, or the reason why there is none.

    Attributes:
        kind: of display.
        reason: for people: the display's name, or why there is none and what to do.
    """

    kind: Kind
    reason: str

    def __bool__(self) -> bool:
        return self.kind is not Kind.NONE


def probe(environ: Mapping[str, str] | None = None, timeout: float = 1.0) -> Display:
    """Find the X server (under Wayland: XWayland) that `DISPLAY` names and see that it takes connections.

    Args:
        environ: variables to look in; the process's own by default.
        timeout: most seconds to wait for the server.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("DISPLAY", "")
    if not name:
        if environ.get("WAYLAND_DISPLAY"):
            return Display(Kind.NONE, "no display: Wayland runs without XWayland, which OpenCV needs; install xwayland")
        return Display(Kind.NONE, "no display: DISPLAY is not set; start from a desktop, or over ssh with 'ssh -X'")
    host, colon, rest = name.rpartition(":")
    number = rest.partition(".")[0]
    if not colon or not number.isdecimal() or int(number) > 65535 - 6000:
        return Display(Kind.NONE, f"no display: DISPLAY is '{name}', expected something like ':0'")
    host = host.rpartition("/")[2]
    last: OSError | None = None
    for family, address in _addresses(host, int(number)):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout)
                connection.connect(address)
            return Display(Kind.X11, name)
        except OSError as error:
            last = error
    why = "it took too long" if isinstance(last, TimeoutError) else getattr(last, "strerror", None) or str(last)
    return Display(Kind.NONE, f"no display: the X server '{name}' does not answer ({why})")


def _addresses(host: str, number: int) -> list[tuple[int, str | tuple[str, int]]]:
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return [(socket.AF_UNIX, "\0" + path), (socket.AF_UNIX, path)]  # Linux's abstract name first, as Xlib does
    try:
        found = socket.getaddrinfo(host, 6000 + number, type=socket.SOCK_STREAM)
    except OSError:
        return [(socket.AF_INET, (host, 6000 + number))]  # connecting then gives the same error, in words
    return [(family, (str(address[0]), 6000 + number)) for family, _, _, _, address in found]
