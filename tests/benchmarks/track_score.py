"""Scores the detection of track lines (F1, position, pose of the car) on generated and on labelled real images.

python -m tests.benchmarks.track_score [--model weights/track.npz] [--labels FOLDER ...] [--no-line FOLDER ...]
    [--generated 400] [--line-colour COLOUR ...] [--paint COLOUR] [--baseline] [--sheet OUT.png]

A labelled folder holds `labels.json`: a list of {"image", "size", "subset", "lines": [[[x, y], ...], ...],
"doubtful"?: optional lines, neither required nor false, "merged_double"?: indices of double lines labelled as one}.

`--paint` paints the lines of generated images, and in exchange what has this colour white. The truth is that of the
white lines. Views are left out whose ground is yellow, or too dark for black lines.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.frames import Frame, Shot, Truth
from camapp.core.image import Image, Layout, Pixels
from camapp.core.models import model_path
from camapp.core.predictions import Prediction
from camapp.scenes.course import Rgb
from camapp.scenes.photograph import photograph
from camapp.scenes.track import random_image
from camapp.tasks.line_colour import WORDS
from camapp.tasks.task import TaskOptions, create_task
from engine.model import Model, load
from tests.benchmarks.common import benchmark_parser, print_conditions
from tests.benchmarks.track_baseline import baseline_lines
from weights.photographs import labelled, read

Line = NDArray[np.float64]
Detector = Callable[[Pixels], list[Line]]

# Distance between samples of a line, as a share of the image's height.
STEP = 0.02
# Maximum distance of matching samples as a share of the image's width, divided by the cosine below.
MAX_DISTANCE = 0.025
# Minimum cosine of a line's angle to the vertical that is used for this.
MIN_COSINE = 0.25
# Minimum share of both lines' samples that must be near the other line.
MIN_SHARE = 0.75
# Training and validation use no seeds from here on.
GENERATED_SEED = 2_000_000_000
GENERATED_SIZES = ((640, 480), (640, 480), (640, 360), (360, 640))
# Colours that --paint gives to lines, RGB, and the range of their brightness.
PAINTS: dict[str, tuple[Rgb, float, float]] = {
    "yellow": ((226.0, 195.0, 50.0), 0.8, 1.12),
    "black": ((12.0, 12.0, 12.0), 1.0, 3.7),
}
WHITE = (235.0, 235.0, 232.0)
# Levels from which a colour is yellow (above its blue), below which it is black, and of ground that shows black lines.
YELLOW, BLACK, BRIGHT_GROUND = 40.0, 60.0, 80.0


@dataclass
class Score:
    """Counts over images; errors are shares of an image's width."""

    matched: int = 0
    missed: int = 0
    false: int = 0
    images: int = 0
    with_false: int = 0
    errors: list[float] = field(default_factory=list)

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall; 1 if there is no line and none was found."""
        total = 2 * self.matched + self.missed + self.false
        return 2 * self.matched / total if total else 1.0

    def __iadd__(self, other: Score) -> Score:
        for name in ("matched", "missed", "false", "images", "with_false"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors += other.errors
        return self

    def __str__(self) -> str:
        error = 100 * float(np.mean(self.errors)) if self.errors else math.nan
        return (
            f"F1 {self.f1:.3f}  matched {self.matched:4d}  missed {self.missed:4d}  false {self.false:4d}  "
            f"mean error {error:.2f} % of width  ({self.images} images, {self.with_false} with a false line)"
        )


def score(
    found: Sequence[Line],
    lines: Sequence[Line],
    size: tuple[int, int],
    spare: Sequence[Line] = (),
    faint: Sequence[Line] = (),
) -> Score:
    """Return the score of one image.

    Args:
        found: detected lines, (n, 2) pixels each.
        lines: lines of the truth.
        size: (width, height).
        spare: optional lines.
        faint: optional paint, such as the far end of a line: samples of detected lines on it do not count.
    """
    found = [line for line in found if len(line) > 1]
    fits = [[_match(one, line, size, faint) for line in lines] for one in found]
    pairs = _assign([[fit is not None for fit in row] for row in fits])
    result = Score(matched=len(pairs), missed=len(lines) - len(pairs), images=1)
    for i, j in pairs.items():
        result.errors.append(float(fits[i][j] or 0.0))
    left = [one for i, one in enumerate(found) if i not in pairs]
    left = [one for one in left if all(_match(one, line, size) is None for line in spare)]
    result.false = sum(float(_on(one, faint, size).mean()) < MIN_SHARE for one in left)
    result.with_false = int(result.false > 0)
    return result


def _match(one: Line, line: Line, size: tuple[int, int], faint: Sequence[Line] = ()) -> float | None:
    """Return the mean distance of the near samples as a share of the width; None if too few are near."""
    a, b = sampled(one, STEP * size[1]), sampled(line, STEP * size[1])
    limit = _limit(line, size)
    from_a, from_b = _distances(a, line), _distances(b, one)
    from_a = from_a[(from_a <= limit) | ~_on(one, faint, size)]
    if not len(from_a) or min((from_a <= limit).mean(), (from_b <= limit).mean()) < MIN_SHARE:
        return None
    return float(from_b[from_b <= limit].mean()) / size[0]


def _limit(line: Line, size: tuple[int, int]) -> float:
    """Return the maximum distance in pixels of a sample on a line."""
    run = line[-1] - line[0]
    cosine = abs(run[1]) / max(float(np.hypot(*run)), 1e-9)
    return MAX_DISTANCE * size[0] / max(cosine, MIN_COSINE)


def _on(one: Line, lines: Sequence[Line], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which samples of a line are on any of the other lines."""
    samples = sampled(one, STEP * size[1])
    near = [_distances(samples, line) <= _limit(line, size) for line in lines if len(line) > 1]
    answer: NDArray[np.bool_] = np.any([np.zeros(len(samples), bool), *near], axis=0)
    return answer


def sampled(line: Line, step: float) -> Line:
    """Return points along a line at most `step` apart."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    places = np.linspace(0, along[-1], max(2, math.ceil(along[-1] / step) + 1))
    return np.stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)], axis=1)


def _distances(points: Line, line: Line) -> NDArray[np.float64]:
    """Return the distance of each point to the line."""
    start, run = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - start) * run).sum(axis=2) / np.maximum((run**2).sum(axis=1), 1e-12)
    foot = start + np.clip(share, 0, 1)[..., None] * run
    nearest: NDArray[np.float64] = np.hypot(*(points[:, None] - foot).transpose(2, 0, 1)).min(axis=1)
    return nearest


def _assign(fits: Sequence[Sequence[bool]]) -> dict[int, int]:
    """Return a maximum matching of pairs (found, line)."""
    owner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j, fit in enumerate(fits[i]):
            if fit and j not in tried:
                tried.add(j)
                if j not in owner or place(owner[j], tried):
                    owner[j] = i
                    return True
        return False

    for i in range(len(fits)):
        place(i, set())
    return {i: j for j, i in owner.items()}


def predict(model: Model, pixels: Pixels, options: TaskOptions | None = None) -> Prediction:
    """Return the prediction of task and engine for one image, as `camapp` computes it."""
    task = create_task("track", model.card, options or TaskOptions())
    image = Image.of(pixels, Layout.RGB)
    frame = Frame(0, Shot(image, image))
    batch = np.zeros((1, *model.card.input_shape), np.float32)
    prepared = task.prepare(frame, batch)
    outputs = model.run(batch)
    return task.decode(frame, [outputs] if not isinstance(outputs, tuple) else list(outputs), prepared, 1)


def lines_by(model: Model, line_colour: str = "white") -> Detector:
    """Return the net as a detector."""
    options = TaskOptions(line_colour=line_colour)
    return lambda pixels: [np.array(line.points) for line in predict(model, pixels, options).lines]


def painted(seed: int, size: tuple[int, int], paint: str) -> tuple[Pixels, Truth] | None:
    """Return a random image with lines of a colour, and its truth; None if its ground does not show that colour."""
    pixels, truth, view = random_image(seed, size)
    if paint == "white":
        return pixels, truth
    if float(np.mean(view.look.ground)) < BRIGHT_GROUND if paint == "black" else _is(view.look.ground, paint):
        return None
    colour, low, high = PAINTS[paint]
    tone = np.random.default_rng([seed, 6]).uniform(low, high)
    stripes = tuple(
        replace(stripe, colour=tuple(min(tone * level, 255.0) for level in colour))
        if stripe.is_line
        else replace(stripe, colour=WHITE if _is(stripe.colour, paint) else stripe.colour)
        for stripe in view.stripes
    )
    return photograph(stripes, view.look, view.camera), truth


def _is(colour: Rgb, paint: str) -> bool:
    return min(colour[:2]) - colour[2] > YELLOW if paint == "yellow" else max(colour) < BLACK


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--model", default="track", help="name or path of a track model")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="folders of labelled images")
    parser.add_argument("--no-line", type=Path, nargs="*", default=[], help="folders of images without lines")
    parser.add_argument("--generated", type=int, default=400, help="number of generated images")
    parser.add_argument("--line-colour", nargs="+", choices=WORDS, default=["white"], help="as the option of camapp")
    parser.add_argument("--paint", choices=("white", *PAINTS), default="white", help="colour of generated lines")
    parser.add_argument("--baseline", action="store_true", help="also score the classical detector")
    parser.add_argument("--sheet", type=Path, help="write the labelled images with the detected lines to this file")
    options = parser.parse_args()
    print_conditions()
    model = load(model_path(options.model))
    names = {colour: "net" if colour == "white" else colour for colour in options.line_colour}
    detectors = {name: lines_by(model, colour) for colour, name in names.items()}
    detectors |= {"classical": baseline_lines} if options.baseline else {}
    for name, detect in detectors.items():
        for folder in options.labels:
            score_labelled(name, folder, detect)
        for folder in options.no_line:
            score_empty(name, [read(path) for path in sorted(folder.glob("*.[jp][pn]g"))], str(folder), detect)
    if options.generated:
        score_generated(detectors, options.generated, options.paint)
    if options.generated and options.paint == "white" and "white" in options.line_colour:
        score_car(model, options.generated)
    if options.sheet:
        cv2.imwrite(str(options.sheet), sheet(options.labels, options.no_line, lines_by(model)))


def score_labelled(name: str, folder: Path, detect: Detector) -> None:
    """Print the scores of a labelled folder, per subset and total."""
    scores: dict[str, Score] = {}
    for subset, pixels, lines, spare in labelled(folder):
        one = score(detect(pixels), lines, (pixels.shape[1], pixels.shape[0]), spare)
        for key in (subset, "all"):
            scores.setdefault(key, Score()).__iadd__(one)
    for key, total in sorted(scores.items()):
        print(f"{name:9} {folder.name:9} {key:9} {total}")


def score_empty(name: str, images: Sequence[Pixels], what: str, detect: Detector) -> None:
    """Print the number of images without lines in which a line was detected."""
    wrong = sum(bool(detect(pixels)) for pixels in images)
    print(f"{name:9} no lines: {wrong} of {len(images)} images have a false line  ({what})")


def score_generated(detectors: Mapping[str, Detector], count: int, paint: str) -> None:
    """Print the scores on unseen generated images, and the false lines on those without lines."""
    scores = {name: Score() for name in detectors}
    wrong = dict.fromkeys(detectors, 0)
    empty = 0
    for i in range(count):
        size = GENERATED_SIZES[i % len(GENERATED_SIZES)]
        image = painted(GENERATED_SEED + i, size, paint)
        if image is None:
            continue
        pixels, truth = image
        empty += not truth.lines
        lines = [np.array(line.points) for line in truth.lines if line.label == "line"]
        faint = [np.array(line.points) for line in truth.lines if line.label == "faint"]
        for name, detect in detectors.items():
            found = detect(pixels)
            wrong[name] += bool(found) and not truth.lines
            scores[name] += score(found, lines, size, faint=faint)
    for name, total in scores.items():
        print(f"{name:9} generated {paint:9} {total}")
        print(f"{name:9} generated without lines: {wrong[name]} of {empty} images have a false line")


def score_car(model: Model, count: int) -> None:
    """Print the errors of offset and heading on generated images with a visible lane and a known camera pose."""
    offsets, headings, bends, total, known = [], [], [], 0, 0
    for i in range(count):
        size = GENERATED_SIZES[i % len(GENERATED_SIZES)]
        pixels, truth, view = random_image(GENERATED_SEED + i, size)
        values, camera = truth.values, view.camera
        if not values or abs(values["heading_deg"]) > 20 or len(truth.lines) < 2:
            continue
        total += 1
        options = TaskOptions(
            camera_height=camera.height,
            camera_pitch=math.degrees(camera.pitch),
            camera_roll=math.degrees(camera.roll),
            camera_hfov=math.degrees(camera.across),
            camera_distortion=math.degrees(camera.bend),
            lane_width=values["lane_width_m"],
        )
        values_found = predict(model, pixels, options).values
        if values_found["confidence"] <= 0:
            continue
        known += 1
        offsets.append(abs(values_found["offset_m"] - values["offset_m"]) / values["lane_width_m"])
        headings.append(abs(values_found["heading_deg"] - values["heading_deg"]))
        bends.append(abs(values_found["curvature_1_m"] - values["curvature_1_m"]) * values["lane_width_m"])
    if known:
        print(
            f"car       generated: a lane in {known} of {total} images; median (p90) error: "
            f"offset {_median(np.array(offsets) * 100, 1)} % of lane width, heading {_median(headings, 2)} degrees, "
            f"curvature x lane width {_median(bends, 3)}"
        )


def _median(values: Sequence[float] | Line, digits: int) -> str:
    median, p90 = np.percentile(values, (50, 90))
    return f"{median:.{digits}f} ({p90:.{digits}f})"


def sheet(folders: Sequence[Path], empties: Sequence[Path], detect: Detector) -> Pixels:
    """Return all labelled images side by side, BGR: the truth in green, detected lines in red."""
    cells = []
    shown = [(pixels, lines) for folder in folders for _, pixels, lines, _ in labelled(folder)]
    shown += [(read(path), []) for folder in empties for path in sorted(folder.glob("*.[jp][pn]g"))]
    for pixels, lines in shown:
        height, width = pixels.shape[:2]
        scale = min(320 / width, 320 / height)
        cell = np.zeros((320, 320, 3), np.uint8)
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1]
        cell[: small.shape[0], : small.shape[1]] = small
        for kind, colour, thick in ((lines, (80, 220, 80), 1), (detect(pixels), (40, 40, 255), 1)):
            for line in kind:
                points = np.rint((line + 0.0) * scale * 16).astype(np.int32).reshape(-1, 1, 2)
                cv2.polylines(cell, [points], False, colour, thick, cv2.LINE_AA, 4)
        cells.append(cell)
    columns = 6
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


if __name__ == "__main__":
    main()
