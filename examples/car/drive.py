"""Drives a car by the lines that `camapp --drive udp://127.0.0.1:5005` sends.

    python examples/car/drive.py --car print       # shows what it would do
    python examples/car/drive.py --car pca9685 --speed 0.5

The car stops on a stale line, after 0.3 s without a line, and when this program ends.
"""

from __future__ import annotations

import argparse
import select
import socket
import time
from dataclasses import replace

from cars import CARS, Car
from controller import STOP, Command, Controller, Receiver


def waiting(port: socket.socket) -> list[bytes]:
    """Return all datagrams that have arrived, oldest first."""
    lines = []
    while True:
        try:
            lines.append(port.recv(200))
        except BlockingIOError:
            return lines


def drive(car: Car, port: socket.socket, controller: Controller, seconds: float | None = None) -> None:
    """Drive until Ctrl-C, or for some seconds; then stop the car."""
    receiver, last = Receiver(), STOP
    end = time.monotonic() + seconds if seconds is not None else None
    try:
        while end is None or time.monotonic() < end:
            select.select([port], [], [], 0.05)
            receiver.take(waiting(port), time.monotonic())
            last = _smoother(last, controller.command(receiver.lane(time.monotonic()), last.speed))
            car.drive(last.steering, last.speed)
    finally:
        car.drive(STOP.steering, STOP.speed)


def _smoother(last: Command, wanted: Command) -> Command:
    """Return the command with a speed that rises slowly; it falls at once."""
    return replace(wanted, speed=min(wanted.speed, last.speed + 0.05))


def main() -> None:
    """Parse the command line and drive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--car", choices=CARS, default="print")
    parser.add_argument("--port", type=int, default=5005)
    parser.add_argument("--speed", type=float, default=0.5, help="on a straight lane, metres per second")
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.bind(("127.0.0.1", options.port))
    port.setblocking(False)
    try:
        drive(CARS[options.car](), port, Controller(top_speed=options.speed), options.seconds)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
