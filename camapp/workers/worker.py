"""Runs the net in a worker process: maps the shared model and slots, then runs plans until its socket closes.

Started by the pool as `python -m camapp.workers.worker FD`, with its BLAS threads already set in the environment.
It needs only the engine, unless the pool names a job: then the job gets each message and makes the reply, and the
slots are unused.
"""

from __future__ import annotations

import signal

# Before the other imports: the parent decides when work ends, and a service manager signals every process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# ruff: noqa: E402
import gc
import json
import mmap
import socket
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module

from camapp.system.process import die_with_parent
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
from engine.plan import Plan
from engine.runtime.shared_model import attach_shared

# From a message to the pieces of its reply.
Job = Callable[[bytes], Iterable[bytes]]

# A live frame has a few items at most and must not wait for a plan; larger batches are planned on demand.
_PLANNED_AHEAD = 8


def main() -> int:
    """Serve until the parent closes the socket; return 1 after an error was reported."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent()
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
        """Run the plan for `items` items from a slot's input into its outputs, without a copy in between."""
        if (slot_index, items) not in runs:
            if items not in plans:
                plans[items] = model.plan((items, *item_shape))
            batch, outputs = slots[slot_index].first(items)
            runs[slot_index, items] = plans[items].bind([batch], outputs)
        start = time.monotonic_ns()
        runs[slot_index, items]()
        return start, time.monotonic_ns()

    try:
        job: Job | None = None
        if config["job"]:
            module, _, name = config["job"]["make"].partition(":")
            job = getattr(import_module(module), name)(model, config["job"]["options"])
        # Warm up: the first run includes page faults and BLAS start-up. This worker owns no slot yet.
        for items in range(1, min(slots.layout.input_shape[0], _PLANNED_AHEAD) + 1):
            plans[items] = model.plan((items, *item_shape))
        start = time.monotonic_ns()
        plans[1].run()
        # Start-up objects are permanent, and later ones seldom form cycles: collections cost 5 % on small nets.
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
            except Exception as error:  # noqa: BLE001 - any error has to reach the parent
                text = f"{type(error).__name__}: {error}".encode()[:4096]
                sock.send(REPLY.pack(token, STATUS_ERROR, 0, 0) + text)
                # A new process is safer than one that has just failed.
                return 1
            sock.send(REPLY.pack(token, STATUS_DONE, start, end))
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent has closed the socket
    return 0


if __name__ == "__main__":
    sys.exit(main())
