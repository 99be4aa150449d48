"""Decodes NanoDet and NanoDet-Plus: class scores, and each side's distance from the cell as a distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, cells, grid, is_raw, only_shape, sigmoid
from camapp.tasks.nms import all_classes
from engine.model import ModelCard
from engine.model_card import Output

BINS = 8


class NanodetHead(Head):
    """Decodes class scores and 4 x 8 numbers of the sides of each cell, in one output or two for each level."""

    name = "nanodet"
    layout = (
        "[cells of strides 8, 16, 32 (and 64); classes + 32] (class scores, distributions of the four sides), or "
        " [cells, classes] and [cells, 32] for each of the strides 8, 16, 32"
    )
    input = InputFormat("BGR", (0.406, 0.456, 0.485), (0.225, 0.224, 0.229), "stretch")
    score, iou = 0.35, 0.6

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        if len(card.outputs) > 1:
            return separate_classes(card, (8, 16, 32))
        count, numbers = only_shape(card, 2)
        classes = numbers - 4 * BINS
        # Three levels of one output may as well be YOLOX's: only labels, or COCO's 80 classes, tell.
        plus, plain = (count == cells(card, strides) for strides in ((8, 16, 32, 64), (8, 16, 32)))
        fits = plus or (plain and classes == (len(card.labels) or 80))
        return max(0, classes) if fits and is_raw(card.outputs[0], "Sigmoid") else 0

    def setup(self) -> None:
        """Compute the centres: the corners of NanoDet-Plus' cells, else their middles."""
        if only_shape(self.card, 2)[0] == cells(self.card, (8, 16, 32, 64)):
            self._place((8, 16, 32, 64), 0.0)
        else:
            self._place((8, 16, 32), 0.5)

    def _place(self, strides: Sequence[int], middle: float) -> None:
        places = grid(self.card, strides)
        self._strides = places[:, 2:]
        self._centres = (places[:, :2] + np.float32(middle)) * self._strides
        self._scores = [index for index, output in enumerate(self.card.outputs) if output.shape[1] == self.classes]
        self._sides = [index for index, output in enumerate(self.card.outputs) if output.shape[1] == 4 * BINS]
        if self.classes == 4 * BINS and len(self.card.outputs) > 1:
            self._scores, self._sides = (_named(self.card.outputs, word) for word in ("cls", "dis"))
        # In the order of the strides: finer levels have more cells.
        for order in (self._scores, self._sides):
            order.sort(key=lambda index: -self.card.outputs[index].shape[0])
        self._is_raw = len(self.card.outputs) > 1 and is_raw(self.card.outputs[self._scores[0]])

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        if len(outputs) > 1:
            scores = np.concatenate([outputs[index] for index in self._scores])
            sides = np.concatenate([outputs[index] for index in self._sides])
        else:
            scores, sides = outputs[0][:, : self.classes], outputs[0][:, self.classes :]
        rows, classes, found = all_classes(sigmoid(scores) if self._is_raw else scores, min_score)
        powers = sides[rows].reshape(-1, 4, BINS)
        powers = np.exp(powers - powers.max(axis=2, keepdims=True))
        distances = powers @ np.arange(BINS, dtype=np.float32) / powers.sum(axis=2) * self._strides[rows]
        centres = self._centres[rows]
        boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
        _, height, width = self.card.input_shape
        return Candidates(np.clip(boxes, 0, (width, height, width, height)), found, classes)


def separate_classes(card: ModelCard, strides: Sequence[int]) -> int:
    """Return the number of classes if there are two outputs for each stride: [cells, classes] and [cells, 32]."""
    counts = [cells(card, (stride,)) for stride in strides]
    if sorted(output.shape[0] for output in card.outputs) != sorted(2 * counts):
        return 0
    if not all(len(output.shape) == 2 for output in card.outputs):
        return 0
    widths = sorted(output.shape[1] for output in card.outputs)
    others = [width for width in widths if width != 4 * BINS] or [4 * BINS] * len(strides)
    return others[0] if widths == sorted([4 * BINS] * len(strides) + others) and len({*others}) == 1 else 0


def _named(outputs: Sequence[Output], word: str) -> list[int]:
    return [index for index, output in enumerate(outputs) if word in output.name]
