"""Drives a simulated car around a generated track by the predictions: camera, net, lane, drive messages and back.

    python examples/drive_closed_loop.py [--laps 1] [--seed 2] [--speed 1.5] [--course circuit|hairpins] [--model track]

The camera is a source of its own: each image is rendered at the pose that a bicycle model has reached, steered by the
controller of `examples/car` with the newest line that the drive sink has sent over UDP. A stale line, or none for
0.3 s, brakes the car. The course `hairpins` has three of them, stop lines, a number in each lane, and a neighbour lane.
With `--lockstep`, the simulation waits for each prediction: its time is then no matter of the machine's load.
"""

import argparse
import math
import socket
import sys
import threading
import time

import numpy as np
from car.controller import STOP, Controller, Receiver

import camapp
from camapp.scenes.course import Course, Pose, Stripe
from camapp.scenes.lap import LapScene
from camapp.scenes.scene import SceneOptions
from camapp.sinks.drive import message

FPS = 30.0
SIZE = (320, 240)
# Without a lane for this time, the car would stand for ever.
LOST_S = 20.0
# Width of a lane of `hairpins`, metres; radius of the hairpins, in the middle of both lanes.
LANE, HAIRPIN = 0.8, 1.7


class SimulatedCar(camapp.Source):
    """Renders what the camera of a car sees, and moves the car by the messages that it receives.

    Args:
        speed: top speed, metres per second.
        laps: number of laps to drive.
        lane: number of the lane to drive in, from the left.
        lockstep: each image waits for `answer` to the image before.

    Attributes:
        laps: laps driven so far.
        offsets: distance from the middle of the lane at each image, in lane widths; its border is at 0.5.
        longest_stale_s: longest time without a line to steer by.
    """

    def __init__(self, scene: LapScene, speed: float, laps: float, lane: int, lockstep: bool) -> None:
        self.scene = scene
        self.live = not lockstep
        self._answered = threading.Event()
        self._images = 0
        self.laps, self.longest_stale_s = 0.0, 0.0
        self.offsets: list[float] = []
        self._wanted_laps = laps
        self._controller = Controller(top_speed=speed)
        self._receiver = Receiver()
        self._command = STOP
        left, right = scene.course.borders[lane : lane + 2]
        self._middle, self._width = (left + right) / 2, right - left
        self._pose, self._speed, self._along = scene.course.pose(0.0, self._middle), 0.0, 0.0
        self._messages = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._messages.bind(("127.0.0.1", 0))
        self._messages.setblocking(False)
        self.port = self._messages.getsockname()[1]

    def open(self) -> None:
        """Start the clock."""
        self._started = self._last = self._now()
        self._steered: float | None = None

    def read(self, timeout: float) -> camapp.Shot:
        """Return the next image. A late one shows where the car is by then."""
        if self.live:
            time.sleep(max(0.0, self._last + 1 / FPS - time.monotonic()))
        elif self._images and not self._answered.wait(10.0):
            raise camapp.EndOfStream
        self._answered.clear()
        self._images += 1
        now = self._now()
        self._steer(now)
        self._move(now - self._last)
        self._last = now
        pixels, truth = self.scene.seen_from(self._pose, int(now * FPS))
        view = camapp.Image.of(pixels, camapp.Layout.RGB)
        clock = {"sensor_ns" if self.live else "moment_ns": int(now * 1e9)}
        return camapp.Shot(view, view, truth=truth, camera=self.scene.camera, **clock)

    def answer(self, result: camapp.Result) -> None:
        """Take a prediction, and let the next image come; only in lockstep."""
        if not self.live:
            self._receiver.take([message(result.frame.seq, result.prediction.values, 1000 / FPS)], self._now())
            self._answered.set()

    def _now(self) -> float:
        return time.monotonic() if self.live else self._images / FPS

    def close(self) -> None:
        """Close the socket."""
        self._messages.close()

    def _steer(self, now: float) -> None:
        lines = []
        try:
            while True:
                lines.append(self._messages.recv(200))
        except BlockingIOError:
            if self.live:
                self._receiver.take(lines, now)
        lane = self._receiver.lane(now)
        self._command = self._controller.command(lane, self._speed)
        if lane is not None:
            self._steered = now
        elif self._steered is not None:
            self.longest_stale_s = max(self.longest_stale_s, now - self._steered)

    def _move(self, seconds: float) -> None:
        """Move the bicycle model; end after the last lap, or if the car has left its lane."""
        wanted = self._command.speed - self._speed
        self._speed += float(np.clip(wanted, -4 * seconds, 1.5 * seconds))
        turn = self._speed * math.tan(self._command.steering) / self._controller.wheelbase * seconds
        heading, metres = self._pose.heading + turn, self._speed * seconds
        self._pose = Pose(self._pose.x + metres * math.sin(heading), self._pose.y + metres * math.cos(heading), heading)
        course = self.scene.course
        away = np.array([self._pose.x, self._pose.y]) - course.centre
        nearest = int(np.argmin((away**2).sum(axis=1)))
        along, length, direction = float(course.along[nearest]), float(course.along[-1]), course.heading[nearest]
        self.laps += math.remainder(along - self._along, length) / length
        self._along = along
        beside = away[nearest] @ (math.cos(direction), -math.sin(direction))
        self.offsets.append((float(beside) - self._middle) / self._width)
        lost = self._last - (self._started if self._steered is None else self._steered) > LOST_S
        if lost or self.laps >= self._wanted_laps or abs(self.offsets[-1]) > 0.5:
            raise camapp.EndOfStream


def hairpins() -> tuple[Course, list[Stripe]]:
    """Return a course of two lanes with three hairpins and a wide bend, with stop lines and numbers."""
    legs = [(5.0, 0.0), (math.pi * HAIRPIN, 1), (5.0, 0.0), (math.pi * HAIRPIN, -1), (5.0, 0.0), (math.pi * HAIRPIN, 1)]
    legs += [(5.0, 0.0), (math.pi * 3 * HAIRPIN, 1 / 3)]
    step = 0.04
    curvature = np.concatenate([np.full(round(length / step), side / HAIRPIN) for length, side in legs])
    # Steering takes time: so do the bends.
    curvature = np.convolve(np.tile(curvature, 3), np.ones(15) / 15, mode="same")[len(curvature) : 2 * len(curvature)]
    along = np.arange(len(curvature) + 1) * step
    heading = np.concatenate([[0.0], np.cumsum(curvature * step)])
    middle = (heading[1:] + heading[:-1]) / 2
    centre = np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.sin(middle), np.cos(middle)], 1) * step, axis=0)])
    # What rounding leaves open is spread over the lap.
    centre -= np.linspace(0, 1, len(centre))[:, None] * (centre[-1] - centre[0])
    heading += np.linspace(0, 1, len(heading)) * (2 * math.pi - heading[-1])
    course = Course(centre, heading, np.append(curvature, curvature[0]), along, (-LANE, 0.0, LANE))
    white = (235.0, 235.0, 230.0)
    lines = [Stripe(course.beside(at), 0.05, white) for at in course.borders]
    marks = []
    for at in (2.5, 15.0, 27.0, 38.0):
        place = int(at / step)
        across = np.array([course.beside(offset)[place] for offset in np.linspace(-LANE, LANE, 12)])
        marks.append(Stripe(across, 0.08, white, is_line=False))
        for middle_of_lane in (-LANE / 2, LANE / 2):
            # A number 1: a stroke along the lane with a foot, half a lane width long.
            stroke = course.beside(middle_of_lane)[place + 15 : place + 25]
            foot = np.array([course.beside(middle_of_lane + side)[place + 15] for side in np.linspace(-0.1, 0.1, 6)])
            marks += [Stripe(stroke, 0.05, white, is_line=False), Stripe(foot, 0.05, white, is_line=False)]
    return course, [*marks, *lines]


def main() -> int:
    """Drive; return 0 if the laps were driven within the lane."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laps", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--speed", type=float, default=1.5, help="on a straight lane, metres per second")
    parser.add_argument("--course", choices=("circuit", "hairpins"), default="circuit")
    parser.add_argument("--lockstep", action="store_true", help="wait for each prediction")
    parser.add_argument("--model", default="track")
    options = parser.parse_args()
    drawn = hairpins() if options.course == "hairpins" else None
    scene = LapScene(SceneOptions(size=SIZE, fps=FPS, seed=options.seed, count=1), drawn)
    car = SimulatedCar(scene, options.speed, options.laps, 1 if drawn else 0, options.lockstep)
    for result in camapp.watch(car, model=options.model, drive=f"udp://127.0.0.1:{car.port}"):
        car.answer(result)
        if sys.stderr.isatty():
            print(f"\r{car.laps:5.0%} of a lap ", end="", file=sys.stderr)
    errors = np.abs(car.offsets)
    print(f"{car.laps:.2f} laps of {float(scene.course.along[-1]):.0f} m")
    print(f"from the middle of the lane, in lane widths: {errors.mean():.3f} in the mean, {errors.max():.2f} at most")
    print(f"longest time without a lane: {car.longest_stale_s:.2f} s")
    return 0 if car.laps >= options.laps and errors.max() <= 0.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
