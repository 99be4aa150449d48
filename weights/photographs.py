"""Reads labelled photographs of track lines from a folder and varies them for training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Pixels
from camapp.scenes.photograph import smear
from camapp.tasks import line_decoder
from engine.nets.track import FIELDS
from weights import WeightsError
from weights.tracks import Shard, grid, input_size

Line = NDArray[np.float64]

# Pixels along the longer side to which a photograph is reduced before it is varied.
LARGEST = 480
# Two standard deviations of the rotation, radians.
TURN = np.radians(5)
# Two standard deviations of the shift of a corner, as a fraction of the image.
LEAN = 0.06
# Maximum enlargement.
ZOOM = 1.5
# Standard deviation of the logarithm of gamma.
GAMMA = 0.2
# Share of the variants with motion blur, and its length in pixels of the net's input.
BLURRED, MOVED = 0.3, 2.5


def labelled(folder: Path, source: str = "") -> Iterator[tuple[str, Pixels, list[Line], list[Line]]]:
    """(subset, image, lines, spare lines) of each entry in a folder's labels.json, or of those with this `source`.

    It is a list of {"image", "size", "subset", "lines": [[[x, y], ...], ...], "doubtful"?: lines that count neither as
    required nor as false, "merged_double"?: indices of lines that are two, "source"?: where the image is from}.

    Raises:
        WeightsError: the labels or an image cannot be read.
    """
    try:
        entries = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / 'labels.json'}: {error}") from error
    for entry in entries:
        if source and entry.get("source") != source:
            continue
        lines = [np.array(line, float) for line in entry["lines"]]
        spare = [np.array(line, float) for line in entry.get("doubtful") or ()]
        spare += [lines[i] for i in entry.get("merged_double") or ()]
        yield entry["subset"], read(folder / entry["image"]), lines, spare


def read(path: Path) -> Pixels:
    """Read an image file as RGB.

    Raises:
        WeightsError: it is none.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise WeightsError(f"{path}: not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


class Photographs:
    """Labelled photographs, from which variants are drawn."""

    def __init__(self, folder: Path, parts: Sequence[str] = ()) -> None:
        """Read the photographs of a folder, or of these `parts` of it: 'SUBFOLDER' or 'SUBFOLDER/SOURCE'.

        Raises:
            WeightsError: the labels or an image cannot be read, or there is none.
        """
        self._all = []
        chosen = [part.partition("/")[::2] for part in parts or [""]]
        for _, pixels, lines, spare in chain.from_iterable(labelled(folder / name, source) for name, source in chosen):
            size = np.array(pixels.shape[1::-1], float)
            scale = min(1.0, LARGEST / size.max())
            small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            doubtful = [line / size for line in spare if not any(line is one for one in lines)]
            self._all.append((np.asarray(small, np.uint8), [line / size for line in lines], doubtful))
        if not self._all:
            raise WeightsError(f"{folder / 'labels.json'} names no image" + f" of {', '.join(parts)}" * bool(parts))

    def varied(self, count: int, seed: int) -> Shard:
        """Draw variants, equally many of each photograph: rotated, enlarged, from another viewpoint."""
        rng = np.random.default_rng([seed, 11])
        size, cells = input_size(), grid()
        images = np.empty((count, size[1], size[0], 3), np.uint8)
        fields = np.empty((count, *cells, FIELDS + 1), np.float16)
        for i in range(count):
            small, lines, doubtful = self._all[i % len(self._all)]
            change = _change(rng)
            # From the photograph's pixels to the net's, through fractions of both.
            scaled = np.diag([*size, 1.0]) @ change @ np.diag([1 / small.shape[1], 1 / small.shape[0], 1.0])
            soft = max(small.shape[1] / size[0], small.shape[0] / size[1]) / 3
            source = cv2.GaussianBlur(small, (0, 0), soft) if soft > 0.5 else small
            shade = tuple(float(level) for level in source.mean(axis=(0, 1)))
            seen = cv2.warpPerspective(source, scaled, size, flags=cv2.INTER_LINEAR, borderValue=shade)
            images[i] = _taken_again(np.asarray(seen, np.uint8), rng)
            moved = [(part, faint) for faint, group in enumerate((lines, doubtful)) for part in _moved(group, change)]
            fields[i] = line_decoder.encode([(part.tolist(), bool(faint)) for part, faint in moved], cells)
        return Shard(images, fields)


def _change(rng: np.random.Generator) -> Line:
    """Return a random homography of the unit square."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    turn, zoom = rng.normal(0, TURN / 2), rng.uniform(0.92, ZOOM) if rng.random() < 0.7 else 1.0
    frame = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    room = abs(zoom - 1) / 2
    to = (corners - 0.5) @ frame.T + 0.5 + rng.uniform(-room, room, 2) + rng.normal(0, LEAN / 2, (4, 2))
    change: Line = cv2.getPerspectiveTransform(corners.astype(np.float32), to.astype(np.float32))
    return change


def _taken_again(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Vary the light, and add motion blur to some."""
    gamma = float(np.exp(rng.normal(0, GAMMA)))
    tones = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(pixels, tones), np.uint8)
    if rng.random() < BLURRED:
        moved = smear(rng.normal(0, MOVED), rng.normal(0, MOVED / 4))
        pixels = np.asarray(cv2.filter2D(pixels, -1, moved), np.uint8)
    return pixels


def _moved(lines: list[Line], change: Line) -> Iterator[Line]:
    """Return the parts of the lines inside the image, densely sampled."""
    for line in lines:
        fine = np.linspace(0, len(line) - 1, 8 * len(line))
        path = np.stack([np.interp(fine, np.arange(len(line)), line[:, axis]) for axis in (0, 1)], axis=1)
        moved = cv2.perspectiveTransform(path[None], change)[0]
        inside = np.concatenate([[False], ((moved > 0) & (moved < 1)).all(axis=1), [False]])
        edges = np.flatnonzero(np.diff(inside.astype(np.int8)))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start > 3:
                yield moved[start:stop]
