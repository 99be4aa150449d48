"""Task `digits`: finds handwritten digits on paper and reads them from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image
from camapp.core.image_ops import roi_pixels
from camapp.core.predictions import Box, Prediction
from camapp.tasks.class_scores import check_classes, scores_of
from camapp.tasks.digit_segmentation import FIELD, are_whole, as_ink, find_marks
from camapp.tasks.smoothing import Latch, NamedAverage
from camapp.tasks.task import Prepared, Task, TaskOptions
from engine.model import ModelCard

Rect = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Rectangles of the batch items, and the region searched: (x0, y0, x1, y1) in the view's pixels."""

    rects: tuple[Rect, ...]
    region: Box


HINT = "show me a sheet of paper with digits"
_LABEL, _SCORE = attrgetter("label"), attrgetter("score")
_FIELD = (0.0, 0.0, float(FIELD), float(FIELD))
# Result of `prepare` for an image that is itself an MNIST digit.
_WHOLE = Prepared(1, _Geometry((_FIELD,), Box(*_FIELD)))


class DigitsTask(Task):
    """Each digit in view is one item of the batch; the label is the number that they form."""

    name = "digits"
    max_items = 8

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        """Prepare for a model of digits.

        Raises:
            ValueError: its input is smaller than MNIST's 28x28, it does not tell ten classes apart, or the region of
                interest leaves the image.
        """
        check_classes(card, self.name)
        if card.outputs and card.outputs[0].shape[0] != 10:
            raise ValueError(f"task 'digits' needs a model of ten classes, not {card.outputs[0].shape[0]}")
        super().__init__(card, options)
        self._scores = scores_of(card)
        channels, height, width = card.input_shape
        if min(height, width) < FIELD:
            raise ValueError(f"task 'digits' needs a model input of at least {FIELD}x{FIELD}, not {width}x{height}")
        roi_pixels((1000, 1000), options.roi)
        self._mean = np.array(card.mean, np.float32).reshape(channels, 1, 1)
        self._std = np.array(card.std, np.float32).reshape(channels, 1, 1)
        self._is_plain = not self._mean.any() and bool((self._std == 1).all())
        left, top = (width - FIELD) // 2, (height - FIELD) // 2
        self._inner = np.s_[:, :, top : top + FIELD, left : left + FIELD]
        self._has_border = (width, height) != (FIELD, FIELD)
        self.reset()

    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write each mark on the paper into an item of `batch`, left to right."""
        image = frame.model_view
        x0, y0, x1, y1 = roi_pixels(image.size, self.options.roi)
        scale_x, scale_y = frame.model_to_view
        marks = find_marks(
            image.gray()[y0:y1, x0:x1], min(self.max_items, len(batch)), scale_x / scale_y, not self.options.reject
        )
        self._write_items(np.array([mark.ink for mark in marks], np.float32).reshape(-1, FIELD, FIELD), batch)
        rects = tuple(
            ((x0 + left) * scale_x, (y0 + top) * scale_y, (x0 + right) * scale_x, (y0 + bottom) * scale_y)
            for left, top, right, bottom in (mark.rect for mark in marks)
        )
        return Prepared(len(marks), _Geometry(rects, Box(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)))

    def prepare_stills(self, images: Sequence[Image], batch: Floats) -> list[Prepared | None]:
        """Write the images that have the form of MNIST images."""
        prepared: list[Prepared | None] = [None] * len(images)
        candidates = [index for index, image in enumerate(images) if image.size == (FIELD, FIELD)]
        if candidates and self.options.roi is None:
            fields = np.array([images[index].gray() for index in candidates])
            whole = are_whole(fields)
            self._write_items(as_ink(fields[whole]), batch)
            for index in compress(candidates, whole.tolist()):
                prepared[index] = _WHOLE
        return prepared

    def _write_items(self, fields: Floats, batch: Floats) -> None:
        """Write ink (n, 28, 28) into the middle of the first items of `batch`, normalised."""
        items = batch[: len(fields)]
        if self._has_border:
            items[...] = 0.0
        items[self._inner] = fields[:, None]
        if not self._is_plain:
            items -= self._mean
            items /= self._std

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Turn logits (count, 10) into labelled boxes and a number; its score is that of the least certain digit."""
        geometry: _Geometry = prepared.geometry
        boxes = self._read(geometry.rects, *_best(self._scores(outputs[0]))) if prepared.count else ()
        raw, raw_score = _number(boxes)
        mean = self._average.update({raw: raw_score}, now_ns)
        leader = next(iter(mean))
        held = self._latch.update(leader, mean[leader], mean.get(self._latch.held or "", 0.0))
        return Prediction(
            seq=frame.seq,
            task=self.name,
            label=held or "",
            score=mean.get(held, 0.0) if held else 0.0,
            raw_label=raw,
            raw_score=raw_score if raw else 0.0,
            top=tuple((name, score) for name, score in mean.items() if name)[: self.options.top],
            boxes=boxes,
            values={"count": float(len(boxes))},
            hint="" if raw or held else HINT,
            region=geometry.region,
        )

    def decode_stills(
        self, images: Sequence[Image], outputs: Sequence[Floats], prepared: Sequence[Prepared]
    ) -> list[Prediction]:
        """Turn logits (digits of all images, 10) into the number on each image."""
        best, scores = _best(self._scores(outputs[0]))
        predictions, start = [], 0
        # The inner loop for a folder of small images: half of the time apart from reading files and the net.
        for item in prepared:
            geometry: _Geometry = item.geometry
            end = start + item.count
            boxes = self._read(geometry.rects, best[start:end], scores[start:end])
            start = end
            label, certainty = _number(boxes)
            score = certainty if label else 0.0
            top = ((label, score),) if label else ()
            values = {"count": float(len(boxes))}
            predictions.append(
                Prediction(0, self.name, label, score, label, score, top, boxes, values=values, region=geometry.region)
            )
        return predictions

    def reset(self) -> None:
        """Clear the average and the number."""
        self._average = NamedAverage(self.options.smoothing)
        self._latch: Latch[str] = Latch(self.options.threshold_high, self.options.threshold_low)

    def _read(self, rects: tuple[Rect, ...], best: list[int], scores: list[float]) -> tuple[Box, ...]:
        """Return the boxes whose digit reaches the lower threshold."""
        threshold = self.options.threshold_low
        return tuple(
            [
                Box(*rect, self._label(digit), score)
                for rect, digit, score in zip(rects, best, scores, strict=True)
                if score >= threshold
            ]
        )

    def _label(self, index: int) -> str:
        return self.card.labels[index] if self.card.labels else str(index)


def _best(scores: Floats) -> tuple[list[int], list[float]]:
    """Return the most probable digit of each item and its probability."""
    return scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist()


def _number(boxes: tuple[Box, ...]) -> tuple[str, float]:
    """Return the number that the digits form and the lowest score of them; 1 if there is none."""
    return "".join(map(_LABEL, boxes)), min(map(_SCORE, boxes), default=1.0)
