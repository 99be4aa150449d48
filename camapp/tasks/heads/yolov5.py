"""Decodes YOLOv5, YOLOv6 and YOLOv7, and YOLOX decoded in the graph: boxes in pixels, objectness and class scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, levels_of
from camapp.tasks.nms import best_classes
from engine.model import ModelCard


class Yolov5Head(Head):
    """Decodes x, y, w, h in pixels, objectness and class scores; the score of a class is its product with the former.

    Further outputs of older exports, one map a level, are not read.
    """

    name = "yolov5"
    layout = "[1 or 3 anchors for each cell; 5 + classes] (x, y, w, h in pixels, objectness, class scores)"
    input = InputFormat(fill=114)

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        first, *others = card.outputs or (None,)
        if first is None or len(first.shape) != 2 or "Mul" not in first.operators:
            return 0
        count, numbers = first.shape
        is_whole = levels_of(card, count, 3) or levels_of(card, count)
        maps = all(len(other.shape) == 4 and other.shape[-1] == numbers for other in others)
        return max(0, numbers - 5) if is_whole and maps else 0

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        numbers = outputs[0]
        likely = np.flatnonzero(numbers[:, 4] >= min_score)
        rows, classes, scores = best_classes(numbers[likely, 5:] * numbers[likely, 4:5], min_score)
        box = numbers[likely[rows], :4]
        return Candidates(corners(box[:, :2], box[:, 2:]), scores, classes)
