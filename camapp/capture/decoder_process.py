"""Decodes one input in a child process: a crash or a hang of the decoder costs a reopen, not the program.

The parent sends a `Job` as JSON, then a `CREDIT` for each slot of shared memory that may be filled. The child answers
with JSON events and, for each picture, a `PICTURE`; the newest event 'format' describes it. A new memory comes with the
event 'format' as a descriptor.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import select
import socket
import struct
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from camapp.capture.libav import WRONG_LAYOUT, DecodeError, Libraries, PictureFormat, Reader
from camapp.system.process import die_with_parent, shared_memory

# Generation of the memory, slot, and seconds before which pictures are skipped.
CREDIT = struct.Struct("<iid")
# Generation, slot, seconds in the stream (NaN if unknown), and packets that could not be decoded so far.
PICTURE = struct.Struct("<iidi")
MAX_MESSAGE = 65536

_MIN_SLOTS, _MAX_SLOTS, _MEMORY_BYTES = 3, 8, 64 << 20
# FFmpeg's converters write pixels in groups of this size.
_PIXEL_GROUP = 16


@dataclass(frozen=True)
class Job:
    """Names what to decode.

    Attributes:
        url: for FFmpeg; a path is latin-1 of its bytes.
        libraries: paths of FFmpeg's; [] uses OpenCV's reader.
        options: of FFmpeg's demuxer and protocol.
        live: whether it can be opened again if it changes.
        loop: start again at the end.
        after_s: skip pictures up to this position, by seeking if possible; NaN does not.
        after: skip this many pictures if there are no time stamps.
    """

    url: str
    libraries: list[str]
    options: dict[str, str] = field(default_factory=dict)
    live: bool = False
    loop: bool = False
    after_s: float = math.nan
    after: int = 0


class PictureReader(Protocol):
    """Reads pictures, as `libav.Reader` does."""

    fps: float
    frames: int
    damaged: int
    time_s: float
    format: PictureFormat | None

    def open(self) -> None: ...  # noqa: D102
    def probe(self) -> None: ...  # noqa: D102
    def read(self) -> bool: ...  # noqa: D102
    def convert(self, address: int, stride: int) -> None: ...  # noqa: D102
    def seek(self, time_s: float) -> bool: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class _Slots:
    """Shared memory for pictures of one size, and those of its slots that may be filled."""

    def __init__(self) -> None:
        self.generation = self.count = self.slot_bytes = self.stride = 0
        self._address = 0

    def fit(self, width: int, height: int) -> int | None:
        """Make room for pictures of a size; return the descriptor of a new memory, if one was necessary."""
        self.stride = 3 * (-(-width // _PIXEL_GROUP) * _PIXEL_GROUP)
        # Converters may write some bytes past the last row.
        needed = -(-(self.stride * height + 64) // mmap.PAGESIZE) * mmap.PAGESIZE
        if needed <= self.slot_bytes:
            return None
        count = max(_MIN_SLOTS, min(_MAX_SLOTS, _MEMORY_BYTES // needed))
        fd = shared_memory("camapp-pictures", count * needed)
        self._memory = mmap.mmap(fd, count * needed)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.generation, self.count, self.slot_bytes = self.generation + 1, count, needed
        return fd

    def address(self, slot: int) -> int:
        """Return where a slot begins."""
        return self._address + slot * self.slot_bytes


class _Server:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._slots = _Slots()
        self._shown: PictureFormat | None = None
        self._credit: tuple[int, float] | None = None

    def serve(self) -> None:
        job = Job(**json.loads(self._receive()))
        try:
            self._decode(job)
        except DecodeError as error:
            details = {"stage": error.stage, "code": error.code, "text": str(error), "codec": error.codec}
            self._send_event("error", **details)
        except (OSError, MemoryError) as error:
            self._send_event("error", stage="memory", code=0, text=str(error) or "out of memory", codec="")

    def _decode(self, job: Job) -> None:
        self._resolve(job.url)
        skip_s, skip = job.after_s, job.after
        while True:
            reader = _open_reader(job, self._send_event)
            pictures = self._send_all(reader, skip_s, skip)
            self._send_event("end", pictures=pictures, expected=reader.frames, damaged=reader.damaged)
            reader.close()
            if not job.loop or not pictures:
                return
            skip_s, skip, self._shown = math.nan, 0, None

    def _send_all(self, reader: PictureReader, skip_s: float, skip: int) -> int:
        self._send_event("stage", stage="decode")
        if not math.isnan(skip_s) and reader.seek(skip_s):
            skip = 0
        pictures = 0
        while reader.read():
            pictures += 1
            if pictures <= skip or reader.time_s <= skip_s + 1e-6:
                continue
            if reader.format != self._shown:
                self._announce(reader)
            if self._credit is None:
                self._credit = self._await_credit()
            slot, min_s = self._credit
            if reader.time_s < min_s:
                continue
            self._credit = None
            reader.convert(self._slots.address(slot), self._slots.stride)
            self._socket.send(PICTURE.pack(self._slots.generation, slot, reader.time_s, reader.damaged))
        return pictures

    def _announce(self, reader: PictureReader) -> None:
        """Send the format of the pictures to come, and a new memory if they need it."""
        self._shown = reader.format
        assert self._shown is not None
        fd = self._slots.fit(*self._shown.size)
        if fd is not None:
            self._credit = None
        memory = {name: getattr(self._slots, name) for name in ("generation", "count", "slot_bytes", "stride")}
        event = {"event": "format", "fps": reader.fps, "frames": reader.frames, **asdict(self._shown), **memory}
        socket.send_fds(self._socket, [json.dumps(event).encode()], [] if fd is None else [fd])
        if fd is not None:
            os.close(fd)

    def _await_credit(self) -> tuple[int, float]:
        while True:
            generation, slot, min_s = CREDIT.unpack(self._receive())
            if generation == self._slots.generation:
                return slot, min_s

    def _resolve(self, url: str) -> None:
        """Look the host's name up: FFmpeg gives no reason if it cannot."""
        parts = urlsplit(url)
        if not parts.scheme or not parts.hostname or parts.scheme == "file":
            return
        self._send_event("stage", stage="resolve")
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise DecodeError("resolve", -1, str(error)) from error
        self._send_event("stage", stage="open", peer=found[0][4][0])

    def _receive(self) -> bytes:
        message = self._socket.recv(MAX_MESSAGE)
        if not message:
            os._exit(0)
        return message

    def _send_event(self, event: str, **details: Any) -> None:
        self._socket.send(json.dumps({"event": event, **details}).encode())


def _open_reader(job: Job, send_event: Any) -> PictureReader:
    threads = os.cpu_count() or 1
    try:
        if not job.libraries:
            raise DecodeError("open", WRONG_LAYOUT, "OpenCV has brought no FFmpeg along")
        url = job.url.encode("latin-1") if job.url.startswith(("file:", "pipe:")) else job.url.encode()
        reader: PictureReader = Reader(Libraries(job.libraries), url, job.options, threads, live=job.live)
        send_event("stage", stage="open")
        reader.open()
        send_event("stage", stage="probe")
        reader.probe()
        return reader
    except DecodeError as error:
        if error.code != WRONG_LAYOUT:
            raise
    # Slow to import, and only for versions of FFmpeg that are not known yet.
    from camapp.capture.opencv_reader import OpenCVReader

    reader = OpenCVReader(job.url, threads)
    send_event("stage", stage="open")
    reader.open()
    return reader


def _exit_with_parent(sock: socket.socket) -> None:
    """End this process once the parent has hung up, even while FFmpeg waits."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    die_with_parent()
    sock = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_exit_with_parent, args=(sock,), daemon=True).start()
    _Server(sock).serve()
    # With credits unread, the end of this process would discard its last messages. FFmpeg's threads need no clean end.
    while sock.recv(MAX_MESSAGE):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
