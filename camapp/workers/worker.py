"""A worker process: maps the shared model and slots, then runs one plan after another until its socket closes.

Started by the pool as `python -m camapp.workers.worker FD`, with its BLAS threads already set in the environment.
It never sees a camera and imports nothing but the engine, unless it is told of a job: then that gets each message
and makes the reply, and the slots hold nothing.
"""

from __future__ import annotations

import signal

# First of all: it is the parent who decides when work ends, and a service manager signals every process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# ruff: noqa: E402
import ctypes
import gc
import json
import mmap
import socket
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from camapp.workers.protocol import (
    MESSAGE_BYTES,
    PACKET_BYTES,
    REPLY,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_PART,
    STATUS_READY,
    TASK,
)
from camapp.workers.slots import SlotLayout, Slots
from engine.model import Model
from engine.plan import Plan
from engine.runtime.shared_model import attach_shared

Job = Callable[[bytes], Iterable[bytes]]  # a message in, the reply in pieces out

_PR_SET_PDEATHSIG = 1
# A live frame has a few items at most, and must not wait for a plan; larger batches are planned when they come.
_PLANNED_AHEAD = 8


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
    plans: dict[int, Plan] = {}
    runs: dict[tuple[int, int], Callable[[], None]] = {}

    def run(slot_index: int, items: int) -> tuple[int, int]:
        """Run the plan for so many items from a slot's input into its outputs, without a copy between."""
        if (slot_index, items) not in runs:
            slot = slots[slot_index]
            if items not in plans:
                plans[items] = model.plan((items, *item_shape))
            runs[slot_index, items] = plans[items].bind([slot.input[:items]], [out[:items] for out in slot.outputs])
        start = time.monotonic_ns()
        runs[slot_index, items]()
        return start, time.monotonic_ns()

    try:
        job = _make_job(config["job"], model) if config["job"] else None
        # Warm: the first run pays for page faults and BLAS start-up. No slot is ours yet.
        for items in range(1, min(slots.layout.input_shape[0], _PLANNED_AHEAD) + 1):
            plans[items] = model.plan((items, *item_shape))
        start = time.monotonic_ns()
        plans[1].run()
        # What is here stays, and what comes seldom makes cycles: to look for them was a twentieth of a small image.
        gc.freeze()
        gc.set_threshold(100_000)
        sock.send(REPLY.pack(0, STATUS_READY, start, time.monotonic_ns()))
        while packet := sock.recv(PACKET_BYTES):
            token, slot_index, items = TASK.unpack_from(packet)
            try:
                if job is None:
                    start, end = run(slot_index, items)
                else:
                    start = time.monotonic_ns()
                    for piece in job(packet[TASK.size :]):
                        for at in range(0, max(1, len(piece)), MESSAGE_BYTES):
                            sock.send(REPLY.pack(token, STATUS_PART, 0, 0) + piece[at : at + MESSAGE_BYTES])
                    end = time.monotonic_ns()
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the parent must hear of it
                text = f"{type(error).__name__}: {error}".encode()[:4096]
                sock.send(REPLY.pack(token, STATUS_ERROR, 0, 0) + text)
                return 1  # a fresh process is surer than one that has just failed
            sock.send(REPLY.pack(token, STATUS_DONE, start, end))
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone
    return 0


def _make_job(config: dict[str, Any], model: Model) -> Job:
    """The job that the parent named ('module:function'), made for this model with the parent's options."""
    module, _, name = config["make"].partition(":")
    job: Job = getattr(import_module(module), name)(model, config["options"])
    return job


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, even while it computes or is stopped.

    One that died before this is seen at its socket. Its number tells nothing: in a container it may be 1.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
