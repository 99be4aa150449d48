"""Sends the car's position in its lane to a controller: one short line per frame, over UDP or a serial port.

A line is ASCII in the manner of NMEA 0183, ended by a newline, at most 80 bytes:

    $CAMAPP,SEQ,STALE,OFFSET,HEADING,CURVATURE,CONFIDENCE,AGE*SUM

SEQ counts lines from 0. STALE is 0 or 1; if it is 1, the car must not be steered by earlier values: OFFSET, HEADING and
CURVATURE are then empty. OFFSET is in metres right of the lane's centre, HEADING in degrees to the right of the lane,
CURVATURE in 1/m, positive to the right. CONFIDENCE is 0 to 1, AGE the milliseconds since the exposure of the image
that the values are from. SUM is the exclusive or of all bytes between $ and *, two hexadecimal digits. Without a new
prediction for 0.2 s, stale lines follow ten times a second; a controller that receives nothing for 0.3 s must stop too.
Only the newest line is sent: while a slow serial line is still sending the last one, newer ones are left out. A
controller must read its own receive buffer to the end and use the last line.
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
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Protocol
from urllib.parse import urlsplit

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.drive_gate import DriveGate
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

# Age of an image from which the car must not be steered by it.
STALE_MS = 200.0
# Interval of stale lines.
HEARTBEAT_S = 0.1
# Time after the moment at which a silent page stops the car.
GATE_S = 0.002
_BAUD = {9600: termios.B9600, 57600: termios.B57600, 115200: termios.B115200, 230400: termios.B230400}
_USAGE = "--drive takes udp://HOST:PORT or serial:///dev/NAME?baud=115200"


def message(seq: int, values: Mapping[str, float], age_ms: float) -> bytes:
    """Return one line; it is stale if the values hold no lane or a number that is not finite, or are too old."""
    steering = [values.get(name, math.nan) for name in ("offset_m", "heading_deg", "curvature_1_m")]
    stale = not all(map(math.isfinite, steering)) or not age_ms <= STALE_MS
    fields = ",," if stale else "{:.4f},{:.3f},{:.5f}".format(*steering)
    confidence = 0.0 if stale else values.get("confidence", 0.0)
    age = int(min(max(age_ms, 0), 99_999)) if math.isfinite(age_ms) else 99_999
    body = f"CAMAPP,{seq % (1 << 32)},{int(stale)},{fields},{confidence:.2f},{age}".encode("ascii")
    return b"$" + body + b"*%02X\n" % reduce(lambda total, byte: total ^ byte, body, 0)


class DriveSink(BackgroundSink[tuple[Mapping[str, float], int, int]], PredictionSink):
    """Sends the newest prediction, and stale lines while there is none.

    Args:
        uri: udp://HOST:PORT or serial:///dev/NAME?baud=115200.
        retry_s: seconds between two attempts to open a port again, such as after a cable was pulled.
        gate: makes every line stale while it holds the car.

    Attributes:
        lost: lines that could not be sent.

    Raises:
        SinkError: the URI is invalid.
    """

    def __init__(
        self,
        uri: str,
        clock: Callable[[], int] = time.monotonic_ns,
        retry_s: float = 1.0,
        gate: DriveGate | None = None,
    ) -> None:
        super().__init__("drive", 1, 1.0, newest=True, tick_s=STALE_MS / 1000)
        self._gate = gate
        self._is_stale = True
        if gate is not None:
            # An item without values wakes the thread, and is a stale line.
            gate.on_stop(lambda: self.put(({}, 0, -1)))
        self.sent = 0
        # The newest lines with the numbers of their frames.
        self._orders: deque[tuple[int, str]] = deque(maxlen=64)
        self._open = _opener(uri)
        self._uri = uri
        self._clock = clock
        self._retry_s = retry_s
        self._port: _Port | None = None
        self._retry_at = 0.0
        self._seq = 0
        self._taken_ns: int | None = None
        self._quiet_until = 0.0

    def start(self) -> None:
        """Open the port. Raises SinkError."""
        self._port = self._opened()
        super().start()

    def try_open(self) -> None:
        """Open the port and close it again. Raises SinkError."""
        self._opened().close()

    def _opened(self) -> _Port:
        try:
            return self._open()
        except PermissionError as error:
            raise SinkError(f"--drive {self._uri}: no permission; are you in group dialout?", denied=True) from error
        except OSError as error:
            raise SinkError(f"--drive {self._uri}: cannot open it: {error.strerror or error}") from error

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Pass on the newest prediction; it replaces one that is not sent yet."""
        taken = trace.sensor or trace.captured or self._clock()
        # Age of the lane if it was predicted from an earlier image.
        held = prediction.values.get("age_ms", 0.0)
        self.put((dict(prediction.values), taken - int(held * 1e6) if math.isfinite(held) else 0, prediction.seq))

    def order_of(self, seq: int) -> str:
        """Return the line that was sent for a frame; "" if none was, or a newer one replaced it, or it is long ago."""
        return next((line for number, line in tuple(self._orders) if number == seq), "")

    def _handle(self, item: tuple[Mapping[str, float], int, int]) -> None:
        values, self._taken_ns, seq = item
        if not self.stopping.is_set():
            line, before = message(self._seq, {} if self._is_held else values, self._age_ms()), self.sent
            self._send(line)
            if self.sent > before:
                self._orders.append((seq, line.decode("ascii").strip()))
            self._be_quiet(STALE_MS / 1000)

    @property
    def _is_held(self) -> bool:
        return self._gate is not None and not self._gate.state.driving

    def _be_quiet(self, seconds: float) -> None:
        """Send no stale line for some seconds, unless the page that lets the car drive is silent by then."""
        self._quiet_until = time.monotonic() + seconds
        self._tick_s = seconds if self._gate is None else min(seconds, self._gate.left_s + GATE_S)

    def _idle(self) -> None:
        left = self._quiet_until - time.monotonic()
        if left > 0 and (self._is_stale or not self._is_held):
            self._be_quiet(left)
        else:
            self._send_stale()

    def _send_stale(self) -> None:
        self._send(message(self._seq, {}, self._age_ms()))
        self._be_quiet(HEARTBEAT_S)

    def _finish(self) -> None:
        self._send_stale()
        self._close()

    def _age_ms(self) -> float:
        return math.inf if self._taken_ns is None else (self._clock() - self._taken_ns) / 1e6

    def _send(self, line: bytes) -> None:
        self._seq += 1
        self._is_stale = line.split(b",", 3)[2] == b"1"
        if self._port is None:
            self._reopen()
        if self._port is None:
            self.lost += 1
            return
        try:
            self._port.send(line)
            self.sent += 1
        except (BlockingIOError, ConnectionRefusedError):
            # No receiver, or too slow a one: the next line is newer anyway.
            self.lost += 1
        except OSError as error:
            self.lost += 1
            log.warning("--drive %s: %s; retrying every %g s", self._uri, error.strerror or error, self._retry_s)
            self._close()
            self._retry_at = time.monotonic() + self._retry_s

    def _reopen(self) -> None:
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + self._retry_s
            with contextlib.suppress(OSError):
                self._port = self._open()

    def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(OSError):
                port.close()


class _Port(Protocol):
    def send(self, line: bytes) -> object: ...

    def close(self) -> None: ...


def _opener(uri: str) -> Callable[[], _Port]:
    """Return a function that opens the port of a URI. Raises SinkError."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise SinkError(f"--drive {uri}: {error}; {_USAGE}") from error
    if parts.scheme == "udp" and parts.hostname and port and parts.path in ("", "/"):
        host = parts.hostname
        return lambda: _open_udp(host, port)
    if parts.scheme == "serial" and not parts.netloc and len(parts.path) > 1:
        baud = parts.query.removeprefix("baud=") if parts.query else "115200"
        if not baud.isdigit() or int(baud) not in _BAUD:
            raise SinkError(f"--drive {uri}: baud {baud}; allowed are {', '.join(map(str, _BAUD))}")
        return lambda: _SerialPort(parts.path, _BAUD[int(baud)])
    raise SinkError(f"--drive {uri}: cannot be used; {_USAGE}")


def _open_udp(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    udp = socket.socket(family, kind)
    udp.setblocking(False)
    udp.connect(address)
    return udp


class _SerialPort:
    def __init__(self, path: str, baud: int) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            control = termios.tcgetattr(self._handle)[6]
            # Raw bytes, eight bits, no parity, no flow control.
            mode = termios.CS8 | termios.CLOCAL | termios.CREAD
            termios.tcsetattr(self._handle, termios.TCSANOW, [0, 0, mode, 0, baud, baud, control])
        except termios.error as error:
            self.close()
            raise OSError(f"{path} is not a serial port") from error

    def send(self, line: bytes) -> None:
        """Send a line if the last one has gone out. Raises BlockingIOError otherwise."""
        # Queued lines would arrive late, each as if it were new.
        if unsent_bytes(self._handle):
            raise BlockingIOError
        # A line that is cut short fails its check sum, and the receiver drops it.
        if os.write(self._handle, line) < len(line):
            raise BlockingIOError

    def close(self) -> None:
        os.close(self._handle)


def unsent_bytes(handle: int) -> int:
    """Return the number of bytes in a serial port's output queue."""
    return int(struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))[0])
