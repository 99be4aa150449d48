"""Tells a car's controller where the car is in its lane: one short line a frame over UDP or a serial port.

A line is ASCII in the manner of NMEA 0183, ended by a newline, at most 80 bytes:

    $CAMAPP,SEQ,STALE,OFFSET,HEADING,CURVATURE,CONFIDENCE,AGE*SUM

SEQ counts lines from 0. STALE is 0 or 1; with 1 the car must not be steered by what was seen last: OFFSET, HEADING and
CURVATURE are then empty. OFFSET is in metres right of the lane's middle, HEADING in degrees to the right of the lane,
CURVATURE in 1/m, positive to the right. CONFIDENCE is 0 to 1, AGE the milliseconds since the exposure of the image
that the numbers are from. SUM is the exclusive or of all bytes between $ and *, two hexadecimal digits. Without a new
prediction for 0.2 s, stale lines follow ten times a second; a controller that hears nothing for 0.3 s must stop too.
Only the newest is sent: while a slow serial line still has the last one to send, newer ones are left out. What waits in
a controller's own buffer it must read to the end, and use the last line of.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from functools import reduce
from urllib.parse import urlsplit

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

STALE_MS = 200.0  # an older image is no guide any more
BEAT_S = 0.1
_RETRY_S = 1.0
_BAUD = {9600: termios.B9600, 57600: termios.B57600, 115200: termios.B115200, 230400: termios.B230400}
_USE = "--drive takes udp://HOST:PORT or serial:///dev/NAME?baud=115200"


def message(seq: int, values: dict[str, float], age_ms: float) -> bytes:
    """One line; stale if the values hold no lane, or one too old, or a number that is none."""
    steering = [values.get(name, math.nan) for name in ("offset_m", "heading_deg", "curvature_1_m")]
    stale = not all(map(math.isfinite, steering)) or not age_ms <= STALE_MS
    shown = ",," if stale else "{:.4f},{:.3f},{:.5f}".format(*steering)
    confidence = 0.0 if stale else values.get("confidence", 0.0)
    age = int(min(max(age_ms, 0), 99_999)) if math.isfinite(age_ms) else 99_999
    body = f"CAMAPP,{seq % (1 << 32)},{int(stale)},{shown},{confidence:.2f},{age}".encode("ascii")
    return b"$" + body + b"*%02X\n" % reduce(lambda total, byte: total ^ byte, body, 0)


class DriveSink(PredictionSink):
    """Sends the newest prediction, and says so when there is none.

    Args:
        uri: udp://HOST:PORT or serial:///dev/NAME?baud=115200.
        clock: monotonic nanoseconds.

    Attributes:
        sent: lines that went out.
        lost: lines that could not.

    Raises:
        SinkError: not such a URI.
    """

    def __init__(self, uri: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.sent = 0
        self.lost = 0
        self._open = _opener(uri)
        self._uri = uri
        self._clock = clock
        self._send: Callable[[bytes], None] | None = None
        self._close: Callable[[], None] = lambda: None
        self._retry_at = 0.0
        self._seq = 0
        self._newest: tuple[dict[str, float], int] | None = None
        self._fresh = False
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="drive", daemon=True)

    def start(self) -> None:
        """Open the way out. Raises SinkError."""
        try:
            self._send, self._close = self._open()
        except PermissionError as error:
            raise SinkError(f"--drive {self._uri}: no permission; are you in group dialout?", denied=True) from error
        except OSError as error:
            raise SinkError(f"--drive {self._uri}: cannot open it: {error.strerror or error}") from error
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Hand over the newest; one not yet sent is forgotten."""
        taken = trace.sensor or trace.captured or self._clock()
        held = prediction.values.get("age_ms", 0.0)  # of the lane, where it was foretold from an earlier image
        with self._changed:
            self._newest = (dict(prediction.values), taken - int(held * 1e6) if math.isfinite(held) else 0)
            self._fresh = True
            self._changed.notify()

    def stop(self) -> None:
        """Send a last, stale line."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _serve(self) -> None:
        wait = STALE_MS / 1000
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._fresh or self._stopping, wait)
                stopping, newest, fresh = self._stopping, self._newest, self._fresh
                self._fresh = False
            if fresh and newest is not None and not stopping:
                self._out(message(self._seq, newest[0], (self._clock() - newest[1]) / 1e6))
                wait = STALE_MS / 1000
            else:
                age = (self._clock() - newest[1]) / 1e6 if newest else math.inf
                self._out(message(self._seq, {}, age))
                wait = BEAT_S
            if stopping:
                with contextlib.suppress(OSError):  # it is going away either way
                    self._close()
                return

    def _out(self, line: bytes) -> None:
        self._seq += 1
        if self._send is None and not self._again():
            self.lost += 1
            return
        assert self._send is not None  # `_again` made it
        try:
            self._send(line)
            self.sent += 1
        except (BlockingIOError, ConnectionRefusedError):
            self.lost += 1  # nobody listens, or not fast enough: the next line is newer anyway
        except OSError as error:
            self.lost += 1
            log.warning("--drive %s: %s; trying again each second", self._uri, error.strerror or error)
            with contextlib.suppress(OSError):
                self._close()
            self._send, self._retry_at = None, time.monotonic() + _RETRY_S

    def _again(self) -> bool:
        """Open anew, as after a cable was pulled, at most once a second."""
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + _RETRY_S
        try:
            self._send, self._close = self._open()
        except OSError:
            return False
        return True


_Way = tuple[Callable[[bytes], None], Callable[[], None]]


def _opener(uri: str) -> Callable[[], _Way]:
    """What opens the way that a URI names. Raises SinkError."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise SinkError(f"--drive {uri}: {error}; {_USE}") from error
    if parts.scheme == "udp" and parts.hostname and port and parts.path in ("", "/"):
        host = parts.hostname
        return lambda: _open_udp(host, port)
    if parts.scheme == "serial" and not parts.netloc and len(parts.path) > 1:
        baud = parts.query.removeprefix("baud=") if parts.query else "115200"
        if not baud.isdigit() or int(baud) not in _BAUD:
            raise SinkError(f"--drive {uri}: baud {baud}; allowed are {', '.join(map(str, _BAUD))}")
        return lambda: _open_serial(parts.path, _BAUD[int(baud)])
    raise SinkError(f"--drive {uri}: cannot be used; {_USE}")


def _open_udp(host: str, port: int) -> _Way:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    way = socket.socket(family, kind)
    way.setblocking(False)
    way.connect(address)

    def send(line: bytes) -> None:
        way.send(line)

    return send, way.close


def _open_serial(path: str, baud: int) -> _Way:
    handle = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        control = termios.tcgetattr(handle)[6]
        # Raw bytes, eight bits, no parity, no flow control: nothing between the line and the wire.
        mode = termios.CS8 | termios.CLOCAL | termios.CREAD
        termios.tcsetattr(handle, termios.TCSANOW, [0, 0, mode, 0, baud, baud, control])
    except termios.error as error:
        os.close(handle)
        raise OSError(f"{path} is no serial port") from error

    def send(line: bytes) -> None:
        if _waiting(handle):
            raise BlockingIOError  # lines in a queue would be read late, and each calls itself new
        if os.write(handle, line) < len(line):
            raise BlockingIOError  # cut short: its sum will not fit, and it is dropped at the other end

    return send, lambda: os.close(handle)


def _waiting(handle: int) -> int:
    """Bytes that were written and have not gone out yet."""
    return int(struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))[0])
