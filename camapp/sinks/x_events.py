"""Sends an event of the X protocol to this process's windows through libxcb, which Qt needs anyway.

On a busy machine Qt 5 sometimes loses the MapNotify of a new window (1 kiosk start in 40), and never paints it. No call
of OpenCV makes Qt paint it, and a window reopened in the same process stays black more often (13 of 60) than a first
one. A second MapNotify makes Qt paint it, and has no effect on a painted window.
"""

from __future__ import annotations

import ctypes
import os
import struct

UNMAP_NOTIFY, MAP_NOTIFY = 18, 19
# The event's code, the window that receives it, the window that was mapped or unmapped.
_EVENT = struct.Struct("<B3xII20x")
_CARDINAL = 6
_PID = b"_NET_WM_PID"


class _Cookie(ctypes.Structure):
    _fields_ = (("sequence", ctypes.c_uint),)


class _Screens(ctypes.Structure):
    _fields_ = (("root", ctypes.POINTER(ctypes.c_uint32)), ("more", ctypes.c_int), ("index", ctypes.c_int))


def send_to_own_windows(event: int) -> int:
    """Send an event to every window of this process; return their number, 0 without an X server."""
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return 0
    xcb.xcb_connect.restype = xcb.xcb_get_setup.restype = ctypes.c_void_p
    xcb.xcb_setup_roots_iterator.restype = _Screens
    server = ctypes.c_void_p(xcb.xcb_connect(None, None))
    try:
        if xcb.xcb_connection_has_error(server):
            return 0
        setup = ctypes.c_void_p(xcb.xcb_get_setup(server))
        (atom,) = struct.unpack_from("<8xI", _request(xcb, server, "intern_atom", 0, len(_PID), _PID).ljust(12, b"\0"))
        windows, sent = [xcb.xcb_setup_roots_iterator(setup).root[0]], 0
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
    finally:
        xcb.xcb_disconnect(server)


def _request(xcb: ctypes.CDLL, server: ctypes.c_void_p, name: str, *arguments: int | bytes) -> bytes:
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
