"""Decodes YOLOv8-pose and YOLO11-pose: boxes as YOLOv8, and for each its key points."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, levels_of, only_shape
from camapp.tasks.heads.yolov8 import Yolov8Head
from engine.model import ModelCard

# Key points of a person in COCO: x, y and visibility each.
COCO_POINTS = (17, 3)


class Yolov8PoseHead(Yolov8Head):
    """Decodes YOLOv8's rows, then x, y in pixels and perhaps a score for each key point."""

    name = "yolov8-pose"
    layout = "[4 + classes + numbers of the key points, cells] (YOLOv8; x, y and score of each point)"
    labels = ("person",)

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        numbers, count = only_shape(card, 2)
        points, each = cls._points_of(card)
        # Without metadata, only the form of the nets that were trained with COCO's people is known.
        is_pose = card.metadata.get("task", "pose" if numbers == 56 else "") == "pose" or card.head == cls.name
        return max(0, numbers - 4 - points * each) if levels_of(card, count) and is_pose else 0

    @staticmethod
    def _points_of(card: ModelCard) -> tuple[int, int]:
        """Return the number of key points, and of numbers for each."""
        try:
            points, each = ast.literal_eval(card.metadata.get("kpt_shape", str(COCO_POINTS)))
            return int(points), int(each)
        except (ValueError, SyntaxError, TypeError):
            return COCO_POINTS

    def finish(self, found: Candidates, outputs: Sequence[Floats]) -> Candidates:
        """Add the key points."""
        count, each = self._points_of(self.card)
        assert found.rows is not None
        points = outputs[0][4 + self.classes :, found.rows].T.reshape(-1, count, each)
        if each == 2:
            points = np.concatenate([points, np.ones((len(points), count, 1), np.float32)], axis=2)
        return replace(found, points=points)
