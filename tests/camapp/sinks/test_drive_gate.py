"""The gate stops a car for good, lets one page at a time drive it, and reaches the drive lines at once."""

import math
import socket
import time

import pytest

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.drive import DriveSink
from camapp.sinks.drive_gate import DriveGate, GateHeld

VALUES = {"offset_m": 0.1, "heading_deg": 1.0, "curvature_1_m": 0.0, "confidence": 0.9, "age_ms": 0.0}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_car_waits_for_a_release_and_a_stop_holds_until_the_next_one():
    gate = DriveGate(Clock())
    assert gate.state == (False, "not released yet", "")
    gate.release("a")
    assert gate.state == (True, "", "a")
    gate.stop("stopped from a page")
    assert gate.state == (False, "stopped from a page", "")
    gate.release("b")
    assert gate.state.holder == "b"


def test_one_page_at_a_time_lets_the_car_drive():
    gate = DriveGate(Clock())
    first = gate.release("a")
    with pytest.raises(GateHeld, match="another page"):
        gate.release("b")
    assert gate.state.holder == "a"
    # The same page again gets a new secret, and the old one is void.
    assert gate.release("a") != first


def test_a_silent_page_stops_the_car_and_only_its_own_sign_counts():
    clock = Clock()
    gate = DriveGate(clock)
    grant = gate.release("a")
    for _ in range(5):
        clock.now += 0.4
        gate.hold(grant)
        assert gate.state.driving
    for _ in range(2):
        clock.now += 0.3
        gate.hold("some other secret")
    assert gate.state == (False, "the page that let it drive is silent", "")
    # Too late: it holds until the next release.
    gate.hold(grant)
    assert not gate.state.driving


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.settimeout(5)
        yield found


def test_a_stop_reaches_the_line_at_once_and_an_expired_release_without_a_prediction(receiver):
    gate = DriveGate(silence_s=0.15)
    sink = DriveSink(f"udp://127.0.0.1:{receiver.getsockname()[1]}", gate=gate)
    sink.start()

    def predict():
        now = time.monotonic_ns()
        frame = Frame(0, Shot(None, None))
        sink.accept(Prediction(0, "track", values=VALUES), frame, Trace(0, captured=now))

    def stale():
        return receiver.recv(200).split(b",")[2] == b"1"

    try:
        predict()
        assert stale()
        gate.release("a")
        predict()
        while stale():
            predict()
        gate.stop("stopped from a page")
        asked = time.monotonic()
        while not stale():
            pass
        # A bound for slow machines; alone it takes a millisecond.
        assert time.monotonic() - asked < 2
        predict()
        assert stale()
        gate.release("a")
        predict()
        while stale():
            predict()
        # Its page is silent.
        assert stale()
        assert gate.state.reason == "the page that let it drive is silent"
        gate.release("a")
        predict()
        while stale():
            predict()
    finally:
        sink.stop()
    # The last line of a car that drives is stale.
    assert stale()


def test_the_time_left_to_a_silent_page_is_known():
    clock = Clock()
    gate = DriveGate(clock, silence_s=0.5)
    assert gate.left_s == math.inf
    grant = gate.release("a")
    clock.now += 0.2
    assert gate.left_s == pytest.approx(0.3)
    gate.hold(grant)
    assert gate.left_s == pytest.approx(0.5)
    clock.now += 0.6
    assert gate.left_s == 0
    assert not gate.state.driving
    assert gate.left_s == math.inf
