"""Decodes YOLOv3, YOLOv3-tiny and YOLO-Fastest: a map of each level, with boxes relative to anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, is_raw, sigmoid
from camapp.tasks.nms import all_classes
from engine.model import ModelCard

ANCHORS = 3


class Yolov3Head(Head):
    """Decodes x, y, log w, log h, objectness and class scores of three anchors a cell; none is sigmoided."""

    name = "yolov3"
    layout = "[3 x (5 + classes), height, width] for each level (x, y, log w, log h, objectness, class scores)"
    input = InputFormat(fit="stretch")

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        shapes = {output.shape for output in card.outputs if len(output.shape) == 3 and is_raw(output)}
        if len(shapes) != len(card.outputs) or len({shape[0] for shape in shapes}) != 1:
            return 0
        numbers, rest = divmod(next(iter(shapes))[0], ANCHORS)
        fits = all(_stride(card, shape) in (8, 16, 32, 64) for shape in shapes)
        return max(0, numbers - 5) if fits and not rest else 0

    def setup(self) -> None:
        """Give each level its anchors, the small ones to the fine levels. Raises ValueError if there are too few."""
        strides = [_stride(self.card, output.shape) for output in self.card.outputs]
        anchors = np.array(self.card.anchors, np.float32).reshape(-1, 2)
        if len(anchors) != ANCHORS * len(strides):
            raise ValueError(
                f"head 'yolov3' needs {ANCHORS * len(strides)} anchors ({len(anchors)} are given): give --anchors "
                "their widths and heights in pixels, as the training configuration lists them"
            )
        groups = anchors.reshape(len(strides), ANCHORS, 2)
        self._levels = [(stride, groups[sorted(strides).index(stride)]) for stride in strides]

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        parts = [self._decode(*pair, min_score) for pair in zip(outputs, self._levels, strict=True)]
        boxes, scores, classes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Candidates(boxes, scores, classes)

    def _decode(
        self, output: Floats, level: tuple[int, Floats], min_score: float
    ) -> tuple[Floats, Floats, np.ndarray[tuple[int], np.dtype[np.intp]]]:
        stride, anchors = level
        numbers = output.reshape(ANCHORS, 5 + self.classes, *output.shape[1:])
        objectness = sigmoid(numbers[:, 4])
        anchor, y, x = np.nonzero(objectness >= min_score)
        likely = numbers[anchor, :, y, x]
        rows, classes, scores = all_classes(sigmoid(likely[:, 5:]) * objectness[anchor, y, x][:, None], min_score)
        box, cell = likely[rows, :4], np.stack([x, y], axis=1)[rows]
        centres = (sigmoid(box[:, :2]) + cell) * stride
        return corners(centres, np.exp(box[:, 2:]) * anchors[anchor[rows]]), scores, classes


def _stride(card: ModelCard, shape: tuple[int, ...]) -> int:
    """Return the pixels of the input for each cell of a level's map; 0 if its height and width differ in that."""
    _, height, width = card.input_shape
    stride = height // shape[1]
    return stride if (shape[1] * stride, shape[2] * stride) == (height, width) else 0
