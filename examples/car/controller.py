"""Turns the lines of camapp's drive protocol into steering and speed. It needs nothing but Python's standard library.

Signs are camapp's: right is positive. An offset above 0 means that the car is right of its lane's middle, a heading
above 0 that it points right of the lane, a curvature above 0 that the lane bends right, a steering angle above 0 that
the front wheels point right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

# Without a line for this time, the car has to stop.
SILENCE_S = 0.3


@dataclass(frozen=True)
class Lane:
    """Position in the lane: metres, radians, 1/m, and how sure it is, 0 to 1."""

    offset: float
    heading: float
    curvature: float
    confidence: float


@dataclass(frozen=True)
class Command:
    """Angle of the front wheels in radians, and speed in m/s; a speed of 0 is a stop."""

    steering: float
    speed: float


STOP = Command(0.0, 0.0)


def parse(line: bytes) -> Lane | None:
    """Return the lane of a line of the protocol; None if it is stale, and the car must stop.

    Raises:
        ValueError: the line is damaged.
    """
    start, _, rest = line.strip().partition(b"$")
    body, star, total = rest.partition(b"*")
    if start or not star or len(total) != 2 or int(total, 16) != reduce(lambda a, b: a ^ b, body, 0):
        raise ValueError(f"damaged line {line!r}")
    name, _, stale, offset, heading, curvature, confidence, _ = body.decode("ascii").split(",")
    if name != "CAMAPP" or stale not in ("0", "1"):
        raise ValueError(f"not a line of camapp: {line!r}")
    if stale == "1":
        return None
    numbers = float(offset), math.radians(float(heading)), float(curvature), float(confidence)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"a number that is none: {line!r}")
    return Lane(*numbers)


class Receiver:
    """Keeps what the newest line says, and how old it is.

    Attributes:
        damaged: number of lines that were left out because they are damaged.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._lane: Lane | None = None
        self._received = -math.inf

    def take(self, lines: Iterable[bytes], now: float) -> None:
        """Take all lines that wait, oldest first; `now` is in seconds."""
        for line in lines:
            try:
                self._lane = parse(line)
            except ValueError:
                # Silence, not one bad line, stops the car.
                self.damaged += 1
            else:
                self._received = now

    def lane(self, now: float) -> Lane | None:
        """Return the lane to steer by; None if the car must stop."""
        return self._lane if now - self._received <= SILENCE_S else None


@dataclass(frozen=True)
class Controller:
    """Pure pursuit: steers along the arc that meets the lane's middle some way ahead, slower in tighter bends.

    Attributes:
        wheelbase: distance of the axles, metres.
        max_steering: largest angle of the front wheels, radians.
        top_speed: on a straight lane, m/s.
        grip: acceleration to the side up to which the speed is kept, m/s^2. Tyres on a clean floor hold about 5.
        ahead_s: the point ahead is as far away as the car drives in this time...
        least_ahead: ...but no nearer than this, metres.
    """

    wheelbase: float = 0.26
    max_steering: float = math.radians(32)
    top_speed: float = 1.5
    grip: float = 2.0
    ahead_s: float = 0.4
    least_ahead: float = 0.45

    def command(self, lane: Lane | None, speed: float) -> Command:
        """Return what to do at a place in the lane, at a speed in m/s; without a lane, stop."""
        if lane is None:
            return STOP
        ahead = max(self.least_ahead, self.ahead_s * speed)
        bend = lane.curvature - 2 * math.sin(math.atan2(lane.offset, ahead) + lane.heading) / ahead
        steering = math.atan(self.wheelbase * bend)
        tightest = max(abs(lane.curvature), abs(bend), 1e-6)
        wanted = min(self.top_speed, math.sqrt(self.grip / tightest)) * (0.5 + 0.5 * min(1.0, 2 * lane.confidence))
        return Command(max(-self.max_steering, min(self.max_steering, steering)), wanted)
