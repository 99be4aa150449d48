"""Decodes FastestDet: one map of objectness, box and class scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, only_shape, sigmoid
from camapp.tasks.nms import best_classes
from engine.model import ModelCard


class FastestDetHead(Head):
    """Decodes objectness (sigmoided), x, y, w, h and class scores (by a softmax) of each cell of one level."""

    name = "fastestdet"
    layout = "[5 + classes, height / 16, width / 16] (objectness, x, y, w, h, class scores)"
    input = InputFormat(colour="BGR", fit="stretch")
    score = 0.65

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        numbers, *size = only_shape(card, 3)
        _, height, width = card.input_shape
        if size != [height // 16, width // 16] or {*card.outputs[0].operators} != {"Conv", "Sigmoid", "Softmax"}:
            return 0
        return max(0, numbers - 5)

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        _, rows, columns = outputs[0].shape
        _, height, width = self.card.input_shape
        cells = outputs[0].reshape(5 + self.classes, -1)
        cell, classes, scores = best_classes((cells[:1] ** 0.6 * cells[5:] ** 0.4).T, min_score)
        box, place = cells[1:5, cell].T, np.stack([cell % columns, cell // columns], axis=1)
        centres = (np.tanh(box[:, :2]) + place) / (columns, rows) * (width, height)
        return Candidates(corners(centres, sigmoid(box[:, 2:]) * (width, height)), scores, classes)
