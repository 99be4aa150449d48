"""Fits what tells handwriting from other marks, and writes camapp/tasks/mark_coefficients.py.

`python -m weights.fit_marks --data FOLDER` needs MNIST and about five minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from camapp.core.arrays import Floats, Pixels
from camapp.core.files import write_atomic
from camapp.core.frames import Truth
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box
from camapp.scenes.digits import DigitScene
from camapp.scenes.objects import ObjectScene
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene
from camapp.tasks import mark_coefficients, mark_evidence
from camapp.tasks.digit_segmentation import find_marks
from weights.datasets import Images, load
from weights.false_marks import pictures
from weights.logistic import fit_logistic
from weights.written import SAME, overlap, scenes_of

DIGITS, PEN_SCENES, ROOMS, CHARTS, TRACKS = 2500, 150, 250, 120, 120
SEED, PEN_SEED, CHART_SEED, TRACK_SEED = 77, 900, 500, 500
SIZE = (640, 480)
# Share of the digits that is given up, and the weight of the coefficients' squares in the loss.
LOSS, DECAY = 0.0005, 3.0
# Number of made-up looks, anywhere in the range of the measures: what is like neither kind of mark is refused, too.
MADE_UP = 1000
HEADER = '"""Holds the fitted numbers of `mark_evidence`; written by `python -m weights.fit_marks`."""'


def digits_looks(digits: Images) -> Floats:
    """Return the looks of digits on generated paper, by MNIST's writers and by the generated pen."""
    looks = []
    for pixels, truth in _sheets(digits):
        for mark in find_marks(pixels, 8, anywhere=True):
            if any(overlap(true, Box(*mark.rect)) > SAME for true in truth.boxes):
                looks.append(mark.look)
    return np.array(looks)


def other_looks() -> Floats:
    """Return the looks of marks that are found where there are no digits."""
    return np.array([mark.look for pixels in _without_digits() for mark in find_marks(pixels, 8, anywhere=True)])


def fit(digits: Floats, others: Floats) -> tuple[float, Floats, Floats, Floats]:
    """Return least evidence, mean, standard deviation and coefficients of a logistic regression."""
    mean, std = digits.mean(axis=0), digits.std(axis=0)
    reach = mark_evidence.LARGEST * std
    made_up = np.random.default_rng(SEED).uniform(mean - reach, mean + reach, (MADE_UP, digits.shape[1]))
    others = np.concatenate([others, made_up])
    inputs = mark_evidence.expanded(np.concatenate([digits, others]), mean, std)
    is_digit = np.arange(len(inputs)) < len(digits)
    point = fit_logistic(inputs, is_digit, DECAY)
    found = np.sort(mark_evidence.evidence(digits, mean, std, point))
    return float(found[int(LOSS * len(found))]), mean, std, point


def _sheets(digits: Images) -> Iterator[tuple[Pixels, Truth]]:
    yield from scenes_of(digits, SEED)
    for number in range(PEN_SCENES):
        pixels, truth = DigitScene(SceneOptions(size=SIZE, seed=PEN_SEED + number)).render(5 * number % 600)
        yield Image.of(pixels, Layout.RGB).gray(), truth


def _without_digits() -> Iterator[Pixels]:
    yield from islice(pictures(np.random.default_rng(99)), ROOMS)
    for kind, count, seed in ((ObjectScene, CHARTS, CHART_SEED), (TrackScene, TRACKS, TRACK_SEED)):
        for number in range(count):
            scene = kind(SceneOptions(size=SIZE, seed=seed + number // 2))
            yield Image.of(scene.render(7 * (number // 2) + 40 * (number % 2))[0], Layout.RGB).gray()


def main(data: Annotated[Path, typer.Option(help="Folder of MNIST.")] = Path("data")) -> None:
    """Fit, say how many of the other marks are refused, and write the numbers."""
    digits, others = digits_looks(load("mnist", data).validation[:DIGITS]), other_looks()
    least, mean, std, point = fit(digits, others)
    refused = np.mean(mark_evidence.evidence(others, mean, std, point) < least)
    print(f"{len(digits)} digits, {len(others)} other marks: {refused:.1%} of these refused, {LOSS:.2%} of the digits")
    arrays = {"MEAN": mean, "STD": std, "COEFFICIENTS": point}
    rows = [f"{name} = np.array({np.round(values, 4).tolist()})  # fmt: skip" for name, values in arrays.items()]
    text = "\n".join([HEADER, "# ruff: noqa: E501", "", "import numpy as np", "", f"LEAST = {least:.4f}", *rows, ""])
    write_atomic(Path(mark_coefficients.__file__), text.encode())


if __name__ == "__main__":
    typer.run(main)
