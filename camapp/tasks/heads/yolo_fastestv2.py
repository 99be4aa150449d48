"""Decodes Yolo-FastestV2: three anchors a cell with one common class, boxes and scores sigmoided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, cells, corners, grid
from camapp.tasks.nms import best_classes
from engine.model import ModelCard

STRIDES, ANCHORS = (16, 32), 3
# Of the published net, which was trained with COCO at 352 x 352.
COCO_ANCHORS = (12.64, 19.39, 37.88, 51.48, 55.71, 138.31, 126.91, 78.23, 131.57, 214.55, 279.92, 258.87)


class YoloFastestV2Head(Head):
    """Decodes rows of a cell: 3 x (x, y, w, h), 3 objectness, class scores by a softmax; of one output or two."""

    name = "yolo-fastestv2"
    layout = "[cells of strides 16 and 32; 15 + classes] (3 boxes, 3 objectness, class scores), one output or two"
    input = InputFormat(colour="BGR", fit="stretch")
    score, iou = 0.3, 0.4

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        numbers = {output.shape[-1] for output in card.outputs}
        places = [int(np.prod(output.shape[:-1])) for output in card.outputs]
        fits = places in ([cells(card, STRIDES)], [cells(card, (stride,)) for stride in STRIDES])
        made = all({*output.operators} == {"Sigmoid", "Softmax"} for output in card.outputs)
        return max(0, *numbers, 15) - 15 if fits and made and len(numbers) == 1 else 0

    def setup(self) -> None:
        """Compute the grid and the anchors of its cells. Raises ValueError if there are not six anchors."""
        anchors = np.array(self.card.anchors or COCO_ANCHORS, np.float32).reshape(-1, 2)
        if len(anchors) != len(STRIDES) * ANCHORS:
            raise ValueError(f"head '{self.name}' needs 6 anchors, but {len(anchors)} are given")
        self._grid = grid(self.card, STRIDES)
        levels = [cells(self.card, (stride,)) for stride in STRIDES]
        self._anchors = np.repeat(anchors.reshape(len(STRIDES), ANCHORS, 2), levels, axis=0)

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        numbers = np.concatenate([output.reshape(-1, 15 + self.classes) for output in outputs])
        cell, anchor = np.nonzero(numbers[:, 12:15] >= min_score)
        products = numbers[cell, 15:] * numbers[cell, 12 + anchor][:, None]
        rows, classes, scores = best_classes(products, min_score)
        cell, anchor = cell[rows], anchor[rows]
        box = numbers[cell[:, None], 4 * anchor[:, None] + np.arange(4)]
        place = self._grid[cell]
        centres = (box[:, :2] * 2 - 0.5 + place[:, :2]) * place[:, 2:]
        return Candidates(corners(centres, (box[:, 2:] * 2) ** 2 * self._anchors[cell, anchor]), scores, classes)
