"""Decodes maps of classes: each class that covers enough of the image is an object with outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, Outlines, is_raw, only_shape, sigmoid
from camapp.tasks.heads.outlines import outlines_of
from engine.model import ModelCard

# Share of the image that a class must cover.
LEAST_SHARE = 0.001
# A map has at least this many pixels for each side of 16 pixels of the input: coarser ones are those of detectors.
_LEAST_PIXELS = 2
# Pixels of a class whose probability is computed, for its score.
_SAMPLES = 500
_BACKGROUNDS = ("background", "__background__", "_background_", "bg", "")


class SegmentHead(Head):
    """Decodes one map a class, with the background first, or one map only; as logits or probabilities.

    Labels name every map, or all but the background's. Without labels the first of several maps is the background.
    A map that the net's ArgMax has made holds class numbers; its labels must be stated.
    """

    name = "segment"
    layout = "[classes, height, width], [1, height, width] or class numbers [height, width]"
    input = InputFormat(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), fit="stretch")
    score = 0.5

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        maps, rows, columns = only_shape(card, 3)
        if not maps:
            (rows, columns), maps = only_shape(card, 2), 1
        _, height, width = card.input_shape
        is_fine = 16 * rows >= _LEAST_PIXELS * height and 16 * columns >= _LEAST_PIXELS * width
        if not is_fine or abs(rows * width - columns * height) > max(height, width):
            return 0
        if is_number_map(card):
            return len([label for label in card.labels if label not in _BACKGROUNDS])
        if len(card.outputs[0].shape) == 2:
            return 0
        return maps - _has_background(card, maps)

    def setup(self) -> None:
        """Find out how the maps are encoded."""
        output = self.card.outputs[0]
        self._numbers = is_number_map(self.card)
        self._maps = 1 if self._numbers or len(output.shape) == 2 else output.shape[0]
        self._is_raw = is_raw(output, "Resize", "BatchNormalization", "ConvTranspose")
        self._first = int(_has_background(self.card, len(self.card.labels) if self._numbers else self._maps))

    def class_names(self) -> tuple[str, ...]:
        """Return a name for each class but the background."""
        names = self.card.labels
        if len(names) == self.classes + 1 and self._first:
            return names[1:]
        return super().class_names()

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return an object for each class with a mean probability of at least `min_score`."""
        rows, columns = outputs[0].shape[-2:]
        maps = outputs[0].reshape(-1, rows, columns)
        if self._numbers:
            masks = [maps[0] == number for number in range(self._first, self._first + self.classes)]
            scores = [1.0] * len(masks)
        elif self._maps == 1:
            likely = sigmoid(maps[0]) if self._is_raw else maps[0]
            masks = [likely > 0.5]
            scores = [float(likely[masks[0]].mean()) if masks[0].any() else 0.0]
        else:
            best = np.where(np.isnan(maps).any(axis=0), -1, maps.argmax(axis=0))
            masks = [best == number for number in range(self._first, self._first + self.classes)]
            scores = [self._score(maps, number + self._first, mask) for number, mask in enumerate(masks)]
        least = max(1.0, LEAST_SHARE * rows * columns)
        kept = [
            number
            for number, (mask, score) in enumerate(zip(masks, scores, strict=True))
            if score >= min_score and np.count_nonzero(mask) >= least
        ]
        _, height, width = self.card.input_shape
        scale = width / columns, height / rows
        return Candidates(
            np.array([_box(masks[number], scale) for number in kept], np.float32).reshape(-1, 4),
            np.array([scores[number] for number in kept], np.float32),
            np.array(kept, np.intp),
            outlines=tuple(self._outlines(masks[number], scale) for number in kept),
        )

    def _score(self, maps: Floats, number: int, mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
        """Return the mean probability of a class over some of its pixels."""
        y, x = np.nonzero(mask)
        step = -(-len(y) // _SAMPLES) or 1
        values = maps[:, y[::step], x[::step]]
        if not values.size:
            return 0.0
        if self._is_raw:
            powers = np.exp(values - values.max(axis=0))
            values = powers / powers.sum(axis=0)
        return float(values[number].mean())

    def _outlines(self, mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]], scale: tuple[float, float]) -> Outlines:
        return outlines_of(mask, (0.0, 0.0), scale)

    def suppress(self, found: Candidates, iou: float) -> Candidates:
        """Return the classes, best first: a pixel is of one of them only."""
        return found.take(np.argsort(-found.scores, kind="stable"))


def is_number_map(card: ModelCard) -> bool:
    """Return whether the only output holds class numbers."""
    return len(card.outputs) == 1 and card.outputs[0].operators == ("ArgMax",)


def _has_background(card: ModelCard, maps: int) -> bool:
    """Return whether the first of several maps is the background's."""
    if maps == 1:
        return False
    return len(card.labels) != maps or card.labels[0].lower() in _BACKGROUNDS


def _box(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]], scale: tuple[float, float]) -> tuple[float, ...]:
    """Return the rectangle around a mask that is not empty."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return x[0] * scale[0], y[0] * scale[1], (x[-1] + 1) * scale[0], (y[-1] + 1) * scale[1]
