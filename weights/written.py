"""Puts MNIST digits on paper before a camera and reads them with the digit task, for training and evaluation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from camapp.commands.classify.report import confusion_of, markdown
from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Truth
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box
from camapp.scenes.digits import DigitScene
from camapp.scenes.paper import RANGES, PaperRanges, photograph
from camapp.scenes.scene import SceneOptions
from camapp.tasks.digit_segmentation import find_marks
from camapp.tasks.digits import DigitsTask
from camapp.tasks.task import TaskOptions
from engine.model import Model
from weights import WeightsError
from weights.datasets import Dataset, Images, digest, joined

Progress = Callable[[int, int], None]

# Seed of the evaluation scenes; training scenes have other seeds and other digits.
SEED = 4
LEARNT_SEED, CHOOSING_SEED, PEN_SEED = 1, 2, 30_000
# Full sheets for training: more digits per scene.
LEARNT_RANGES = replace(RANGES, digits=(3, 4))
# Number of digits of the validation split that are put on paper.
CHOOSING = 2_500
# Number of sheets written by the generated pen, and about how many digits are on them.
PEN_SCENES, PEN_DIGITS = 300, 800
# Minimum intersection over union of a found box and the true one.
SAME = 0.4


@dataclass(frozen=True)
class Reading:
    """Result of reading digits in camera scenes.

    Attributes:
        predicted: count of each (truth, predicted) pair; '' is a digit not found, or a mark without a digit.
        scenes: images looked at.
        whole: those in which each digit was read and nothing else was.
        seconds: for finding and reading, without making the scenes.
    """

    predicted: Counter[tuple[str, str]]
    scenes: int
    whole: int
    seconds: float

    @property
    def digits(self) -> int:
        """Number of written digits."""
        return sum(count for (truth, _), count in self.predicted.items() if truth)

    @property
    def accuracy(self) -> float:
        """Share of the written digits that were found and read correctly."""
        return sum(count for (truth, label), count in self.predicted.items() if truth and truth == label) / self.digits

    def __str__(self) -> str:
        missed = sum(count for (truth, label), count in self.predicted.items() if not label)
        false = sum(count for (truth, label), count in self.predicted.items() if not truth)
        return (
            f"{self.accuracy:.2%} of {self.digits} digits found and read right ({missed} not found, {false} marks that "
            f"are none); {self.whole / self.scenes:.2%} of {self.scenes} images without any fault; "
            f"{1e3 * self.seconds / self.scenes:.1f} ms an image in one process"
        )


def read_scenes(model: Model, images: Images, progress: Progress = lambda done, total: None) -> Reading:
    """Read these digits on paper with the application's digit task and the NumPy engine.

    Args:
        model: of the task 'digits'.
        images: MNIST's, each shown once.
        progress: called with the number of digits done and the total.

    Raises:
        WeightsError: the model is of another task.
    """
    if model.card.task != DigitsTask.name:
        raise WeightsError(f"camera scenes hold digits, but net '{model.card.net}' is for task '{model.card.task}'")
    task = DigitsTask(model.card, TaskOptions(smoothing=0))
    plan = model.plan((task.max_items, *model.card.input_shape))
    predicted: Counter[tuple[str, str]] = Counter()
    scenes = whole = done = 0
    spent = 0.0
    for pixels, truth in scenes_of(images, SEED):
        began = time.perf_counter()
        image = Image.of(pixels, Layout.GRAY)
        prepared = task.prepare(Frame.still(image), plan.inputs[0])
        plan.run()
        (prediction,) = task.decode_stills([image], [output[: prepared.count] for output in plan.outputs], [prepared])
        spent += time.perf_counter() - began
        pairs = _compared(truth, prediction.boxes)
        predicted.update(pairs)
        scenes += 1
        whole += all(true == label for true, label in pairs)
        done += len(truth.boxes)
        progress(done, len(images))
    return Reading(predicted, scenes, whole, spent)


def report(model: Model, result: Reading, title: str, command: str) -> str:
    """Return the result as Markdown: the accuracy, the ranges it holds for, each digit."""
    lines = [f"# {title}", "", f"{result}.", "", f"- ranges: {RANGES}", f"- model: sha256 `{model.card.sha256}`"]
    return "\n".join([*lines, f"- command: `{command}`", "", markdown(*confusion_of(result.predicted))])


def scenes_of(images: Images, seed: int, ranges: PaperRanges = RANGES) -> Iterator[tuple[Pixels, Truth]]:
    """Yield sheets of some digits each, until every image was used once."""
    rng = np.random.default_rng(seed)
    at = 0
    while at < len(images):
        few, many = ranges.digits
        shown = images[at : at + int(rng.integers(few, many + 1))]
        at += len(shown)
        yield photograph([image[0] for image in shown.images], "".join(map(str, shown.labels)), rng, ranges)


def with_scenes(dataset: Dataset, learnt: int, progress: Progress = lambda done, total: None) -> Dataset:
    """Return MNIST with images of digits on paper added to its training and validation splits.

    Args:
        dataset: MNIST.
        learnt: digits of the training split that are put on paper.
        progress: called with the number of digits done and the total.
    """
    shown = dataset.train[:learnt]
    judged = dataset.validation[:CHOOSING]
    done, total = 0, len(shown) + len(judged) + PEN_DIGITS

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    on_paper = _marks(scenes_of(shown, LEARNT_SEED, LEARNT_RANGES), step)
    choosing = _marks(scenes_of(judged, CHOOSING_SEED, LEARNT_RANGES), step)
    by_pen = _marks(_pen_scenes(), step)
    train, validation = joined(dataset.train, on_paper, by_pen), joined(dataset.validation, choosing)
    return replace(dataset, train=train, validation=validation, sha256=digest(joined(train, validation, dataset.test)))


def _pen_scenes() -> Iterator[tuple[Pixels, Truth]]:
    """Yield images of the generated pen's scenes, as grey pixels, with their ground truth."""
    for seed in range(PEN_SEED, PEN_SEED + PEN_SCENES):
        scene = DigitScene(SceneOptions(size=(640, 480), seed=seed))
        pixels, truth = scene.render(seed % 600)
        yield Image.of(pixels, Layout.RGB).gray(), truth


def _marks(scenes: Iterator[tuple[Pixels, Truth]], progress: Callable[[int], None]) -> Images:
    """Return the found digits in the form of the net's input."""
    images, labels = [], []
    for pixels, truth in scenes:
        marks = find_marks(pixels, DigitsTask.max_items)
        for true in truth.boxes:
            for mark in marks:
                if overlap(true, Box(*mark.rect)) > SAME:
                    images.append(np.rint(255 * mark.ink).astype(np.uint8)[None])
                    labels.append(int(true.label))
        progress(len(truth.boxes))
    return Images(np.stack(images), np.array(labels, np.uint8))


def _compared(truth: Truth, found: tuple[Box, ...]) -> list[tuple[str, str]]:
    """Return (truth, predicted) of each written digit, and of each mark without a digit."""
    free = list(found)
    pairs = []
    for true in truth.boxes:
        here = max(free, key=lambda box: overlap(true, box), default=None)
        if here is not None and overlap(true, here) > SAME:
            free.remove(here)
            pairs.append((true.label, here.label))
        else:
            pairs.append((true.label, ""))
    return pairs + [("", box.label) for box in free]


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    common = max(0.0, width) * max(0.0, height)
    return common / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - common)
