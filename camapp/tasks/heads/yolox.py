"""Decodes YOLOX: one anchor a cell, boxes relative to the grid, objectness and class scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, cells, corners, grid, is_raw, only_shape
from camapp.tasks.nms import best_classes
from engine.model import ModelCard

STRIDES = (8, 16, 32)


class YoloxHead(Head):
    """Decodes x, y (cells from the grid), log w, log h (strides), objectness and class scores, sigmoided."""

    name = "yolox"
    layout = "[cells of strides 8, 16, 32; 5 + classes], not decoded (x, y, log w, log h, objectness, class scores)"
    input = InputFormat(colour="BGR", std=(1 / 255,), fill=114, corner=True)
    score = 0.3

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        count, numbers = only_shape(card, 2)
        return max(0, numbers - 5) if count == cells(card, STRIDES) and is_raw(card.outputs[0], "Sigmoid") else 0

    def setup(self) -> None:
        """Compute the grid."""
        self._grid = grid(self.card, STRIDES)

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        (numbers,) = outputs
        likely = np.flatnonzero(numbers[:, 4] >= min_score)
        rows, classes, scores = best_classes(numbers[likely, 5:] * numbers[likely, 4:5], min_score)
        rows = likely[rows]
        box, (x, y, stride) = numbers[rows, :4], self._grid[rows].T
        centres = (box[:, :2] + np.stack([x, y], axis=1)) * stride[:, None]
        return Candidates(corners(centres, np.exp(box[:, 2:]) * stride[:, None]), scores, classes)
