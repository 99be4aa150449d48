"""The arithmetic of `examples/car`, without hardware: the real drive lines, the controller, the Arduino's parser."""

import math
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from camapp.sinks.drive import message

CAR = Path(__file__).resolve().parents[2] / "examples" / "car"
sys.path.insert(0, str(CAR))

import cars  # noqa: E402
import drive  # noqa: E402
from controller import STOP, Command, Controller, Lane, Receiver, parse  # noqa: E402
from donkeycar_part import CamappPilot  # noqa: E402

VALUES = {"offset_m": 0.1234, "heading_deg": -5.0, "curvature_1_m": 0.5, "confidence": 0.9}
AHEAD = Lane(0.0, 0.0, 0.0, 1.0)


def test_a_line_of_camapp_is_read_and_a_stale_one_is_no_lane():
    lane = parse(message(3, VALUES, 12.0))
    assert (lane.offset, lane.curvature, lane.confidence) == (0.1234, 0.5, 0.9)
    assert lane.heading == pytest.approx(math.radians(-5.0))
    assert parse(message(4, VALUES, 250.0)) is None
    assert parse(message(5, {}, 10.0)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-5],
        lambda line: line.replace(b"0.1234", b"0.1235"),
        lambda line: b"",
        lambda line: b"$CAMAPP*",
        lambda line: line[20:],
        lambda line: b"\xff" * 30,
    ],
)
def test_damaged_lines_are_counted_and_change_nothing(damage):
    receiver = Receiver()
    receiver.take([message(0, VALUES, 5.0), damage(message(1, VALUES, 5.0))], 10.0)
    assert receiver.damaged == 1
    assert receiver.lane(10.1).offset == 0.1234


def test_silence_and_stale_lines_leave_no_lane():
    receiver = Receiver()
    assert receiver.lane(0.0) is None
    receiver.take([message(0, VALUES, 5.0)], 1.0)
    assert receiver.lane(1.29) is not None
    assert receiver.lane(1.31) is None
    receiver.take([message(1, VALUES, 5.0), message(2, {}, 5.0)], 2.0)
    assert receiver.lane(2.0) is None


def test_the_car_is_steered_back_to_the_middle_and_along_the_bend():
    control = Controller()
    assert control.command(AHEAD, 1.0).steering == 0
    # Right of the middle, or pointing right: steer left. A bend to the right: steer right.
    assert control.command(Lane(0.2, 0.0, 0.0, 1.0), 1.0).steering < 0
    assert control.command(Lane(0.0, 0.2, 0.0, 1.0), 1.0).steering < 0
    right = control.command(Lane(0.0, 0.0, 0.5, 1.0), 1.0)
    assert right.steering == pytest.approx(math.atan(0.26 * 0.5))
    assert control.command(Lane(-0.2, 0.0, 0.0, 1.0), 1.0).steering > 0
    assert control.command(Lane(-9.0, -1.0, 3.0, 1.0), 1.0).steering == control.max_steering


def test_the_speed_falls_in_bends_and_with_doubt_and_is_zero_without_a_lane():
    control = Controller(top_speed=2.0, grip=2.0)
    assert control.command(AHEAD, 1.0).speed == 2.0
    assert control.command(Lane(0.0, 0.0, 2.0, 1.0), 1.0).speed == pytest.approx(1.0)
    assert control.command(Lane(0.0, 0.0, 0.0, 0.0), 1.0).speed == pytest.approx(1.0)
    assert control.command(None, 1.0) == STOP == Command(0.0, 0.0)


def test_pulses_are_centred_bounded_and_neutral_at_a_stop():
    assert cars.pulses(0.0, 0.0) == (1500.0, 1500.0)
    assert cars.pulses(cars.FULL_STEERING, 1.0) == (1900.0, 1560.0)
    assert cars.pulses(-9.0, 99.0) == (1000.0, 2000.0)


def test_the_program_drives_a_car_and_stops_it_at_the_end():
    class Recorder:
        def __init__(self):
            self.speeds = []

        def drive(self, steering, speed):
            self.speeds.append(speed)

    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.bind(("127.0.0.1", 0))
    port.setblocking(False)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in range(3):
        sender.sendto(message(number, VALUES, 5.0), port.getsockname())
    car = Recorder()
    drive.drive(car, port, Controller(), seconds=0.15)
    assert max(car.speeds) > 0
    assert car.speeds[-1] == 0


def test_the_donkeycar_part_steers_and_stops():
    pilot = CamappPilot(port=0)
    thread = threading.Thread(target=pilot.update, daemon=True)
    assert pilot.run_threaded() == (0.0, 0.0)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(message(0, VALUES | {"offset_m": -0.3}, 5.0), pilot.address)
    thread.start()
    for _ in range(200):
        angle, throttle = pilot.run_threaded()
        if throttle:
            break
        thread.join(0.01)
    assert 0 < angle <= 1
    assert 0 < throttle <= 1
    pilot.shutdown()
    thread.join(2)
    assert not thread.is_alive()


PROGRAM = r"""
#include <stdio.h>
#include "camapp_line.h"
int main() {
  CamappLine line;
  for (int c; (c = getchar()) != EOF;) {
    CamappLine::Result result = line.take((char)c);
    if (result == CamappLine::NOTHING) continue;
    if (result == CamappLine::LANE)
      printf("LANE %.4f %.3f %.5f %.2f %.3f\n", line.lane.offset, line.lane.heading, line.lane.curvature,
             line.lane.confidence, camapp_steering(line.lane, 0.45f, 0.26f, 32));
    else
      puts(result == CamappLine::STALE ? "STALE" : "DAMAGED");
  }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_the_arduino_reads_what_camapp_sends_and_steers_as_the_controller_does(tmp_path):
    (tmp_path / "main.cpp").write_text(PROGRAM)
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    sketch = CAR / "arduino" / "camapp_car"
    subprocess.run([*command, f"-I{sketch}", "main.cpp", "-o", "main"], cwd=tmp_path, check=True, timeout=120)
    good, stale = message(7, VALUES, 12.0), message(8, {}, 12.0)
    damaged = [
        good.replace(b"-5.000", b"-5.001"),
        b"$CAMAPP,1,0,1,2,3*00\n",
        b"$" + b"x" * 300 + b"\n",
        b"$*\n",
        b"$\n",
    ]
    noise = b"\x00\xffgarbage\n" + good[:17]
    fed = b"".join([noise, good, stale, *damaged, good])
    done = subprocess.run([tmp_path / "main"], input=fed, capture_output=True, check=True, timeout=20)
    read = done.stdout.decode().splitlines()
    control = Controller(least_ahead=0.45)
    angle = math.degrees(control.command(parse(good), 0.0).steering)
    assert read == [f"LANE 0.1234 -5.000 0.50000 0.90 {angle:.3f}", "STALE", *["DAMAGED"] * 5, read[0]]
