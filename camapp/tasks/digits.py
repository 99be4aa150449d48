"""Handwritten digits on paper, one or several, read from left to right."""

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
from camapp.tasks.digit_segmentation import FIELD, are_whole, as_ink, find_marks
from camapp.tasks.smoothing import Latch, NamedAverage, softmax
from camapp.tasks.task import Prepared, Task, TaskOptions
from engine.model import ModelCard

Place = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where each item of the batch came from, and where we looked: (x0, y0, x1, y1) in the view's pixels."""

    places: tuple[Place, ...]
    region: Box


_LABEL, _SCORE = attrgetter("label"), attrgetter("score")
_FIELD = (0.0, 0.0, float(FIELD), float(FIELD))
_WHOLE = Prepared(1, _Geometry((_FIELD,), Box(*_FIELD)))  # an image that is a digit


class DigitsTask(Task):
    """Every digit in view is one item of the batch; the label is the number they spell."""

    name = "digits"
    max_items = 8

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        """For a model of digits.

        Raises:
            ValueError: its input is smaller than MNIST's 28x28, or the region of interest leaves the image.
        """
        super().__init__(card, options)
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
        marks = find_marks(image.gray()[y0:y1, x0:x1], min(self.max_items, len(batch)), scale_x / scale_y)
        self._write(np.array([mark.ink for mark in marks], np.float32).reshape(-1, FIELD, FIELD), batch)
        places = tuple(
            ((x0 + left) * scale_x, (y0 + top) * scale_y, (x0 + right) * scale_x, (y0 + bottom) * scale_y)
            for left, top, right, bottom in (mark.rect for mark in marks)
        )
        return Prepared(len(marks), _Geometry(places, Box(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)))

    def prepare_stills(self, images: Sequence[Image], batch: Floats) -> list[Prepared | None]:
        """Write those that are as MNIST's own."""
        found: list[Prepared | None] = [None] * len(images)
        places = [place for place, image in enumerate(images) if image.size == (FIELD, FIELD)]
        if places and self.options.roi is None:
            fields = np.array([images[place].gray() for place in places])
            whole = are_whole(fields)
            self._write(as_ink(fields[whole]), batch)
            for place in compress(places, whole.tolist()):
                found[place] = _WHOLE
        return found

    def _write(self, fields: Floats, batch: Floats) -> None:
        """Ink (n, 28, 28), in the middle of the first items of `batch` and normalised."""
        items = batch[: len(fields)]
        if self._has_border:
            items[...] = 0.0
        items[self._inner] = fields[:, None]
        if not self._is_plain:
            items -= self._mean
            items /= self._std

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Logits (count, 10) into labelled boxes and the number read; sure of it as of its least sure digit."""
        geometry: _Geometry = prepared.geometry
        boxes = self._read(geometry.places, *_best(outputs[0])) if prepared.count else ()
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
            region=geometry.region,
        )

    def decode_stills(
        self, images: Sequence[Image], outputs: Sequence[Floats], prepared: Sequence[Prepared]
    ) -> list[Prediction]:
        """Logits (digits of all images, 10) into the number on each."""
        best, scores = _best(outputs[0])
        found, at = [], 0
        # The inner loop of a folder of small images: half of what is not reading and the net.
        for mine in prepared:
            geometry: _Geometry = mine.geometry
            end = at + mine.count
            boxes = self._read(geometry.places, best[at:end], scores[at:end])
            at = end
            label, sure = _number(boxes)
            score = sure if label else 0.0
            top = ((label, score),) if label else ()
            values = {"count": float(len(boxes))}
            found.append(
                Prediction(0, self.name, label, score, label, score, top, boxes, values=values, region=geometry.region)
            )
        return found

    def reset(self) -> None:
        """Forget the average and the number."""
        self._average = NamedAverage(self.options.smoothing)
        self._latch: Latch[str] = Latch(self.options.threshold_high, self.options.threshold_low)

    def _read(self, places: tuple[Place, ...], best: list[int], scores: list[float]) -> tuple[Box, ...]:
        """The boxes whose digit is sure enough."""
        least = self.options.threshold_low
        return tuple(
            [
                Box(*place, self._label(digit), score)
                for place, digit, score in zip(places, best, scores, strict=True)
                if score >= least
            ]
        )

    def _label(self, index: int) -> str:
        return self.card.labels[index] if self.card.labels else str(index)


def _best(logits: Floats) -> tuple[list[int], list[float]]:
    """The likeliest digit of each item, and how likely it is."""
    scores = softmax(logits)
    return scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist()


def _number(boxes: tuple[Box, ...]) -> tuple[str, float]:
    """What the digits spell, and the score of the least sure one; 1 where there is none."""
    return "".join(map(_LABEL, boxes)), min(map(_SCORE, boxes), default=1.0)
