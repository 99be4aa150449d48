"""Speaks the X protocol about this process's windows through libxcb, which Qt needs anyway.

On a busy machine Qt 5 sometimes loses the MapNotify of a new window (1 kiosk start in 40), and never paints it. No call
of OpenCV makes Qt paint it, and a window reopened in the same process stays black more often (13 of 60) than a first
one. A second MapNotify makes Qt paint it, and has no effect on a painted window.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNMAP_NOTIFY, MAP_NOTIFY = 18, 19
# The event's code, the window that receives it, the window that was mapped or unmapped.
_EVENT = struct.Struct("<B3xII20x")
_CARDINAL, _WINDOW = 6, 33
_PID, _MANAGER = b"_NET_WM_PID", b"_NET_SUPPORTING_WM_CHECK"


class _Cookie(ctypes.Structure):
    _fields_ = (("sequence", ctypes.c_uint),)


class _Screens(ctypes.Structure):
    _fields_ = (("root", ctypes.POINTER(ctypes.c_uint32)), ("more", ctypes.c_int), ("index", ctypes.c_int))


def send_to_own_windows(event: int) -> int:
    """Send an event to every window of this process; return their number, 0 without an X server."""
    with _connection() as (xcb, server, screen):
        if screen is None:
            return 0
        atom = _atom(xcb, server, _PID)
        windows, sent = [screen[0]], 0
        for window in windows:
            owner = _request(xcb, server, "get_property", 0, window, atom, _CARDINAL, 0, 1)[32:36]
            if owner == struct.pack("<I", os.getpid()):
                xcb.xcb_send_event(server, 0, window, 0, _EVENT.pack(event, window, window))
                sent += 1
            children = _request(xcb, server, "query_tree", window)[32:]
            # The loop reaches these too.
            windows += struct.unpack(f"<{len(children) // 4}I", children)
        xcb.xcb_flush(server)
        return sent


def screen_without_manager() -> tuple[int, int] | None:
    """Return the (width, height) of the screen if no window manager could make a window fill it, else None."""
    with _connection() as (xcb, server, screen):
        if screen is None:
            return None
        manager = _request(xcb, server, "get_property", 0, screen[0], _atom(xcb, server, _MANAGER), _WINDOW, 0, 1)
        # The width and the height of `xcb_screen_t` have 16 bits each.
        return None if len(manager) >= 36 else (screen[5] & 0xFFFF, screen[5] >> 16)


@contextmanager
def _connection() -> Iterator[tuple[Any, Any, Any]]:
    """Yield libxcb, a connection to the X server, and its first screen as 32-bit words, None without a server."""
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        yield None, None, None
        return
    xcb.xcb_connect.restype = xcb.xcb_get_setup.restype = ctypes.c_void_p
    xcb.xcb_setup_roots_iterator.restype = _Screens
    server = ctypes.c_void_p(xcb.xcb_connect(None, None))
    try:
        if xcb.xcb_connection_has_error(server):
            yield xcb, server, None
        else:
            setup = ctypes.c_void_p(xcb.xcb_get_setup(server))
            yield xcb, server, xcb.xcb_setup_roots_iterator(setup).root
    finally:
        xcb.xcb_disconnect(server)


def _atom(xcb: ctypes.CDLL, server: Any, name: bytes) -> int:
    reply = _request(xcb, server, "intern_atom", 0, len(name), name)
    (atom,) = struct.unpack_from("<8xI", reply.ljust(12, b"\0"))
    return int(atom)


def _request(xcb: ctypes.CDLL, server: Any, name: str, *arguments: int | bytes) -> bytes:
    """Return the X server's reply in the protocol's layout; empty if there is none: the window may just have closed."""
    send, receive = xcb[f"xcb_{name}"], xcb[f"xcb_{name}_reply"]
    send.restype, receive.restype = _Cookie, ctypes.c_void_p
    address = receive(server, send(server, *arguments), None)
    if address is None:
        return b""
    # The length counts the 4-byte words after the first 32 bytes.
    words = struct.unpack("<4xI", ctypes.string_at(address, 8))[0]
    reply = ctypes.string_at(address, 32 + 4 * words)
    ctypes.CDLL(None).free(ctypes.c_void_p(address))
    return reply
