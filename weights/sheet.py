"""Draws a batch of images or signals with their labels on one sheet, a PNG to look at before the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from camapp.core.arrays import Pixels
from camapp.core.files import write_atomic
from camapp.overlay.text import Font
from engine.graph import Array
from weights import WeightsError
from weights.datasets import Images

# Items at most, columns, and pixels: of a tile's side, of its caption, and between tiles.
MOST, COLUMNS = 64, 8
SIDE, CAPTION, GAP = 112, 16, 4
INK, PAPER = (30, 30, 30), 255


def write_sheet(path: Path, images: Images, classes: Sequence[str]) -> None:
    """Write the first items of a batch.

    Args:
        images: uint8 in RGB or grey, or float32 signals.

    Raises:
        WeightsError: the file cannot be written.
    """
    count = min(len(images), MOST)
    rows = -(-count // COLUMNS)
    sheet = np.full((rows * (SIDE + CAPTION + GAP) + GAP, COLUMNS * (SIDE + GAP) + GAP, 3), PAPER, np.uint8)
    font = Font(CAPTION // 2)
    for index in range(count):
        row, column = divmod(index, COLUMNS)
        x, y = GAP + column * (SIDE + GAP), GAP + row * (SIDE + CAPTION + GAP)
        sheet[y : y + SIDE, x : x + SIDE] = _tile(images.images[index])
        name = font.fit(classes[int(images.labels[index])], SIDE)
        font.layer(name, INK).lay_on(sheet, x, y + SIDE + 2)
    done, data = cv2.imencode(".png", sheet)
    assert done
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.tobytes())
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error


def _tile(item: Array) -> Pixels:
    if item.ndim == 2:
        return _curve(item)
    planes = item if len(item) == 3 else np.repeat(item, 3, axis=0)
    height, width = planes.shape[1:]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = cv2.resize(np.ascontiguousarray(planes[::-1].transpose(1, 2, 0)), size, interpolation=cv2.INTER_NEAREST)
    tile = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    tile[: size[1], : size[0]] = shown
    return tile


def _curve(signal: Array) -> Pixels:
    """Draw the first channel of a signal from its least to its greatest value."""
    values = signal[0].astype(float)
    spread = float(np.ptp(values)) or 1.0
    x = np.linspace(1, SIDE - 2, len(values))
    y = SIDE - 2 - (values - values.min()) / spread * (SIDE - 4)
    tile = np.full((SIDE, SIDE, 3), 240, np.uint8)
    cv2.polylines(tile, [np.stack([x, y], axis=1).round().astype(np.int32)], False, INK, 1, cv2.LINE_AA)
    return tile
