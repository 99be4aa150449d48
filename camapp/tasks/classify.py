"""Task `classify`: one label per image, from the scores of all classes, smoothed over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image
from camapp.core.image_ops import Fit, Preprocessor
from camapp.core.predictions import Prediction
from camapp.tasks.class_scores import check_classes, scores_of
from camapp.tasks.rejection import Rejection
from camapp.tasks.smoothing import ArrayAverage, Latch
from camapp.tasks.task import Prepared, Task, TaskOptions
from engine.model import ModelCard

UNKNOWN = "none of its classes"


class ClassifyTask(Task):
    """Classifies the whole image, or its region of interest; an image that is none of the classes has no label."""

    name = "classify"

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        """Prepare for a model.

        Raises:
            ValueError: the outputs are not one number for each class, or an option is out of range.
        """
        check_classes(card, self.name)
        super().__init__(card, options)
        self._scores = scores_of(card)
        self._preprocess = Preprocessor(card, options.fit, options.roi)
        self._rejection = Rejection(card, options.reject)
        self.reset()

    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write the fitted image into `batch[0]`."""
        return Prepared(1, self._preprocess(frame.model_view, batch[0]))

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Turn logits or probabilities (1, classes) into a smoothed label and the raw label of this frame."""
        found = outputs[0][:1].reshape(1, -1)
        scores = self._scores(found[0])
        raw = int(scores.argmax())
        is_known = bool(self._rejection.accepts(found)[0])
        mean = self._average.update(scores, now_ns)
        known = float(self._known.update(np.array([is_known], np.float32), now_ns)[0])
        (top,) = self._top(mean[None])
        leader = int(mean.argmax())
        previous = self._latch.held
        held = self._latch.update(
            leader, known * float(mean[leader]), 0.0 if previous is None else known * float(mean[previous])
        )
        fit: Fit = prepared.geometry
        return Prediction(
            seq=frame.seq,
            task=self.name,
            label="" if held is None else self._label(held),
            score=0.0 if held is None else float(mean[held]),
            raw_label=self._label(raw) if is_known else "",
            raw_score=float(scores[raw]) if is_known else 0.0,
            top=top,
            hint=UNKNOWN if held is None and not is_known else "",
            region=fit.region(frame.model_to_view),
        )

    def decode_stills(
        self, images: Sequence[Image], outputs: Sequence[Floats], prepared: Sequence[Prepared]
    ) -> list[Prediction]:
        """Turn logits or probabilities (images, classes) into labels, all in one pass."""
        found = outputs[0].reshape(len(images), -1)
        tops = self._top(self._scores(found))
        bests = [
            top[0] if known else ("", 0.0) for top, known in zip(tops, self._rejection.accepts(found), strict=True)
        ]
        return [
            Prediction(
                seq=0,
                task=self.name,
                label=label,
                score=score,
                raw_label=label,
                raw_score=score,
                top=top,
                hint="" if label else UNKNOWN,
                region=item.geometry.region((1.0, 1.0)),
            )
            for item, top, (label, score) in zip(prepared, tops, bests, strict=True)
        ]

    def reset(self) -> None:
        """Clear the average and the label."""
        self._average = ArrayAverage(self.options.smoothing)
        self._known = ArrayAverage(self.options.smoothing)
        self._latch: Latch[int] = Latch(self.options.threshold_high, self.options.threshold_low)

    def _top(self, scores: Floats) -> list[tuple[tuple[str, float], ...]]:
        """Return the best (label, score) pairs of each row, best first."""
        count = min(self.options.top, scores.shape[1])
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        best_scores = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        best, best_scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(best_scores, order, axis=1)
        return [
            tuple((self._label(i), score) for i, score in zip(*row, strict=True))
            for row in zip(best.tolist(), best_scores.tolist(), strict=True)
        ]

    def _label(self, index: int) -> str:
        return self.card.labels[index] if self.card.labels else str(index)
