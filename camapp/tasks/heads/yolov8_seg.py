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
        # Pixels of the prototypes whose corner lies in the box, as the published crop has it; and one more around.
        low, high = np.ceil(box[:2] / scale), np.ceil(box[2:] / scale)
        low, high = (np.clip(edge, 0, (columns, rows)).astype(int) for edge in (low, high))
        (x0, y0), (x1, y1) = np.maximum(low - 1, 0), np.minimum(high + 1, (columns, rows))
        if not (high > low).all():
            return ()
        part = np.zeros((y1 - y0, x1 - x0), np.float32)
        inner = prototypes[:, low[1] : high[1], low[0] : high[0]]
        part[low[1] - y0 : high[1] - y0, low[0] - x0 : high[0] - x0] = np.tensordot(weights, inner, 1)
        size = round((x1 - x0) * scale[0]), round((y1 - y0) * scale[1])
        mask = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)) > 0
        return outlines_of(mask, (x0 * scale[0], y0 * scale[1]), (1.0, 1.0))
