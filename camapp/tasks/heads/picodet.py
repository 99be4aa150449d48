"""Decodes PicoDet: as NanoDet, with four levels."""

from __future__ import annotations

from camapp.tasks.heads.head import InputFormat
from camapp.tasks.heads.nanodet import NanodetHead, separate_classes
from engine.model import ModelCard

STRIDES = (8, 16, 32, 64)


class PicodetHead(NanodetHead):
    """Decodes class scores and 4 x 8 numbers of the sides of each cell, in two outputs for each level."""

    name = "picodet"
    layout = "[cells, classes] and [cells, 32] for each of the strides 8, 16, 32, 64"
    input = InputFormat("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "stretch")
    score, iou = 0.4, 0.5

    @classmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""
        return separate_classes(card, STRIDES)

    def setup(self) -> None:
        """Compute the middles of the cells."""
        self._place(STRIDES, 0.5)
