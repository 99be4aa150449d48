"""Decodes YOLOv8-seg and YOLO11-seg: boxes as YOLOv8, and for each a mask as a sum of prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Outlines, levels_of
from camapp.tasks.heads.outlines import outlines_of
from camapp.tasks.heads.yolov8 import Yolov8Head
from engine.model import ModelCard


class Yolov8SegHead(Yolov8Head):
    """Decodes YOLOv8's rows, then one row for each prototype; the second output holds the prototypes."""

    name = "yolov8-seg"
    layout = "[4 + classes + prototypes, cells] (YOLOv8, mask coefficients) and [prototypes, height, width]"

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        shapes = [output.shape for output in card.outputs]
        if [len(shape) for shape in shapes] != [2, 3] or not levels_of(card, shapes[0][1]):
            return 0
        return max(0, shapes[0][0] - 4 - shapes[1][0])

    def finish(self, found: Candidates, outputs: Sequence[Floats]) -> Candidates:
        """Add the outlines of the masks."""
        numbers, prototypes = outputs
        assert found.rows is not None
        weights = numbers[4 + self.classes :, found.rows].T
        pairs = zip(weights, found.boxes, strict=True)
        return replace(found, outlines=tuple(self._outlines(row, box, prototypes) for row, box in pairs))

    def _outlines(self, weights: Floats, box: Floats, prototypes: Floats) -> Outlines:
        """Return the outlines of one object's mask: the weighted sum of the prototypes in its box, where positive."""
        _, rows, columns = prototypes.shape
        _, height, width = self.card.input_shape
        scale = np.array([width / columns, height / rows])
        # The box in whole pixels of the input, and in those of the prototypes with one more around it.
        low, high = (np.clip(np.ceil(edge), 0, (width, height)).astype(int) for edge in (box[:2], box[2:]))
        (x0, y0), (x1, y1) = (np.clip(low // scale - 1, 0, None).astype(int), np.ceil(high / scale).astype(int) + 1)
        part = np.tensordot(weights, prototypes[:, y0:y1, x0:x1], 1).astype(np.float32)
        if not (part.size and (high > low).all()):
            return ()
        corner = np.rint((x0, y0) * scale).astype(int)
        size = np.rint(part.shape[::-1] * scale).astype(int)
        mask = np.asarray(cv2.resize(part, size.tolist(), interpolation=cv2.INTER_LINEAR)) > 0
        (left, top), (right, bottom) = low - corner, high - corner
        mask = mask[top:bottom, left:right]
        return outlines_of(mask, (float(low[0]), float(low[1])), (1.0, 1.0))
