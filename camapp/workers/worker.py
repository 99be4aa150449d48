"""A worker process: maps the shared model and slots, then runs one plan after another until its socket closes.

Started by the pool as `python -m camapp.workers.worker FD`, with its BLAS threads already set in the environment.
It never sees a camera and imports nothing but the engine.
"""

from __future__ import annotations

import signal

# First of all: it is the parent who decides when work ends, and a service manager signals every process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# ruff: noqa: E402
import ctypes
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable

from camapp.workers.protocol import PACKET_BYTES, REPLY, STATUS_DONE, STATUS_ERROR, STATUS_READY, TASK
from camapp.workers.slots import SlotLayout, Slots
from engine.share import attach_shared

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until the parent closes the socket; 1 after an error was reported."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    _die_with_parent()
    message, descriptors, _, _ = socket.recv_fds(sock, PACKET_BYTES, 2)
    if not message:
        return 0
    config = json.loads(message)
    slots = Slots(descriptors[0], SlotLayout.from_json(config["layout"]))
    model = attach_shared(mmap.mmap(descriptors[1], 0, access=mmap.ACCESS_READ))
    item_shape = slots.layout.input_shape[1:]
    runs: dict[tuple[int, int], Callable[[], None]] = {}

    def run(slot_index: int, items: int) -> tuple[int, int]:
        """Run the plan for so many items from a slot's input into its outputs, without a copy between."""
        if (slot_index, items) not in runs:
            slot = slots[slot_index]
            runs[slot_index, items] = plans[items].bind([slot.input[:items]], [out[:items] for out in slot.outputs])
        start = time.monotonic_ns()
        runs[slot_index, items]()
        return start, time.monotonic_ns()

    try:
        # Warm: the first run pays for page faults and BLAS start-up. No slot is ours yet.
        plans = {items: model.plan((items, *item_shape)) for items in range(1, slots.layout.input_shape[0] + 1)}
        start = time.monotonic_ns()
        plans[1].run()
        sock.send(REPLY.pack(0, STATUS_READY, start, time.monotonic_ns()))
        while packet := sock.recv(PACKET_BYTES):
            token, slot_index, items = TASK.unpack(packet)
            try:
                start, end = run(slot_index, items)
            except Exception as error:  # noqa: BLE001 - whatever it was, the parent must hear of it
                text = f"{type(error).__name__}: {error}".encode()[:4096]
                sock.send(REPLY.pack(token, STATUS_ERROR, 0, 0) + text)
                return 1  # a fresh process is surer than one that has just failed
            sock.send(REPLY.pack(token, STATUS_DONE, start, end))
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone
    return 0


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, even while it computes or is stopped."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
