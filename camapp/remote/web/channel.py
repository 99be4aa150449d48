"""The socket between the run and the process that serves its page: one JSON object a packet, never blocking.

Run to server: hello, canvas (with the memory's descriptor), frame, prediction, status, notice, answer.
Server to run: alive (for each status), watched, done, order. `face.py` and `child.py` are the two ends.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

# The kernel's own bound is lower on most machines (net.core.wmem_max, 208 KiB): it takes what it allows.
_BUFFER = 1 << 20
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new link."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ends


def send(end: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> bool:
    """Hand a message over, or not at all: False if the other end is gone, takes nothing now, or it is too large."""
    packet = _ENCODER.encode(message).encode("utf-8", "backslashreplace")
    try:
        socket.send_fds(end, [packet], descriptors, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message, with the descriptors that came with it; None when the other end is gone.

    Raises:
        BlockingIOError: there is none (yet).
    """
    try:
        packet, descriptors, flags, _ = socket.recv_fds(end, _BUFFER, 1)
    except ConnectionError:
        return None
    if not packet:
        return None
    if flags & socket.MSG_TRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        return {"type": "truncated"}, []
    message: Message = json.loads(packet)
    return message, descriptors
