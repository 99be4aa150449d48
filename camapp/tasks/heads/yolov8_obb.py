"""Decodes YOLOv8-obb and YOLO11-obb: boxes as YOLOv8, each rotated around its centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, levels_of, only_shape
from camapp.tasks.heads.yolov8 import Yolov8Head
from camapp.tasks.nms import MAX_OBJECTS, strongest
from engine.model import ModelCard

# Candidates that are compared with each other.
_COMPARED = 1000


class Yolov8ObbHead(Yolov8Head):
    """Decodes YOLOv8's rows, then one of angles: radians, clockwise."""

    name = "yolov8-obb"
    layout = "[4 + classes + 1, cells] (YOLOv8, angle)"

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        numbers, count = only_shape(card, 2)
        is_rotated = card.metadata.get("task") == "obb" or card.head == cls.name
        return max(0, numbers - 5) if levels_of(card, count) and is_rotated else 0

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        found = super().decode(outputs, min_score)
        return replace(found, angles=np.degrees(outputs[0][-1, found.rows]))

    def suppress(self, found: Candidates, iou: float) -> Candidates:
        """Drop each candidate whose Gaussian overlaps that of a stronger one of its class, a dropped one included.

        This is the authors' "fast" suppression.
        """
        assert found.angles is not None
        found = found.take(strongest(found.scores, _COMPARED))
        assert found.angles is not None
        overlaps = prob_iou(found.boxes, np.radians(found.angles)) > iou
        same = found.classes[:, None] == found.classes
        return found.take(np.flatnonzero(~np.triu(overlaps & same, 1).any(axis=0))[:MAX_OBJECTS])

    def finish(self, found: Candidates, outputs: Sequence[Floats]) -> Candidates:
        """Swap width and height where necessary, so that angles are from 0 to 90 degrees."""
        assert found.angles is not None
        centres, sizes = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2, found.boxes[:, 2:] - found.boxes[:, :2]
        swapped = found.angles % 180 >= 90
        sizes[swapped] = sizes[swapped][:, ::-1]
        angles = found.angles % 90
        return replace(found, boxes=np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), angles=angles)


def prob_iou(boxes: Floats, angles: Floats) -> Floats:
    """Return the overlap (n, n) of rotated boxes: 1 less the Hellinger distance of Gaussians of their extents.

    As in Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union" (2021).
    """
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    variances = (boxes[:, 2:] - boxes[:, :2]).T ** 2 / 12
    cos, sin = np.cos(angles), np.sin(angles)
    a = variances[0] * cos**2 + variances[1] * sin**2
    b = variances[0] * sin**2 + variances[1] * cos**2
    c = (variances[0] - variances[1]) * cos * sin
    a_sum, b_sum, c_sum = (term[:, None] + term for term in (a, b, c))
    dx, dy = x[:, None] - x, y[:, None] - y
    eps = 1e-7
    whole = a_sum * b_sum - c_sum**2
    near = (a_sum * dy**2 + b_sum * dx**2) / (whole + eps) / 4
    skew = c_sum * -dx * dy / (whole + eps) / 2
    own = np.maximum(a * b - c**2, 0)
    shape = np.log(whole / (4 * np.sqrt(own[:, None] * own) + eps) + eps) / 2
    distance = np.clip(near + skew + shape, eps, 100)
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance) + eps))
