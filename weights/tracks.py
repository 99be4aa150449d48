"""Renders track images for training in the background, one shard ahead of the training."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.scenes.track import random_image
from camapp.system.process import die_with_parent
from camapp.tasks import line_decoder
from engine.nets.track import FIELDS, SUBCELLS, track

# Image shapes and their weights: the net gets all of them stretched to its input.
SHAPES = ((4, 3), (3, 2), (16, 9), (1, 1), (3, 4), (9, 16))
SHARES = (0.5, 0.07, 0.17, 0.03, 0.08, 0.15)
# Seeds from here on are never used for training.
VALIDATION_SEED = 1_000_000_000


@dataclass(frozen=True)
class Shard:
    """Images uint8 (n, H, W, 3) RGB, and their fields float16 (n, rows, columns, FIELDS + 1)."""

    images: NDArray[np.uint8]
    fields: NDArray[np.float16]


def input_size() -> tuple[int, int]:
    """Return (width, height) of the net's input."""
    _, _, height, width = track().inputs[0].shape
    return width, height


def grid() -> tuple[int, int]:
    """Return (rows, columns) of the net's cells."""
    _, _, height, width = track().outputs[0].shape
    return height * SUBCELLS, width * SUBCELLS


def render(seeds: Sequence[int]) -> Shard:
    """Render the images of these seeds."""
    cv2.setNumThreads(1)
    size, cells = input_size(), grid()
    images = np.empty((len(seeds), size[1], size[0], 3), np.uint8)
    fields = np.empty((len(seeds), *cells, FIELDS + 1), np.float16)
    for i, seed in enumerate(seeds):
        shape = SHAPES[np.random.default_rng([seed, 3]).choice(len(SHAPES), p=SHARES)]
        image, truth, _ = random_image(seed, size, shape=shape)
        images[i] = image
        lines = [([(x / size[0], y / size[1]) for x, y in line.points], line.label == "faint") for line in truth.lines]
        fields[i] = line_decoder.encode(lines, cells)
    return Shard(images, fields)


def shards(
    count: int, images: int, first_seed: int, folder: Path, processes: int = 1, begin: int = 0
) -> Iterator[Shard]:
    """Yield `count` shards in order, and render the next one meanwhile. They are kept in `folder` and reused.

    Args:
        count: of shards.
        images: in each.
        first_seed: of the first image; the others follow.
        folder: keeps the shards for a run that is continued later.
        processes: that render.
        begin: number of the first one that is wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def start(pool: ProcessPoolExecutor, number: int) -> list[Future[Shard]]:
        seed = first_seed + number * images
        if (folder / f"{seed}.npz").exists():
            return []
        parts = np.array_split(np.arange(seed, seed + images), max(1, processes * 4))
        return [pool.submit(render, part.tolist()) for part in parts]

    def finish(coming: list[Future[Shard]], number: int) -> Shard:
        file = folder / f"{first_seed + number * images}.npz"
        if not coming:
            with np.load(file) as kept:
                return Shard(kept["pictures"], kept["fields"])
        done = [future.result() for future in coming]
        shard = Shard(*(np.concatenate([getattr(part, of) for part in done]) for of in ("images", "fields")))
        partial = file.with_name(f".{file.name}")
        np.savez(partial, pictures=shard.images, fields=shard.fields)
        os.replace(partial, file)
        return shard

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin_rendering) as pool:
        coming = start(pool, begin)
        for number in range(begin, count):
            shard = finish(coming, number)
            coming = start(pool, number + 1) if number + 1 < count else []
            yield shard


def _begin_rendering() -> None:
    # Rendering yields to training if both use the same core, but not so much that training must wait for it.
    os.nice(5)
    die_with_parent()
