"""Lets fewer frames through to inference while nothing happens, and all of them again with the first that differs."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.frames import Frame
from camapp.core.image import Image
from camapp.core.predictions import Prediction

# The image is compared as so many (columns, rows) of grey tiles. Averages of many pixels: a sensor's noise of 10
# levels is one of less than 2 there, while a pen stroke across a tile is 20 or more.
_TILES = (32, 24)
_SAMPLES_A_TILE = 8
_DIFFERENT = 8.0


class IdleGate:
    """Decides which frames are inferred. One thread admits, another one tells predictions.

    Idle begins when neither the label nor any part of the image has changed for `after_s`, and ends with the frame
    that differs from the last one inferred.

    Args:
        fps: inferences a second while idle.
        after_s: seconds without a change.
        clock: monotonic seconds.
    """

    def __init__(self, fps: float, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.fps = fps
        self._after_s = after_s
        self._clock = clock
        self._tiles: NDArray[np.float32] | None = None
        self._label: str | None = None
        self._changed_at = clock()
        self._admitted_at = -float("inf")

    @property
    def idle(self) -> bool:
        """Nothing has happened for long enough."""
        return self._label is not None and self._clock() - self._changed_at >= self._after_s

    def admits(self, frame: Frame) -> bool:
        """Whether to infer this frame."""
        now, tiles = self._clock(), tiles_of(frame.model_view)
        if self._tiles is None or tiles.shape != self._tiles.shape or np.abs(tiles - self._tiles).max() > _DIFFERENT:
            self._changed_at = now
        if self.idle and now - self._admitted_at < 1 / self.fps:
            return False
        # Compared with what was inferred, and that is at most 1 / fps old: dusk and dawn are no change.
        self._tiles, self._admitted_at = tiles, now
        return True

    def predicted(self, prediction: Prediction) -> None:
        """A label that changes is a change too."""
        if prediction.label != self._label:
            self._label = prediction.label
            self._changed_at = self._clock()


def tiles_of(image: Image) -> NDArray[np.float32]:
    """The image's brightness in tiles, float32 (24, 32), for a third of a millisecond of a PC."""
    pixels = image.data[: image.height]
    step_y, step_x = (
        max(1, side // (count * _SAMPLES_A_TILE))
        for side, count in zip((image.height, image.width), _TILES[::-1], strict=True)
    )
    sampled = pixels[::step_y, : image.width : step_x]
    tiles = cv2.resize(np.ascontiguousarray(sampled), _TILES, interpolation=cv2.INTER_AREA)
    # The colours' plain mean: which of them is red matters little here.
    return np.asarray(tiles if tiles.ndim == 2 else tiles[..., :3].mean(axis=2), np.float32)
