"""Starts a decoder process and takes its pictures out of shared memory without a copy."""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from camapp.capture.decoder_process import CREDIT, MAX_MESSAGE, PICTURE, Job
from camapp.capture.libav import UPRIGHT, DecodeError
from camapp.capture.orientation import Orientation
from camapp.core.arrays import Pixels
from camapp.core.image import Image, Layout
from camapp.core.log_once import LogOnce
from camapp.system.supervised_process import ChildProcess

log = logging.getLogger(__name__)

# Pictures that are decoded ahead.
_AHEAD = 3
# Seconds between two looks at `stopping`, and those that a child gets to exit.
_STEP_S, _GRACE_S = 0.05, 0.3

# Starts all children: the kernel ends them together with the thread that started them, and the one that opens a source
# may end before it.
_starter = ThreadPoolExecutor(1, "decoders")

# (hflip, vflip, rotate) of each display matrix; image rows grow downwards.
_ORIENTATIONS = {
    UPRIGHT: Orientation(),
    (-1, 0, 0, 1): Orientation(hflip=True),
    (1, 0, 0, -1): Orientation(vflip=True),
    (-1, 0, 0, -1): Orientation(rotate=180),
    (0, 1, -1, 0): Orientation(rotate=90),
    (0, -1, 1, 0): Orientation(rotate=270),
    (0, 1, 1, 0): Orientation(vflip=True, rotate=90),
    (0, -1, -1, 0): Orientation(hflip=True, rotate=90),
}


class DecoderDied(Exception):
    """The decoder crashed, was killed, or hung and was killed; the message says which."""


class Picture(NamedTuple):
    """An upright picture with its position in the stream in seconds; NaN if it has no time stamp."""

    image: Image
    time_s: float


class End(NamedTuple):
    """Marks the end of the input: pictures read, pictures by the container (0 if unknown), damaged packets."""

    pictures: int
    expected: int
    damaged: int


class _Lent(weakref.ref[Pixels]):
    """Refers to the array over a slot."""

    __slots__ = ("slot",)
    slot: int


class _Memory:
    """Maps the slots of a child, and knows which of them may be filled again."""

    def __init__(self, fd: int, generation: int, count: int, slot_bytes: int) -> None:
        try:
            self._map = mmap.mmap(fd, count * slot_bytes)
        finally:
            os.close(fd)
        self.generation, self._slot_bytes = generation, slot_bytes
        self._free = deque(range(count))
        self._lent: dict[int, _Lent] = {}
        self._returned: deque[_Lent] = deque()
        self.granted = 0

    @property
    def free(self) -> deque[int]:
        """Slots that may be filled, the next one first."""
        while self._returned:
            self._free.append(self._returned.popleft().slot)
        return self._free

    def take(self, slot: int, width: int, height: int, stride: int) -> Pixels:
        """Return the picture in a slot, (height, width, 3); the slot is free again once no array refers to it."""
        self.granted -= 1
        owner = np.frombuffer(self._map, np.uint8, stride * height, slot * self._slot_bytes)
        rows = owner.reshape(height, stride // 3, 3)[:, :width]
        if width * 3 != stride or len(self.free) + self.granted < 2:
            rows = rows.copy()
            self.free.append(slot)
        else:
            # No code in Python runs when the array is deleted, in whatever thread: an interrupt by Ctrl-C that fell
            # into such a call would be lost.
            self._lent[slot] = lent = _Lent(owner, self._returned.append)
            lent.slot = slot
        return rows


class Decoder:
    """Decodes one input in a child process.

    Not for several threads at a time.

    Args:
        name: of the input, for the log.
        job: what to decode.
        fds: descriptors that the child inherits by the same numbers.
        stopping: ends a wait.

    Attributes:
        pid: of the child.
        stage: what the child is doing: 'start', 'resolve', 'open', 'probe' or 'decode'.
        peer: address of the host that it reads from, or "".
        format: event of the newest format; {} before the first picture.

    Raises:
        OSError: the child cannot be started.
    """

    def __init__(self, name: str, job: Job, stopping: threading.Event, fds: Sequence[int] = ()) -> None:
        self._name, self._stopping = name, stopping
        start = partial(ChildProcess, "camapp.capture.decoder_process", fds=fds, keep_stderr=True)
        self._child = _starter.submit(start).result()
        self.pid = self._child.pid
        # For an owner that forgets to close it.
        self._end = weakref.finalize(self, self._child.end, _GRACE_S)
        self._child.socket.send(json.dumps(asdict(job)).encode())
        self.stage, self.peer = "start", ""
        self.format: dict[str, Any] = {}
        self._memory: _Memory | None = None
        self._orientation = Orientation()
        self._warn = LogOnce(log)
        self._min_s = -math.inf

    def next(self, timeout: float, min_s: float = -math.inf) -> Picture | End | None:
        """Return the next picture, the end, or None if `stopping` was set.

        Args:
            timeout: seconds to wait.
            min_s: skip pictures that are not decoded yet and lie before this position.

        Raises:
            DecodeError: the input cannot be opened or decoded.
            DecoderDied: the child ended.
            TimeoutError: no picture came in time.
        """
        self._min_s = min_s
        deadline = time.monotonic() + timeout
        self._grant()
        while True:
            message, fds = self._receive(deadline)
            if message is None:
                return None
            if len(message) == PICTURE.size:
                return self._picture(*PICTURE.unpack(message))
            event = json.loads(message)
            kind = event.pop("event")
            if kind == "end":
                return End(**event)
            if kind == "error":
                raise DecodeError(**event)
            if kind == "stage":
                self.stage, self.peer = event["stage"], event.get("peer", self.peer)
            elif kind == "format":
                self._change(event, fds)

    def close(self) -> None:
        """End the child. Pictures stay valid."""
        self._end()

    def _receive(self, deadline: float) -> tuple[bytes | None, list[int]]:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._child.socket, MAX_MESSAGE, 1)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if self._stopping.is_set():
                    return None, []
                if left <= 0:
                    raise TimeoutError from None
                self._child.wait_readable(min(left, _STEP_S))
                continue
            except OSError:
                message, fds = b"", []
            if not message:
                self._end()
                raise DecoderDied(f"the decoder ended by {self._child.exit_reason}")
            return message, fds

    def _picture(self, generation: int, slot: int, time_s: float, damaged: int) -> Picture:
        assert self._memory is not None
        (width, height), stride = self.format["size"], self.format["stride"]
        image = Image.of(self._memory.take(slot, width, height, stride), Layout.BGR)
        self._grant()
        if damaged:
            self._warn(logging.WARNING, "damaged", "%s is damaged: some pictures are missing or wrong", self._name)
        return Picture(image if self._orientation.is_identity else self._orientation.image(image), time_s)

    def _grant(self) -> None:
        """Let the child fill free slots."""
        memory = self._memory
        while memory is not None and memory.free and memory.granted < _AHEAD:
            try:
                self._child.socket.send(CREDIT.pack(memory.generation, memory.free[0], self._min_s))
            except OSError:
                # Its end is noticed by the next receive.
                return
            memory.free.popleft()
            memory.granted += 1

    def _change(self, event: dict[str, Any], fds: list[int]) -> None:
        """Note another format of the pictures to come, and say so unless it is the first."""
        before, self.format = self.format, event
        self._orientation = _ORIENTATIONS[tuple(event["matrix"])]
        if fds:
            self._memory = _Memory(fds[0], event["generation"], event["count"], event["slot_bytes"])
            self._grant()
        if before and (old := _words(before)) != (new := _words(event)):
            self._warn(logging.WARNING, (old, new), "%s changes from %s to %s", self._name, old, new)


def _words(form: dict[str, Any]) -> str:
    width, height = form["coded"]
    return f"{width}x{height} {form['codec']} {form['pixels']}"
