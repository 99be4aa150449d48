"""Generates marks that are no digits, as the application cuts them out of pictures without digits."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from camapp.core.arrays import Floats, Pixels
from camapp.core.image import Image, Layout
from camapp.scenes.objects import ObjectScene
from camapp.scenes.scene import SceneOptions
from camapp.tasks.digit_segmentation import find_marks
from camapp.tasks.digits import DigitsTask
from weights.datasets import Images
from weights.outliers import outliers, random_outline

Rng = np.random.Generator

SIZE = (640, 480)
# Share of the marks that come from whole pictures; the others are made of parts of digits.
CUT_OUT = 0.7
# One picture in this many is a scene of the application.
SCENE_EVERY = 6
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabdefghkmnpqrtuvwxy?!&@#%$+=*<>/"
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)


def false_marks(digits: Images, count: int, seed: int) -> Pixels:
    """Return `count` marks, uint8 (count, 1, 28, 28), white on black; `digits` are MNIST's."""
    rng = np.random.default_rng([seed, 23])
    wanted = round(CUT_OUT * count)
    cut: list[Pixels] = []
    for picture in pictures(rng):
        marks = find_marks(picture, DigitsTask.max_items, anywhere=True)
        cut += [np.rint(255 * mark.ink).astype(np.uint8)[None] for mark in marks]
        if len(cut) >= wanted:
            break
    return np.concatenate([np.stack(cut[:wanted]), outliers(digits, count - wanted, seed)])


def pictures(rng: Rng) -> Iterator[Pixels]:
    """Yield grey pictures (480, 640) of a room's kind, without digits, for ever."""
    number = 0
    while True:
        number += 1
        if number % SCENE_EVERY:
            yield _cluttered(rng)
        else:
            seed = int(rng.integers(1 << 30))
            scene = ObjectScene(SceneOptions(size=SIZE, seed=seed, count=int(rng.integers(1, 9))))
            # The scene has a frame counter and a chart at the bottom.
            pixels = Image.of(scene.render(seed % 300)[0], Layout.RGB).gray()
            yield np.ascontiguousarray(np.concatenate([pixels[:340], pixels[200:340][::-1]]))


def _cluttered(rng: Rng) -> Pixels:
    """Return a ground in uneven light with things of any shape and brightness, and letters."""
    width, height = SIZE
    image = _shaded(rng.uniform(40, 250), rng)
    for _ in range(int(rng.integers(0, 5))):
        # Walls, tables and shadows.
        inside = random_outline((height // 4, width // 4), rng)
        image += cv2.resize(inside, SIZE) * np.float32(rng.normal(0, 40))
    for _ in range(int(rng.integers(3, 16))):
        side = int(np.exp(rng.uniform(np.log(30), np.log(300))))
        x, y = int(rng.integers(0, width - side // 2)), int(rng.integers(0, height - side // 2))
        window = image[y : y + side, x : x + side]
        inside = random_outline((side, side), rng) if rng.random() < 0.7 else _letter(side, rng)
        inside = inside[: window.shape[0], : window.shape[1]]
        tone = rng.uniform(0, 90) if rng.random() < 0.7 else rng.uniform(90, 255)
        window += inside * (np.float32(tone) + _shaded(0, rng)[: window.shape[0], : window.shape[1]] - window)
    if rng.random() < 0.7:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    image += np.float32(rng.uniform(0, 6)) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _shaded(level: float, rng: Rng) -> Floats:
    """Return a ground of this mean grey level that is brighter on one side."""
    width, height = SIZE
    across, down = rng.normal(0, 25, 2)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    return np.asarray(level + across * x[None] + down * y[:, None], np.float32)


def _letter(side: int, rng: Rng) -> Floats:
    """Return a mask (side, side), 0 to 1, of a letter or sign, turned and as wide as a pen or a brush."""
    mask = np.zeros((side, side), np.uint8)
    text, font = LETTERS[rng.integers(len(LETTERS))], FONTS[rng.integers(len(FONTS))]
    thick = max(1, int(side * rng.uniform(0.03, 0.12)))
    (wide, tall), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = 0.7 * side / max(wide, tall)
    at = int((side - wide * scale) / 2), int((side + tall * scale) / 2)
    cv2.putText(mask, text, at, font, scale, (255,), thick, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-180, 180), 1.0)
    return np.asarray(cv2.warpAffine(mask, turn, (side, side)), np.float32) / 255
