"""Decodes BlazeFace: faces with six points; overlapping ones are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, corners, is_raw, sigmoid
from camapp.tasks.nms import MAX_OBJECTS, Indices, best_classes, iou_matrix
from engine.model import ModelCard

# Cells for each side of the two levels, as shares of the input's side, and anchors for each cell.
LEVELS = ((8, 2), (16, 6))
# Logits beyond this are cut off, as the authors do.
_LIMIT = 100.0
# Candidates that are averaged.
_COMPARED = 1000


class BlazefaceHead(Head):
    """Decodes logits, and offsets of centre, size and six points from the cells' middles, in pixels.

    The points are the right eye, left eye, tip of the nose, mouth, right and left ear. The cells are those of the front
    camera's model, of 128 x 128.
    """

    name = "blazeface"
    layout = "[512, 1], [384, 1], [512, 16], [384, 16], or [896, 1] and [896, 16] (face with 6 points)"
    input = InputFormat(mean=(0.5,), std=(0.5,))
    score, iou = 0.75, 0.3
    labels = ("face",)

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        _, height, width = card.input_shape
        counts = [anchors * (height // stride) * (width // stride) for stride, anchors in LEVELS]
        shapes = sorted(output.shape for output in card.outputs)
        split = sorted((count, numbers) for count in counts for numbers in (1, 16))
        return int(shapes in (split, [(sum(counts), 1), (sum(counts), 16)]))

    def setup(self) -> None:
        """Compute the middles of the cells, and find the outputs of each level, the finer ones first."""
        _, height, width = self.card.input_shape
        middles = []
        for stride, anchors in LEVELS:
            y, x = np.mgrid[: height // stride, : width // stride].reshape(2, -1) + 0.5
            middles.append(np.repeat(np.stack([x, y], axis=1) * stride, anchors, axis=0))
        self._middles = np.concatenate(middles).astype(np.float32)
        shapes = [output.shape for output in self.card.outputs]
        order = sorted(range(len(shapes)), key=lambda index: -shapes[index][0])
        self._scores = [index for index in order if shapes[index][1] == 1]
        self._sides = [index for index in order if shapes[index][1] == 16]
        self._is_raw = is_raw(self.card.outputs[self._scores[0]])

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`."""
        scores = np.concatenate([outputs[index] for index in self._scores])
        if self._is_raw:
            scores = sigmoid(np.clip(scores, -_LIMIT, _LIMIT))
        rows, classes, found = best_classes(scores, min_score)
        numbers = np.concatenate([outputs[index] for index in self._sides])[rows]
        middles = self._middles[rows]
        places = numbers[:, 4:].reshape(-1, 6, 2) + middles[:, None]
        points = np.concatenate([places, np.ones_like(places[..., :1])], axis=2)
        return Candidates(corners(numbers[:, :2] + middles, numbers[:, 2:4]), found, classes, points=points)

    def suppress(self, found: Candidates, iou: float) -> Candidates:
        """Replace overlapping candidates by their mean, weighted by their scores; its score is the mean of theirs."""
        if not len(found.scores):
            return found
        # `decode` returns the best first.
        found = found.take(np.arange(min(len(found.scores), _COMPARED)))
        assert found.points is not None
        overlaps = iou_matrix(found.boxes, found.boxes) > iou
        np.fill_diagonal(overlaps, True)
        groups: list[Indices] = []
        left = np.ones(len(found.scores), bool)
        while left.any() and len(groups) < MAX_OBJECTS:
            groups.append(np.flatnonzero(left & overlaps[int(left.argmax())]))
            left[groups[-1]] = False
        merged = found.take(np.array([group[0] for group in groups]))
        weights = [found.scores[group] / found.scores[group].sum() for group in groups]
        mean = list(zip(weights, groups, strict=True))
        return replace(
            merged,
            boxes=np.stack([np.tensordot(weight, found.boxes[group], 1) for weight, group in mean]),
            points=np.stack([np.tensordot(weight, found.points[group], 1) for weight, group in mean]),
            scores=np.array([found.scores[group].mean() for group in groups], np.float32),
        )
