"""Task `detect`: boxes with classes and scores, and key points or masks where the net has them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image_ops import Fit, Preprocessor
from camapp.core.log_once import LogOnce
from camapp.core.predictions import Box, KeyPoint, Prediction
from camapp.core.zones import parse_lines, parse_zones
from camapp.tasks.heads.head import Candidates, Head, InputFormat, head_for
from camapp.tasks.task import Prepared, Task, TaskOptions
from camapp.tasks.tracker import Followed, Tracker
from camapp.tasks.zones import Counting
from engine.model import ModelCard

log = logging.getLogger(__name__)

# Score from which a box may continue an object, though it is too low to report a new one.
CONTINUED_SCORE = 0.1


class DetectTask(Task):
    """Finds objects; the head, which the model's outputs choose, knows how these encode them."""

    name = "detect"
    counts_places = True
    # A detector's buffers are larger than the caches for one image already, and many are exported for one only.
    batches = False

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        """Prepare for a model.

        Raises:
            ValueError: the outputs fit no head, or not the one of the options; the number of labels is wrong; or
                unknown classes are to be reported.
        """
        self.head = head_for(card, options.head or "")
        card = _completed(card, self.head, options)
        super().__init__(card, options)
        form = self.head.input
        self._preprocess = Preprocessor(card, options.fit or form.fit, options.roi, fill=form.fill, corner=form.corner)
        self._chosen = _chosen(options.classes, card.labels)
        self._min_score = self.head.score if options.score is None else options.score
        self._iou = self.head.iou if options.iou is None else options.iou
        self._tracker = Tracker()
        self._counting = Counting(parse_zones(options.zone), parse_lines(options.line))
        self._log_once = LogOnce(log)

    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write the fitted image into `batch[0]`."""
        return Prepared(1, self._preprocess(frame.model_view, batch[0]))

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Turn the outputs for one image into boxes, best first."""
        fit: Fit = prepared.geometry
        follow = not frame.shot.still
        boxes = self._boxes(outputs, fit, frame, min(self._min_score, CONTINUED_SCORE) if follow else self._min_score)
        counts: dict[str, int] = Counter(box.label for box in boxes)
        objects: Sequence[Followed] = ()
        if follow:
            boxes = tuple(self._tracker.update(boxes, now_ns, frame.view.size, self._min_score))
            counts, objects = self._tracker.counts, self._tracker.objects
        zones, lines = self._counting.update(objects, now_ns, frame.view.size)
        best: dict[str, float] = {}
        for box in boxes:
            best.setdefault(box.label, box.score)
        label, score = next(iter(best.items()), ("", 0.0))
        return Prediction(
            seq=frame.seq,
            task=self.name,
            label=label,
            score=score,
            raw_label=label,
            raw_score=score,
            top=tuple(best.items())[: self.options.top],
            boxes=boxes,
            counts=dict(counts),
            zones=zones,
            counting_lines=lines,
            region=fit.region(frame.model_to_view),
        )

    def reset(self) -> None:
        """Forget the objects that were followed; what zones and lines have counted stays."""
        self._tracker.reset()

    def take_over(self, previous: Task) -> None:
        """Go on following the objects of the task before, and counting at the same zones and lines."""
        if isinstance(previous, DetectTask):
            self._tracker = previous._tracker
            self._counting.take_over(previous._counting)

    def _boxes(self, outputs: Sequence[Floats], fit: Fit, frame: Frame, min_score: float) -> tuple[Box, ...]:
        """Return the objects in pixels of the view, best first."""
        arrays = [output.reshape(spec.shape) for output, spec in zip(outputs, self.card.outputs, strict=True)]
        self._check(arrays)
        with np.errstate(all="ignore"):
            found = self.head.decode(arrays, min_score)
            usable = _finite(found)
            if self._chosen is not None:
                usable &= self._chosen[found.classes]
            found = self.head.suppress(found.take(np.flatnonzero(usable)), self._iou)
            found = self.head.finish(found, arrays)
            found = found.take(np.flatnonzero(_finite(found)))
        return _in_view(found, fit, frame, self.card.labels)

    def _check(self, outputs: Sequence[Floats]) -> None:
        """Log once that numbers are not finite, which no head takes for an object; raise ValueError if none is."""
        # A sum is quicker than a test of each number.
        with np.errstate(all="ignore"):
            sums = [float(np.add.reduce(output, axis=None)) for output in outputs]
        if np.isfinite(sums).all():
            return
        bad, size = sum(int((~np.isfinite(output)).sum()) for output in outputs), sum(map(np.size, outputs))
        if bad == size:
            raise ValueError("the model gives NaN or infinity only; its file may be damaged")
        if bad:
            text = "%d of %d numbers that the model gives are NaN or infinite, and are ignored (logged once)"
            self._log_once(logging.WARNING, "finite", text, bad, size)


def _finite(found: Candidates) -> NDArray[np.bool_]:
    """Return whether all numbers of each candidate are finite."""
    parts = (part for part in (found.boxes, found.scores, found.points, found.angles) if part is not None)
    finite = [np.isfinite(part.reshape(len(found.scores), -1)).all(axis=1) for part in parts if part.size]
    return np.logical_and.reduce(finite) if finite else np.zeros(len(found.scores), bool)


def _completed(card: ModelCard, head: Head, options: TaskOptions) -> ModelCard:
    """Return the card with labels, and with the input that the head's family expects unless another one is stated."""
    changes: dict[str, object] = {"labels": head.class_names()}
    form, channels = head.input, card.input_shape[0]
    if not card.head:
        if options.colour is None and card.colour == InputFormat().colour and channels == 3:
            changes["colour"] = form.colour
        if options.mean is None and not any(card.mean):
            changes["mean"] = _each(form.mean, channels)
        if options.std is None and set(card.std) == {1.0}:
            changes["std"] = _each(form.std, channels)
    return replace(card, **changes)  # type: ignore[arg-type]


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(values[:channels]) if len(values) > 1 else values * channels


def _chosen(names: Sequence[str], labels: Sequence[str]) -> NDArray[np.bool_] | None:
    """Return whether to report each class, or None for all; raises ValueError for a name that is no label."""
    for name in names:
        if name not in labels:
            close = get_close_matches(name, labels, n=1)
            known = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(labels[:20])}"
            known += ", ..." if not close and len(labels) > 20 else ""
            raise ValueError(f"--classes: the model has no class '{name}'; {known}")
    return np.array([label in names for label in labels]) if names else None


def _in_view(found: Candidates, fit: Fit, frame: Frame, labels: Sequence[str]) -> tuple[Box, ...]:
    """Return candidates in pixels of the view; empty ones are left out.

    They are clipped to the part that the model received, except rotated ones, which clipping would deform.
    """
    (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
    scale = np.array([(x1 - x0) / (u1 - u0), (y1 - y0) / (v1 - v0)])
    low, to_view = np.array([x0, y0]), np.array(frame.model_to_view)
    high = np.array([x1, y1])

    def placed(points: Floats) -> Floats:
        """Map points (..., 2) of the input to the view."""
        seen = (points - (u0, v0)) * scale + low
        return np.asarray((seen if found.angles is not None else np.clip(seen, low, high)) * to_view)

    rects = placed(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4).tolist()
    points = repeat(()) if found.points is None else _key_points(found.points, placed(found.points[..., :2]))
    outlines = found.outlines or repeat(())
    angles = repeat(0.0) if found.angles is None else found.angles.tolist()
    details = zip(rects, found.classes.tolist(), found.scores.tolist(), points, outlines, angles, strict=False)
    boxes = []
    for (left, top, right, bottom), number, score, marks, shapes, angle in details:
        if right > left and bottom > top:
            drawn = tuple(tuple((x, y) for x, y in placed(np.array(outline)).tolist()) for outline in shapes)
            boxes.append(Box(left, top, right, bottom, labels[number], score, 0, marks, drawn, angle))
    return tuple(boxes)


def _key_points(points: Floats, places: Floats) -> list[tuple[KeyPoint, ...]]:
    scored = np.concatenate([places, points[..., 2:]], axis=-1).tolist()
    return [tuple(KeyPoint(*point) for point in marks) for marks in scored]
