"""Post-processing as the authors of each family publish it, written as plain loops, for comparison with the heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camapp.core.image_ops import Fit
from tests.camapp.tasks.heads.comparison import Found

Floats = NDArray[np.float32]
Row = tuple[list[float], int, float]


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared) if shared else 0.0


def greedy(rows: Sequence[Row], threshold: float) -> list[Row]:
    """Keep each row, best first, unless one that was kept, of the same class, overlaps it."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[2]):
        if all(row[1] != other[1] or iou(row[0], other[0]) <= threshold for other in kept):
            kept.append(row)
    return kept


def in_image(box: Sequence[float], fit: Fit) -> list[float]:
    """Undo a letterbox or stretch as the families do, and clip to the image."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
    gain_x, gain_y = (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)
    x = [min(max((value - u0) / gain_x + x0, x0), x1) for value in box[::2]]
    y = [min(max((value - v0) / gain_y + y0, y0), y1) for value in box[1::2]]
    return [value for pair in zip(x, y, strict=True) for value in pair]


def found(rows: Sequence[Row], labels: Sequence[str], fit: Fit) -> list[Found]:
    """Return rows as objects, without those outside of the image."""
    placed = [(in_image(box, fit), number, score) for box, number, score in rows]
    inside = [(box, number, score) for box, number, score in placed if box[2] > box[0] and box[3] > box[1]]
    return [Found(box, labels[number], score) for box, number, score in inside]


def yolox(outputs: list[Floats], size: tuple[int, int], score: float, threshold: float) -> list[Row]:
    """Megvii's `demo_postprocess` and `multiclass_nms`."""
    (numbers,) = outputs
    width, height = size
    rows, cell = [], 0
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                cx, cy, log_w, log_h, objectness, *classes = numbers[0, cell].tolist()
                cell += 1
                best = int(np.argmax(classes))
                if objectness * classes[best] >= score:
                    cx, cy = (cx + x) * stride, (cy + y) * stride
                    w, h = math.exp(log_w) * stride, math.exp(log_h) * stride
                    rows.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], best, objectness * classes[best]))
    assert cell == numbers.shape[1]
    return greedy(rows, threshold)


def yolov8(outputs: list[Floats], score: float, threshold: float) -> list[Row]:
    """Ultralytics' `non_max_suppression` of outputs without objectness."""
    rows = []
    for cx, cy, w, h, *classes in outputs[0][0].T.tolist():
        best = int(np.argmax(classes))
        if classes[best] > score:
            rows.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], best, classes[best]))
    return greedy(rows, threshold)
