"""Compares the boxes of the task with those of a published post-processing of ONNX Runtime's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from camapp.capture.images import read_image
from camapp.core.frames import Frame
from camapp.core.image import Image, Layout
from camapp.core.image_ops import Fit, Preprocessor
from camapp.core.models import load_model, run_items
from camapp.core.predictions import Box, Prediction
from camapp.core.settings import load_settings
from camapp.tasks.heads.head import InputFormat
from camapp.tasks.task import Task, task_for
from engine.model import Model, ModelCard

Floats = NDArray[np.float32]
PHOTOS = Path(__file__).parents[5] / "shared" / "data" / "imagenet" / "photos"


@dataclass(frozen=True)
class Found:
    """An object of a published post-processing, in pixels of the image."""

    box: Sequence[float]
    label: str
    score: float
    points: Sequence[Sequence[float]] = ()
    angle: float = 0.0
    mask: NDArray[np.bool_] | None = field(default=None, compare=False)


Published = Callable[[list[Floats], Fit], list[Found]]


def photos() -> list[Image]:
    """Return real photographs, or a generated picture where there are none."""
    found = [read_image(path) for path in sorted(PHOTOS.glob("*.jpg"))]
    noise = np.random.default_rng(3).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return found or [Image.of(np.kron(noise, np.ones((40, 40, 1), np.uint8)), Layout.RGB)]


def prepared(form: InputFormat, width: int, height: int) -> Floats:
    """Return the first photograph as the input of a net."""
    item = np.zeros((3, height, width), np.float32)
    mean, std = (values * 3 if len(values) == 1 else values for values in (form.mean, form.std))
    card = ModelCard("any", input_shape=item.shape, mean=mean, std=std, colour=form.colour)
    Preprocessor(card, form.fit, fill=form.fill, corner=form.corner)(photos()[0], item)
    return item


def task_of(path: Path, **options: object) -> Task:
    """Load a file with its task as `camapp run` does."""
    settings = load_settings({"model": str(path), **options}, environment={})
    return task_for(settings, load_model(settings).card)


def compare(path: Path, published: Published, least: int, images: int = 2, **options: object) -> list[Prediction]:
    """Compare all boxes of some photographs; require at least `least` in all. Return the predictions."""
    predictions = [prediction for prediction, _, _ in compared(path, published, images, **options)]
    boxes = sum(len(prediction.boxes) for prediction in predictions)
    if boxes < least and not PHOTOS.exists():
        pytest.skip("the generated picture has too few objects, and there are no photographs")
    assert boxes >= least
    return predictions


def compared(
    path: Path, published: Published, images: int = 2, **options: object
) -> list[tuple[Prediction, list[Found], Fit]]:
    """Compare all boxes of some photographs; return each prediction with its expectation and the fit of the image."""
    found = []
    for image in photos()[:images]:
        outputs, prediction, fit = reference_run(path, image, **options)
        expected = published(outputs, fit)
        assert_same(prediction.boxes, expected)
        found.append((prediction, expected, fit))
    return found


def reference_run(path: Path, image: Image, **options: object) -> tuple[list[Floats], Prediction, Fit]:
    """Return the outputs of ONNX Runtime for an image (the engine's without it), the prediction and the image's fit."""
    settings = load_settings({"model": str(path), **options}, environment={})
    model = load_model(settings)
    task = task_for(settings, model.card)
    batch = np.zeros((1, *model.card.input_shape), np.float32)
    ready = task.prepare(Frame.still(image), batch)
    (prediction,) = task.decode_stills([image], run_items(model, batch, 1, 1), [ready])
    return _reference_outputs(path, batch, model), prediction, ready.geometry


def _reference_outputs(path: Path, batch: Floats, model: Model) -> list[Floats]:
    try:
        import onnxruntime
    except ImportError:
        own = model.run(batch)
        return [np.array(output) for output in (own if isinstance(own, tuple) else (own,))]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: batch}))


def assert_same(boxes: Sequence[Box], expected: Sequence[Found], iou: float = 0.99, score: float = 1e-3) -> None:
    """Assert that each box has one of the expected objects, and each of these a box."""
    left = list(expected)
    for box in boxes:
        fitting = [
            found
            for found in left
            if found.label == box.label and abs(found.score - box.score) <= score and overlap(box, found.box) >= iou
        ]
        assert fitting, (
            f"no counterpart of {box}; the nearest is {max(expected, key=lambda found: overlap(box, found.box))}"
        )
        nearest = max(fitting, key=lambda found: overlap(box, found.box))
        left.remove(nearest)
        assert box.angle == pytest.approx(nearest.angle, abs=0.1)
        for point, place in zip(box.points, nearest.points, strict=True):
            assert (point.x, point.y) == pytest.approx(place[:2], abs=0.5)
    assert not left, f"{len(left)} were not found: {left[:3]}"


def overlap(box: Box, other: Sequence[float]) -> float:
    """Return the IoU of a box with another one (x0, y0, x1, y1)."""
    width = min(box.x1, other[2]) - max(box.x0, other[0])
    height = min(box.y1, other[3]) - max(box.y0, other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = (box.x1 - box.x0) * (box.y1 - box.y0) + (other[2] - other[0]) * (other[3] - other[1])
    return shared / max(1e-9, areas - shared)


def mask_overlap(results: Sequence[tuple[Prediction, list[Found], Fit]], size: tuple[int, int]) -> float:
    """Return the IoU of all outlines, drawn in the input of a net (height, width), with the expected masks.

    Only pixels of the image count, not those of a letterbox's bars.
    """
    both = either = 0
    for prediction, expected, fit in results:
        (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
        scale = (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)
        inside = np.s_[v0 + 1 : v1 - 1, u0 + 1 : u1 - 1]
        for box in prediction.boxes:
            alike = [one for one in expected if one.label == box.label and abs(one.score - box.score) < 1e-3]
            mask = max(alike, key=lambda one: overlap(box, one.box)).mask
            drawn = np.zeros(size, np.uint8)
            shapes = [np.array(outline) * scale + (u0 - 0.5, v0 - 0.5) for outline in box.outlines]
            cv2.fillPoly(drawn, [np.rint(shape).astype(np.int32) for shape in shapes], 1)
            both += np.count_nonzero(drawn[inside] & mask[inside])
            either += np.count_nonzero(drawn[inside] | mask[inside])
    assert either > 1000
    return both / either
