"""A simulated car follows a generated track by what camapp tells it: camera, net, lane, drive messages and back.

    python -m tests.examples.closed_loop [--laps 1] [--seed 1] [--speed 1.5] [--model track]

The camera is a source of its own, `sim://`. Each image is rendered where a bicycle model has got to by then, steered
by the newest line that `--drive` sent over UDP; a stale line, or none for 0.3 s, brakes the car. It ends with a lap
count, and fails if the car has left its lane.
"""

from __future__ import annotations

import argparse
import math
import socket
import sys
import time
from dataclasses import dataclass

import numpy as np

from camapp.app import run
from camapp.capture.source import REGISTRY, EndOfStream, Source, query_of
from camapp.core.errors import ExitCode
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout
from camapp.core.settings import Settings
from camapp.scenes.course import Pose
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene

FPS = 30.0
SIZE = (320, 240)
WHEELBASE = 0.26  # metres
STEEPEST = math.radians(32)  # of the front wheels
DEAF_S = 0.3


def free_port() -> int:
    """A port that nobody listens on, so that several cars can drive at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Car:
    """A bicycle model: position of the camera, heading clockwise from the y axis, speed."""

    x: float
    y: float
    heading: float
    speed: float = 0.0

    def move(self, seconds: float, steering: float, wanted: float) -> None:
        """Roll on with the front wheels turned right by `steering` radians, towards the wanted speed."""
        self.speed += float(np.clip(wanted - self.speed, -4 * seconds, 1.5 * seconds))
        self.heading += self.speed * math.tan(steering) / WHEELBASE * seconds
        self.x += self.speed * math.sin(self.heading) * seconds
        self.y += self.speed * math.cos(self.heading) * seconds


def steering_for(offset: float, heading: float, curvature: float, speed: float) -> float:
    """Front wheels (radians, right positive) that bring a car back to its lane's middle and round its bend."""
    # Aim at the middle of the lane half a second ahead.
    ahead = max(0.5, 0.5 * speed)
    bend = curvature - 2 * math.sin(math.atan2(offset, ahead) + heading) / ahead
    return float(np.clip(math.atan(WHEELBASE * bend), -STEEPEST, STEEPEST))


class SimulatedCamera(Source):
    """`sim://track?seed=1&speed=1.5&laps=1&port=50505`: images from a car that drives by the messages it gets.

    Attributes:
        worst: largest distance from the lane's middle so far, in lane widths; a half is its border.
        laps: done so far.
    """

    worst = 0.0
    laps = 0.0
    stale = 0

    def open(self) -> None:
        """Put the car on the track."""
        query = query_of(self.uri)
        self._wanted_laps, self._wanted = float(query["laps"]), float(query["speed"])
        self._scene = TrackScene(SceneOptions(size=SIZE, fps=FPS, seed=int(query["seed"]), count=1))
        start = self._scene.course.pose(0.0)
        self._car = Car(start.x, start.y, start.heading)
        self._along = 0.0
        self._steering, self._heard = 0.0, time.monotonic()
        self._ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ears.bind(("127.0.0.1", int(query["port"])))
        self._ears.setblocking(False)
        self._due = self._last = time.monotonic()
        self._frame = 0

    def read(self, timeout: float) -> Shot:
        """The next image, at its moment."""
        self._due += 1 / FPS
        time.sleep(max(0.0, self._due - time.monotonic()))
        now = time.monotonic()
        # A late image shows where the car is by then; the next one is due a full interval later.
        passed, self._last, self._due = now - self._last, now, max(self._due, now - 0.5 / FPS)
        self._listen()
        deaf = time.monotonic() - self._heard > DEAF_S
        self._car.move(passed, self._steering, 0.0 if deaf else self._wanted)
        pose = Pose(self._car.x, self._car.y, self._car.heading)
        self._judge(pose)
        self._frame += 1
        taken = time.monotonic_ns()
        pixels, truth = self._scene.seen_from(pose, self._frame)
        view = Image.of(pixels, Layout.RGB)
        return Shot(view, view, sensor_ns=taken, truth=truth)

    def close(self) -> None:
        """Let the port go."""
        self._ears.close()

    def _listen(self) -> None:
        while True:
            try:
                line = self._ears.recv(200).decode("ascii")
            except BlockingIOError:
                return
            _, _, stale, offset, heading, curvature, *_ = line.partition("*")[0].split(",")
            if stale == "0":
                numbers = float(offset), math.radians(float(heading)), float(curvature)
                self._steering, self._heard = steering_for(*numbers, self._car.speed), time.monotonic()
            else:
                type(self).stale += 1

    def _judge(self, pose: Pose) -> None:
        course = self._scene.course
        place = int(np.argmin(((course.centre - (pose.x, pose.y)) ** 2).sum(axis=1)))
        along, length = float(course.along[place]), float(course.along[-1])
        step = math.remainder(along - self._along, length)
        self._along = along
        type(self).laps += step / length
        off = abs(course.values(pose).get("offset_lanes", math.inf))
        type(self).worst = max(self.worst, off)
        if self.laps >= self._wanted_laps or off > 0.5:
            raise EndOfStream


def main() -> int:
    """Drive; 0 if the laps were done within the lane."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laps", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1.5, help="metres a second")
    parser.add_argument("--model", default="track")
    options = parser.parse_args()
    REGISTRY["sim"] = f"{__name__}:SimulatedCamera"
    scene = TrackScene(SceneOptions(size=SIZE, seed=options.seed, count=1))
    began = time.monotonic()
    port = free_port()
    settings = Settings(
        source=f"sim://track?seed={options.seed}&speed={options.speed}&laps={options.laps}&port={port}",
        model=options.model,
        drive=f"udp://127.0.0.1:{port}",
        display="none",
        log="/dev/null",
        camera_height=scene.camera.height,
        camera_pitch=math.degrees(scene.camera.pitch),
        camera_hfov=math.degrees(scene.camera.across),
        camera_distortion=0.0,
    )
    summary = run([settings], lambda: [settings])[0]
    car = SimulatedCamera
    metres = car.laps * float(scene.course.along[-1])
    print(
        f"{car.laps:.2f} of {options.laps:g} laps of {scene.course.along[-1]:.0f} m, {metres:.0f} m in "
        f"{time.monotonic() - began:.0f} s; farthest from the lane's middle {car.worst:.2f} lane widths "
        f"(its border is at 0.5); {car.stale} stale lines"
    )
    if summary.code is not ExitCode.OK:
        print(summary.reason, file=sys.stderr)
    return 0 if car.laps >= options.laps and car.worst <= 0.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
