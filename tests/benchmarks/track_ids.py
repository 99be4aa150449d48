"""Counts the id switches of the tracker on generated scenes, whose true ids are known.

python -m tests.benchmarks.track_ids [--seeds 5] [--frames 300] [--only NAME]

Boxes of `bodies` move straight ahead and rebound at the borders; `people` are those of pattern://crossing. A simulated
detector misses some, moves their edges a little, invents others, and, where `hidden` is stated, loses what is covered
by more than three quarters and cuts off the covered part of others. A switch, as CLEAR MOT defines it: the id of an
object is not the one it had before; an id stays with its object as long as their boxes overlap by half. The last
columns are the ids given in all, and the tracker's CPU time per frame.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camapp.core.predictions import Box
from camapp.scenes.crossing import CrossingScene
from camapp.scenes.scene import SceneOptions
from camapp.tasks.assignment import assign
from camapp.tasks.tracker import Tracker
from tests.benchmarks.common import benchmark_parser, print_conditions

SIZE = (1280, 720)
# Score from which the tracker takes a box for a new object.
SURE = 0.4
# Samples of a box, rows and columns, to find out what is covered.
GRID = (16, 12)


@dataclass(frozen=True)
class Case:
    """A scene and a detector.

    Attributes:
        noise: standard deviation of an edge, as a share of the root of the object's area.
        hidden: whether objects cover each other.
        invented: mean number of false boxes per frame.
        dropped: share of the frames that are left out.
        shake: standard deviation of the camera's movement between two frames, pixels.
    """

    objects: int = 20
    fps: float = 30.0
    people: bool = False
    missed: float = 0.05
    noise: float = 0.015
    hidden: bool = False
    invented: float = 0.0
    dropped: float = 0.0
    shake: float = 0.0


CASES = {
    "20 bodies, 5 % missed": Case(),
    "the same, hidden": Case(hidden=True),
    "the same at 10 fps": Case(fps=10),
    "the same, half the frames dropped": Case(dropped=0.5),
    "20 people, 5 % missed": Case(people=True),
    "20 people, hidden": Case(people=True, hidden=True),
    "60 people, hidden, 15 % missed": Case(60, people=True, hidden=True, missed=0.15, invented=0.3),
    "20 people at 10 fps": Case(fps=10, people=True),
    "20 people at 5 fps": Case(fps=5, people=True),
    "20 people, shaking camera": Case(people=True, shake=8),
    "20 people, bad detector": Case(people=True, missed=0.15, noise=0.04, invented=0.5, hidden=True),
}


@dataclass(frozen=True)
class Detections:
    """What the detector found in one frame, and the true boxes of the objects that it found, numbered."""

    now_ns: int
    boxes: list[Box]
    truth: list[Box]


def bodies(count: int, frames: int, fps: float, seed: int) -> list[list[Box]]:
    """Return the boxes of each frame, numbered."""
    rng = np.random.default_rng(seed)
    sides = np.stack([rng.uniform(40, 90, count), rng.uniform(60, 160, count)], axis=1)
    room = np.array(SIZE) - sides
    place, angle = rng.uniform(0, 1, (count, 2)) * room, rng.uniform(0, 2 * np.pi, count)
    speed = rng.uniform(60, 300, count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = []
    for _ in range(frames):
        corners = np.concatenate([place, place + sides], axis=1).tolist()
        found.append([Box(*values, "body", 1.0, number) for number, values in enumerate(corners, 1)])
        place = place + speed / fps
        speed = np.where(place < 0, np.abs(speed), np.where(place > room, -np.abs(speed), speed))
        place = np.clip(place, 0, room)
    return found


def people(count: int, frames: int, fps: float, seed: int) -> list[list[Box]]:
    """Return the boxes of each frame, numbered, from far to near."""
    scene = CrossingScene(SceneOptions(SIZE, fps, seed, count))
    return [list(scene.truth(index).boxes) for index in range(frames)]


def detections(case: Case, frames: int, seed: int) -> list[Detections]:
    """Return what the detector finds in the frames of a case."""
    rng = np.random.default_rng([seed, 1])
    shift, found = np.zeros(2), []
    for index, truth in enumerate((people if case.people else bodies)(case.objects, frames, case.fps, seed)):
        shift = 0.8 * shift + rng.normal(0, 1, 2) * case.shake
        if rng.random() < case.dropped:
            continue
        seen = [_detected(box, truth[at + 1 :], case, rng) for at, box in enumerate(truth)]
        kept = [(box, real) for box, real in zip(seen, truth, strict=True) if box and rng.random() >= case.missed]
        false = [_invented(rng) for _ in range(rng.poisson(case.invented))]
        boxes, real = ([_moved(box, [*shift, *shift]) for box in part] for part in zip(*kept, strict=True))
        found.append(Detections(round(index * 1e9 / case.fps), boxes + false, real))
    return found


def _detected(box: Box, nearer: Sequence[Box], case: Case, rng: np.random.Generator) -> Box | None:
    edges = rng.normal(0, case.noise, 4) * np.sqrt((box.x1 - box.x0) * (box.y1 - box.y0))
    found = replace(_moved(box, edges), score=float(np.clip(rng.normal(0.85, 0.05), 0.5, 1)), track=0)
    if not case.hidden:
        return found
    covered = _covered(box, nearer)
    share = 1 - covered.mean()
    if share < 0.25:
        return None
    if share >= 0.7:
        return found
    rows, columns = (np.flatnonzero((~covered).mean(axis=axis) > 0.3) for axis in (1, 0))
    ends = [part[[0, -1]] / size for part, size in ((columns, GRID[1]), (rows, GRID[0])) if len(part)]
    if len(ends) == 2:
        (left, right), (top, bottom) = ends
        wide, tall = found.x1 - found.x0, found.y1 - found.y0
        cut = left * wide, top * tall, (right - 1 + 1 / GRID[1]) * wide, (bottom - 1 + 1 / GRID[0]) * tall
        found = _moved(found, cut)
    return replace(found, score=float(np.clip(rng.normal(share, 0.1), 0.1, 0.9)))


def _covered(box: Box, nearer: Sequence[Box]) -> NDArray[np.bool_]:
    x = box.x0 + (np.arange(GRID[1]) + 0.5) / GRID[1] * (box.x1 - box.x0)
    y = box.y0 + (np.arange(GRID[0]) + 0.5) / GRID[0] * (box.y1 - box.y0)
    covered = np.zeros(GRID, bool)
    for other in nearer:
        covered |= ((y > other.y0) & (y < other.y1))[:, None] & ((x > other.x0) & (x < other.x1))
    return covered


def _invented(rng: np.random.Generator) -> Box:
    wide = rng.uniform(30, 100)
    x, y = rng.uniform(0, SIZE[0] - wide), rng.uniform(0, SIZE[1] - 2 * wide)
    return Box(x, y, x + wide, y + 2 * wide, "person", float(rng.uniform(0.3, 0.6)))


def _moved(box: Box, by: Sequence[float] | NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in by)
    return replace(box, x0=box.x0 + x0, y0=box.y0 + y0, x1=box.x1 + x1, y1=box.y1 + y1)


def switches(found: Sequence[Detections]) -> tuple[int, int, float]:
    """Return the id switches, the ids given, and the tracker's seconds."""
    tracker, seconds, count = Tracker(), 0.0, 0
    last: dict[int, int] = {}
    ids = set()
    for frame in found:
        start = time.thread_time()
        tracked = tracker.update(frame.boxes, frame.now_ns, SIZE, SURE)
        seconds += time.thread_time() - start
        ids |= {box.track for box in tracked if box.track}
        for number, track in _owners(frame.truth, [box for box in tracked if box.track], last).items():
            count += last.get(number, track) != track
            last[number] = track
    return count, len(ids), seconds


def _owners(truth: list[Box], tracked: list[Box], last: dict[int, int]) -> dict[int, int]:
    """Return the id of each true object: the one it had, if the boxes still overlap by half, else the best one."""
    cost = 1 - _overlaps(truth, tracked)
    had = np.array([[last.get(real.track) == box.track for box in tracked] for real in truth], bool)
    cost -= had.reshape(cost.shape)
    cost[cost > np.where(had.reshape(cost.shape), -0.5, 0.5)] = np.inf
    rows, columns = assign(cost, 1.0)
    return {truth[row].track: tracked[column].track for row, column in zip(rows, columns, strict=True)}


def _overlaps(ones: list[Box], others: list[Box]) -> NDArray[np.float64]:
    """Return the intersection over union of each pair."""
    a, b = (np.array([(box.x0, box.y0, box.x1, box.y1) for box in part]).reshape(-1, 4) for part in (ones, others))
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    areas = [(part[:, 2:] - part[:, :2]).prod(axis=1) for part in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1] - shared))


def main() -> None:
    """Print a line for each case."""
    parser = benchmark_parser()
    parser.add_argument("--seeds", type=int, default=5, help="scenes of each case")
    parser.add_argument("--frames", type=int, default=300, help="frames of each scene")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    arguments = parser.parse_args()
    print_conditions()
    print(f"{'case':36} {'switches':>8} {'worst':>6} {'objects':>8} {'ids':>6} {'ms/frame':>9}")
    for name, case in CASES.items():
        if arguments.only not in name:
            continue
        scenes = [detections(case, arguments.frames, seed) for seed in range(1, arguments.seeds + 1)]
        results = np.array([switches(scene) for scene in scenes])
        spent = 1e3 * results[:, 2].sum() / sum(map(len, scenes))
        mean, ids = results[:, 0].mean(), results[:, 1].mean()
        print(f"{name:36} {mean:8.1f} {results[:, 0].max():6.0f} {case.objects:8} {ids:6.1f} {spent:9.2f}", flush=True)


if __name__ == "__main__":
    main()
