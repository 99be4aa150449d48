import math
import os
import pty
import socket
import time
from functools import reduce

import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.sinks.drive import DriveSink, message

PIXEL = Image.of(np.zeros((1, 1, 3), np.uint8), Layout.RGB)
LANE = {"offset_m": -0.1234, "heading_deg": 2.5, "curvature_1_m": 0.05, "confidence": 0.91, "age_ms": 0.0}


def send(sink, values, seq=0, captured=None):
    trace = Trace(seq, captured=time.monotonic_ns() if captured is None else captured)
    sink.accept(Prediction(seq, "track", values=values), Frame(seq, Shot(PIXEL, PIXEL)), trace)


def fields(line):
    body, _, total = line.removeprefix(b"$").partition(b"*")
    assert line.startswith(b"$CAMAPP,")
    assert int(total, 16) == reduce(lambda a, b: a ^ b, body, 0)
    assert len(line) <= 80
    return body.decode().split(",")


def test_a_line_holds_the_values_of_a_lane():
    assert fields(message(7, LANE, 31.4)) == ["CAMAPP", "7", "0", "-0.1234", "2.500", "0.05000", "0.91", "31"]


@pytest.mark.parametrize(
    ("values", "age"),
    [
        ({}, 5),
        ({"confidence": 0.9}, 5),
        (LANE, 201),
        (LANE, math.nan),
        (LANE, math.inf),
        (LANE | {"offset_m": math.nan}, 5),
    ],
)
def test_a_stale_line_holds_no_steering_values(values, age):
    assert fields(message(0, values, age))[2:7] == ["1", "", "", "", "0.00"]


def test_lines_with_large_numbers_are_short():
    assert len(message((1 << 32) - 1, dict.fromkeys(LANE, -9999.0), 199.9)) <= 80


def until(happens):
    end = time.monotonic() + 5
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(3)
        yield udp


def test_each_prediction_is_a_datagram_and_stale_lines_follow(receiver):
    sink = DriveSink(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
    sink.start()
    send(sink, LANE)
    assert fields(receiver.recv(200))[1:4] == ["0", "0", "-0.1234"]
    began = time.monotonic()
    for seq in (1, 2, 3):
        assert fields(receiver.recv(200))[1:3] == [str(seq), "1"]
    assert 0.2 < time.monotonic() - began < 2
    sink.stop()
    *_, last = (receiver.recv(200) for _ in range(sink.sent - 4))
    assert fields(last)[2] == "1"


def test_a_prediction_of_an_old_image_is_stale(receiver):
    sink = DriveSink(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
    sink.start()
    send(sink, LANE, captured=time.monotonic_ns() - 500_000_000)
    assert fields(receiver.recv(200))[2] == "1"
    send(sink, LANE | {"age_ms": 300.0})
    assert fields(receiver.recv(200))[2] == "1"
    sink.stop()


def test_a_serial_port_receives_the_same_lines():
    master, slave = pty.openpty()
    sink = DriveSink(f"serial://{os.ttyname(slave)}?baud=57600")
    sink.start()
    send(sink, LANE)
    assert fields(os.read(master, 200).strip())[3] == "-0.1234"
    sink.stop()
    os.close(master)
    os.close(slave)


def test_a_serial_line_that_is_slower_than_the_camera_never_queues_old_lines(monkeypatch):
    """9600 baud carry 20 lines a second: queued lines would arrive seconds late, as if they were new."""
    master, slave = pty.openpty()
    waiting = [0]
    monkeypatch.setattr("camapp.sinks.drive.unsent_bytes", lambda handle: waiting[0])
    sink = DriveSink(f"serial://{os.ttyname(slave)}?baud=9600")
    sink.start()
    send(sink, LANE)
    until(lambda: sink.sent == 1)
    waiting[0] = 44
    for seq in range(1, 4):
        send(sink, LANE | {"offset_m": seq / 10}, seq)
        until(lambda seq=seq: sink.lost >= seq)
    waiting[0] = 0
    send(sink, LANE | {"offset_m": 0.5}, 4)
    until(lambda: sink.sent == 2)
    lines = os.read(master, 500).split()
    assert [fields(line)[3] for line in lines] == ["-0.1234", "0.5000"]
    sink.stop()
    os.close(master)
    os.close(slave)


def test_a_serial_port_that_is_unplugged_and_plugged_in_again_continues(tmp_path):
    port = tmp_path / "port"
    master, slave = pty.openpty()
    port.symlink_to(os.ttyname(slave))
    sink = DriveSink(f"serial://{port}", retry_s=0.05)
    sink.start()
    send(sink, LANE)
    assert fields(os.read(master, 200).strip())[1] == "0"
    os.close(master)
    os.close(slave)
    port.unlink()
    send(sink, LANE)
    until(lambda: sink.lost > 2)
    master, slave = pty.openpty()
    port.symlink_to(os.ttyname(slave))
    before = sink.sent
    until(lambda: sink.sent > before)
    send(sink, LANE | {"offset_m": 0.5})
    until(lambda: b",0.5000," in os.read(master, 500))
    sink.stop()
    os.close(master)
    os.close(slave)


def test_a_missing_receiver_costs_lines_only():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
    sink = DriveSink(f"udp://127.0.0.1:{port}")
    sink.start()
    for seq in range(5):
        send(sink, LANE, seq)
        time.sleep(0.02)
    sink.stop()
    assert sink.sent + sink.lost >= 3
    assert sink.lost > 0


@pytest.mark.parametrize(
    "uri", ["udp://host", "udp://:5", "udp://host:99999", "serial://", "serial:///dev/x?baud=1", "tcp://host:5", "5005"]
)
def test_other_uris_are_refused_with_the_allowed_ones(uri):
    with pytest.raises(SinkError, match=r"--drive .*(udp://HOST:PORT|allowed are 9600)"):
        DriveSink(uri)


def test_a_missing_port_is_refused_at_the_start(tmp_path):
    with pytest.raises(SinkError, match="cannot open it: No such file"):
        DriveSink(f"serial://{tmp_path}/none").start()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkError, match="is not a serial port"):
        DriveSink(f"serial://{tmp_path}/file").start()
