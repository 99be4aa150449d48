"""Decodes YOLOv10 and other nets that suppress overlapping boxes themselves: one row an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.heads.head import Candidates, Head, InputFormat, only_shape
from engine.model import ModelCard

_MAX_ROWS = 1000


class Yolov10Head(Head):
    """Decodes rows of x0, y0, x1, y1 in pixels, score and class; rows of score 0 are none."""

    name = "yolov10"
    layout = f"[objects (at most {_MAX_ROWS}), 6] (x0, y0, x1, y1 in pixels, score, class)"
    input = InputFormat(fill=114)

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0.

        The outputs do not tell the number: without labels it is COCO's.
        """
        count, numbers = only_shape(card, 2)
        return len(card.labels) or 80 if 0 < count <= _MAX_ROWS and numbers == 6 else 0

    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the objects of one image with at least `min_score`."""
        rows = outputs[0][(outputs[0][:, 4] >= min_score) & np.isfinite(outputs[0][:, 5])]
        classes = rows[:, 5].astype(int)
        if len(rows) and not 0 <= classes.min() <= classes.max() < self.classes:
            raise ValueError(
                f"the model reports class {classes.max()}, but there are {self.classes} labels; give --labels"
            )
        return Candidates(rows[:, :4], rows[:, 4], classes)

    def suppress(self, found: Candidates, iou: float) -> Candidates:
        """Return the candidates, best first: the net has dropped those that overlap."""
        return found.take(np.argsort(-found.scores, kind="stable"))
