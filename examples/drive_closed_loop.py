"""Drives a simulated car around a generated track by the predictions: camera, net, lane, drive messages and back.

    python examples/drive_closed_loop.py [--laps 1] [--seed 1] [--speed 1.5] [--model track]

The camera is a source of its own: each image is rendered at the pose that a bicycle model has reached, steered by the
newest line that the drive sink has sent over UDP. A stale line, or none for 0.3 s, brakes the car.
"""

import argparse
import math
import socket
import time

import numpy as np

import camapp
from camapp.scenes.course import Pose
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene

FPS = 30.0
WHEELBASE_M = 0.26
MAX_STEERING = math.radians(32)
SILENCE_S = 0.3


def steering_for(offset: float, heading: float, curvature: float, speed: float) -> float:
    """Return the angle of the front wheels (radians, right positive) that leads back to the middle of the lane."""
    # Aim at the middle of the lane half a second ahead.
    ahead = max(0.5, 0.5 * speed)
    bend = curvature - 2 * math.sin(math.atan2(offset, ahead) + heading) / ahead
    return float(np.clip(math.atan(WHEELBASE_M * bend), -MAX_STEERING, MAX_STEERING))


class SimulatedCar(camapp.Source):
    """Renders what the camera of a car sees, and moves the car by the messages that it receives.

    Args:
        seed: of the track.
        speed: metres per second.
        laps: number of laps to drive.

    Attributes:
        laps: laps driven so far.
        worst: largest distance from the middle of the lane so far, in lane widths; its border is at 0.5.
    """

    def __init__(self, seed: int, speed: float, laps: float) -> None:
        self.scene = TrackScene(SceneOptions(size=(320, 240), fps=FPS, seed=seed, count=1))
        self.laps = self.worst = 0.0
        self._wanted_laps, self._wanted_speed = laps, speed
        self._pose, self._speed, self._steering, self._along = self.scene.course.pose(0.0), 0.0, 0.0, 0.0
        self._messages = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._messages.bind(("127.0.0.1", 0))
        self._messages.setblocking(False)
        self.port = self._messages.getsockname()[1]

    def open(self) -> None:
        """Start the clock."""
        self._last = self._received = time.monotonic()

    def read(self, timeout: float) -> camapp.Shot:
        """Return the next image. A late one shows where the car is by then."""
        time.sleep(max(0.0, self._last + 1 / FPS - time.monotonic()))
        self._receive()
        now = time.monotonic()
        self._move(now - self._last, 0.0 if now - self._received > SILENCE_S else self._wanted_speed)
        self._last = now
        pixels, truth = self.scene.seen_from(self._pose, int(now * FPS))
        view = camapp.Image.of(pixels, camapp.Layout.RGB)
        return camapp.Shot(view, view, sensor_ns=int(now * 1e9), truth=truth)

    def close(self) -> None:
        """Close the socket."""
        self._messages.close()

    def _receive(self) -> None:
        try:
            while True:
                line = self._messages.recv(200).decode("ascii").partition("*")[0]
                _, _, stale, offset, heading, curvature, *_ = line.split(",")
                if stale == "0":
                    lane = float(offset), math.radians(float(heading)), float(curvature)
                    self._steering, self._received = steering_for(*lane, self._speed), time.monotonic()
        except BlockingIOError:
            return

    def _move(self, seconds: float, wanted_speed: float) -> None:
        """Move the bicycle model; end after the last lap, or if the car has left its lane."""
        self._speed += float(np.clip(wanted_speed - self._speed, -4 * seconds, 1.5 * seconds))
        heading = self._pose.heading + self._speed * math.tan(self._steering) / WHEELBASE_M * seconds
        metres = self._speed * seconds
        self._pose = Pose(self._pose.x + metres * math.sin(heading), self._pose.y + metres * math.cos(heading), heading)
        course = self.scene.course
        nearest = int(np.argmin(((course.centre - (self._pose.x, self._pose.y)) ** 2).sum(axis=1)))
        along, length = float(course.along[nearest]), float(course.along[-1])
        self.laps += math.remainder(along - self._along, length) / length
        self._along = along
        self.worst = max(self.worst, abs(course.values(self._pose).get("offset_lanes", math.inf)))
        if self.laps >= self._wanted_laps or self.worst > 0.5:
            raise camapp.EndOfStream


def main() -> int:
    """Drive; return 0 if the laps were driven within the lane."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laps", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1.5, help="metres per second")
    parser.add_argument("--model", default="track")
    options = parser.parse_args()
    car = SimulatedCar(options.seed, options.speed, options.laps)
    camera = car.scene.camera
    for _ in camapp.watch(
        car,
        model=options.model,
        drive=f"udp://127.0.0.1:{car.port}",
        camera_height=camera.height,
        camera_pitch=math.degrees(camera.pitch),
        camera_hfov=math.degrees(camera.across),
    ):
        pass
    length = float(car.scene.course.along[-1])
    print(f"{car.laps:.2f} laps of {length:.0f} m, at most {car.worst:.2f} lane widths from the middle of the lane")
    return 0 if car.laps >= options.laps and car.worst <= 0.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
