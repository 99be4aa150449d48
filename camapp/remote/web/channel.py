"""Sends messages between the run and its web server process: one JSON object a packet, never blocking.

Run to server: hello, memory (with its descriptor), frame, prediction, status, notice, answer.
Server to run: alive (for each status), watched, done, order, hold (the page that lets a car
drive is there). `interface.py` and `server.py` are the two ends.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from camapp.core.json_records import compact_json

Message = dict[str, Any]

# Largest packet. On most machines the kernel limits a send buffer to less (net.core.wmem_max, 208 KiB).
BUFFER_BYTES = 1 << 20


def send(end: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> bool:
    """Send a whole message; return False if the other end is closed, its buffer is full, or the message too large."""
    packet = compact_json(message).encode("utf-8", "backslashreplace")
    try:
        socket.send_fds(end, [packet], descriptors, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and its descriptors; None if the other end is closed.

    Raises:
        BlockingIOError: no message has arrived.
    """
    try:
        packet, descriptors, flags, _ = socket.recv_fds(end, BUFFER_BYTES, 1)
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
