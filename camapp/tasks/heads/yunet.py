"""Decodes YuNet: faces with five points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, cells, corners, grid
from camapp.tasks.nms import best_classes
from engine.model import ModelCard

STRIDES = (8, 16, 32)
# Numbers of a cell in the outputs of a level: class score, objectness, box, points.
_WIDTHS = (1, 1, 4, 10)


class YunetHead(Head):
    """Decodes class score, objectness (the score is the root of their product), x, y, log w, log h and five points.

    The points are the right eye, left eye, tip of the nose, right and left corner of the mouth.
    """

    name = "yunet"
    layout = "[cells, 1], [cells, 1], [cells, 4], [cells, 10] for each of the strides 8, 16, 32 (face with 5 points)"
    input = InputFormat(colour="BGR", std=(1 / 255,), corner=True)
    score, iou = 0.6, 0.3
    labels = ("face",)

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        expected = [(cells(card, (stride,)), width) for stride in STRIDES for width in _WIDTHS]
        return int(sorted(output.shape for output in card.outputs) == sorted(expected))

    def setup(self) -> None:
        """Compute the grid, and find the outputs of each level, the finer ones first."""
        self._grid = grid(self.card, STRIDES)
        shapes = [output.shape for output in self.card.outputs]
        order = sorted(range(len(shapes)), key=lambda index: -shapes[index][0])
        self._places = {width: [index for index in order if shapes[index][1] == width] for width in _WIDTHS}

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        first, second = self._places[1][::2], self._places[1][1::2]
        products = _joined(outputs, first) * _joined(outputs, second)
        rows, classes, scores = best_classes(np.sqrt(np.clip(products, 0, 1)), min_score)
        box, points = _joined(outputs, self._places[4])[rows], _joined(outputs, self._places[10])[rows]
        cell, stride = self._grid[rows, :2], self._grid[rows, 2:]
        places = (points.reshape(-1, 5, 2) + cell[:, None]) * stride[:, None]
        scored = np.concatenate([places, np.ones_like(places[..., :1])], axis=2)
        return Candidates(
            corners((box[:, :2] + cell) * stride, np.exp(box[:, 2:]) * stride), scores, classes, points=scored
        )


def _joined(outputs: Sequence[Floats], places: Sequence[int]) -> Floats:
    return np.concatenate([outputs[index] for index in places])
