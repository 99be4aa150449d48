"""Decodes YOLOv5u, YOLOv8, YOLOv9, YOLO11 and YOLO12: decoded boxes and class scores, without objectness."""

from __future__ import annotations

from collections.abc import Sequence

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, levels_of, only_shape
from camapp.tasks.nms import best_classes
from engine.model import ModelCard


class Yolov8Head(Head):
    """Decodes rows of x, y, w, h in pixels and one row for each class, a column a cell."""

    name = "yolov8"
    layout = "[4 + classes, cells] (x, y, w, h in pixels, class scores)"
    input = InputFormat(fill=114)
    iou = 0.7

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        numbers, count = only_shape(card, 2)
        is_plain = card.metadata.get("task", "detect") == "detect"
        return max(0, numbers - 4) if levels_of(card, count) and is_plain else 0

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        numbers = outputs[0]
        rows, classes, scores = best_classes(numbers[4 : 4 + self.classes].T, min_score)
        box = numbers[:4, rows].T
        return Candidates(corners(box[:, :2], box[:, 2:]), scores, classes, rows=rows)
