"""Decodes torchvision's SSDlite with MobileNetV3: offsets to priors."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.model_table import labels_named
from camapp.tasks.heads.head import InputFormat
from camapp.tasks.heads.ssd import SsdHead
from engine.model import ModelCard

LEVELS, LEAST, MOST = 6, 0.2, 0.95
# COCO's numbers from 1 to 90 that no picture has, which are classes of these nets nevertheless.
UNUSED = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender",
}  # fmt: skip


class SsdliteHead(SsdHead):
    """Decodes scores of each prior, background first, and offsets to the priors."""

    name = "ssdlite"
    layout = "[priors, 1 + classes] and [priors, 4] (offsets to torchvision's priors: 3234 at 320 x 320)"
    input = InputFormat(mean=(0.5,), std=(0.5,), fit="stretch")
    score, iou = 0.3, 0.55
    labels: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        is_decoded = any("Exp" in output.operators or "Add" in output.operators for output in card.outputs)
        return 0 if is_decoded else super().classes_of(card)

    @classmethod
    def priors(cls, card: ModelCard) -> Floats:
        """Return the priors (n, 4): x, y, w, h from 0 to 1, at most 1; six for each cell."""
        _, height, width = card.input_shape
        rows, columns = -(-height // 16), -(-width // 16)
        scales = [*np.linspace(LEAST, MOST, LEVELS), 1.0]
        found = []
        for scale, next_scale in pairwise(scales):
            between = math.sqrt(scale * next_scale)
            sizes = [(scale, scale), (between, between)]
            for ratio in (2, 3):
                wide, high = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
                sizes += [(wide, high), (high, wide)]
            y, x = (np.mgrid[:rows, :columns].reshape(2, -1) + 0.5) / [[rows], [columns]]
            cells = np.repeat(np.stack([x, y], axis=1), len(sizes), axis=0)
            found.append(np.concatenate([cells, np.tile(np.minimum(sizes, 1), (len(x), 1))], axis=1))
            rows, columns = -(-rows // 2), -(-columns // 2)
        return np.concatenate(found).astype(np.float32)

    def class_names(self) -> tuple[str, ...]:
        """Return a name for each class: the card's, or those of COCO's numbers 1 to 90."""
        if self.card.labels or self.classes != 90:
            return super().class_names()
        names = iter(labels_named("coco"))
        return tuple(UNUSED.get(number) or next(names) for number in range(1, 91))
