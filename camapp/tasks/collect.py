"""Shows what `camapp collect` saves, in place of a model's findings: labels, numbers of images, and a flash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image_ops import roi_pixels
from camapp.core.predictions import Box, Prediction
from camapp.tasks.task import Prepared, Task

_FLASH_S = 0.3


class LabelBoard:
    """Holds the labels, the chosen one, and the number of images of each.

    Args:
        counts: images of each label so far, in the order of the keys; the first label is chosen.

    Attributes:
        request: saves the next image.
        saved_now: images of each label that this run has saved.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self.labels = tuple(counts)
        self.label = self.labels[0]
        self.request: Callable[[], None] = lambda: None
        self.saved_now = dict.fromkeys(counts, 0)
        self._saved_at = -_FLASH_S

    def choose(self, label: str) -> None:
        """Choose a label. Raises KeyError if there is none of this name."""
        _ = self.counts[label]
        self.label = label

    def saved(self, path: Path) -> None:
        """Count an image, by its folder."""
        self.counts[path.parent.name] += 1
        self.saved_now[path.parent.name] += 1
        self._saved_at = time.monotonic()

    @property
    def flashes(self) -> bool:
        """Whether an image was saved just now."""
        return time.monotonic() - self._saved_at < _FLASH_S


class CollectTask(Task):
    """Infers nothing; a subclass has the `board` of its run."""

    name = "collect"
    infers = False
    board: ClassVar[LabelBoard]

    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write nothing."""
        return Prepared(0, None)

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Return the labels with their numbers of images, and a frame around the image if one was saved just now."""
        board, size = self.board, frame.view.size
        count = board.counts[board.label]
        saved = Box(0, 0, *size, label=f"{board.label} {count}", score=1.0)
        return Prediction(
            frame.seq,
            self.name,
            hint=f"{board.label}: {count} image{'' if count == 1 else 's'}",
            values={f"{key} {label}": float(board.counts[label]) for key, label in enumerate(board.labels, 1)},
            boxes=(saved,) if board.flashes else (),
            region=Box(*roi_pixels(size, self.options.roi)),
        )
