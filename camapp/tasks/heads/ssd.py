"""Decodes single-shot detectors: UltraFace's, and any whose boxes are decoded in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, is_raw
from camapp.tasks.nms import all_classes
from camapp.tasks.smoothing import softmax
from engine.model import ModelCard

# UltraFace's strides, and the sides of its square anchors, in pixels.
ULTRAFACE = ((8, (10, 16, 24)), (16, (32, 48)), (32, (64, 96)), (64, (128, 192, 256)))
# Factors of the offsets of centres and of the logarithms of sizes.
VARIANCES = (0.1, 0.2)
# Fewer rows are those of a transformer, or of a net that has suppressed overlaps itself.
_LEAST_ROWS = 100


class SsdHead(Head):
    """Decodes scores of each prior, background first, and boxes: x0, y0, x1, y1 from 0 to 1, or offsets to priors."""

    name = "ssd"
    layout = "[priors, 1 + classes] and [priors, 4] (x0, y0, x1, y1 from 0 to 1, or offsets to UltraFace's priors)"
    input = InputFormat(mean=(127 / 255,), std=(128 / 255,), fit="stretch")
    score, iou = 0.7, 0.3
    labels: ClassVar[tuple[str, ...]] = ("face",)
    background = True

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        scores, boxes = _places(card)
        if scores < 0:
            return 0
        count, numbers = card.outputs[scores].shape
        made = card.outputs[boxes].operators
        decoded = not is_raw(card.outputs[boxes]) and made != ("Sigmoid",) and count >= _LEAST_ROWS
        fits = len(cls.priors(card)) == count if is_raw(card.outputs[boxes]) else decoded
        return numbers - 1 if fits else 0

    @classmethod
    def priors(cls, card: ModelCard) -> Floats:
        """Return the priors (n, 4): x, y, w, h from 0 to 1, at most 1."""
        _, height, width = card.input_shape
        levels = []
        for stride, sides in ULTRAFACE:
            y, x = np.mgrid[: -(-height // stride), : -(-width // stride)].reshape(2, -1) + 0.5
            for_each = np.array(sides, np.float64)
            cell = np.stack([x * stride / width, y * stride / height], axis=1)
            size = np.stack([for_each / width, for_each / height], axis=1)
            levels.append(np.concatenate([np.repeat(cell, len(sides), axis=0), np.tile(size, (len(cell), 1))], axis=1))
        return np.asarray(np.minimum(np.concatenate(levels), 1), np.float32)

    def setup(self) -> None:
        """Compute the priors, if the boxes are offsets to them."""
        self._scores, self._boxes = _places(self.card)
        self._softmax = is_raw(self.card.outputs[self._scores])
        self._priors = self.priors(self.card) if is_raw(self.card.outputs[self._boxes]) else None

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        scores, boxes = outputs[self._scores], outputs[self._boxes]
        rows, classes, found = all_classes((softmax(scores) if self._softmax else scores)[:, 1:], min_score)
        boxes = boxes[rows]
        if self._priors is not None:
            place = self._priors[rows]
            centres = boxes[:, :2] * VARIANCES[0] * place[:, 2:] + place[:, :2]
            boxes = corners(centres, np.exp(boxes[:, 2:] * VARIANCES[1]) * place[:, 2:])
        _, height, width = self.card.input_shape
        return Candidates(boxes * np.array((width, height, width, height), np.float32), found, classes)


def _places(card: ModelCard) -> tuple[int, int]:
    """Return the indices of the scores and the boxes among the outputs; (-1, -1) if these have another form."""
    shapes = [output.shape for output in card.outputs]
    if len(shapes) != 2 or any(len(shape) != 2 for shape in shapes) or shapes[0][0] != shapes[1][0]:
        return -1, -1
    if shapes[0][1] == shapes[1][1] == 4:
        boxes = [index for index, output in enumerate(card.outputs) if {"box", "loc"} & {output.name[:3].lower()}]
    else:
        boxes = [index for index, shape in enumerate(shapes) if shape[1] == 4]
    return (1 - boxes[0], boxes[0]) if len(boxes) == 1 and shapes[1 - boxes[0]][1] > 1 else (-1, -1)
