"""Generates pictures that show none of a data set's classes, to learn and to measure rejection.

Most kinds take their colours and textures from the data set's own pictures, so that a net cannot recognise them by
the looks of a drawing: only the objects are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np

from camapp.core.arrays import Floats, Pixels
from camapp.scenes.digits import DigitScene
from camapp.scenes.objects import ObjectScene
from camapp.scenes.scene import Scene, SceneOptions
from weights.datasets import Images

Rng = np.random.Generator

# Supersampling factor of outlines.
FINE = 4
# Size of the scenes from which parts are cut, and number of different ones.
SCENE_SIZE, SCENES = (320, 240), 24


def outliers(images: Images, count: int, seed: int, near: float = 0.0) -> Pixels:
    """Return `count` pictures, uint8 (count, C, H, W), without the things that `images` (N, C, H, W) show.

    Args:
        near: share of pictures that hold large parts of such things, and no whole one.
    """
    rng = np.random.default_rng([seed, 19])
    source = images.images.transpose(0, 2, 3, 1)
    mixed = [
        (kind, part * share / sum(kinds.values()))
        for kinds, part in ((KINDS, 1 - near), (NEAR, near))
        for kind, share in kinds.items()
    ]
    chosen = rng.choice(len(mixed), count, p=[share for _, share in mixed])
    made = [_as_taken(mixed[number][0](source, rng), rng) for number in chosen]
    return np.ascontiguousarray(np.stack(made).transpose(0, 3, 1, 2))


def _part(source: Pixels, rng: Rng) -> Floats:
    """Return a small part of a picture, enlarged: a texture, or a piece of a thing."""
    return _texture(source, rng, 0.12, 0.35)


def _jumble(source: Pixels, rng: Rng) -> Floats:
    """Return parts of several pictures, or of one in a wrong order, in a grid."""
    _, height, width, channels = source.shape
    cells = int(rng.integers(3, 6))
    one = _some(source, rng) if rng.random() < 0.5 else None
    out = np.empty((height, width, channels), np.float32)
    rows, columns = (np.linspace(0, side, cells + 1).astype(int) for side in (height, width))
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(columns):
            picture = _some(source, rng) if one is None else one
            y, x = rng.integers(0, height - (y1 - y0) + 1), rng.integers(0, width - (x1 - x0) + 1)
            out[y0:y1, x0:x1] = picture[y : y + y1 - y0, x : x + x1 - x0]
    return _soft(out, rng) if rng.random() < 0.5 else out


def _thing(source: Pixels, rng: Rng) -> Floats:
    """Return a thing of random outline, colour and texture before a ground taken from pictures."""
    height, width = source.shape[1:3]
    out = _ground(source, rng)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        inside = random_outline((height, width), rng)[..., None]
        body = _surface(source, rng)
        # Light from one side makes it round.
        across = np.linspace(-1, 1, width)[None, :, None] * rng.normal(0, 0.3)
        down = np.linspace(-1, 1, height)[:, None, None] * rng.normal(0, 0.3)
        out = out * (1 - inside) + np.clip(body * (1 + across + down), 0, 255) * inside
    return np.asarray(out, np.float32)


def _warped(source: Pixels, rng: Rng) -> Floats:
    """Return a picture whose shapes are bent beyond recognition."""
    picture = _some(source, rng)
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(2):
        (a, b, c, d), turn = rng.uniform(0.5, 2.5, 4) * 2 * np.pi / np.array([height, width] * 2), rng.uniform(0, 6, 2)
        reach = rng.uniform(0.12, 0.3) * min(height, width)
        x, y = (
            (x + reach * np.sin(a * y + b * x + turn[0])).astype(np.float32),
            (y + reach * np.sin(c * y + d * x + turn[1])).astype(np.float32),
        )
    return _three(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _ghost(source: Pixels, rng: Rng) -> Floats:
    """Return two pictures laid over one another, one of them upside down."""
    share = rng.uniform(0.4, 0.6)
    return share * _some(source, rng) + (1 - share) * _some(source, rng)[::-1]


def _haze(source: Pixels, rng: Rng) -> Floats:
    """Return a picture so blurred that only its colours are left."""
    picture = _some(source, rng)
    return _three(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.15, 0.4) * min(picture.shape[:2])))


def _pattern(source: Pixels, rng: Rng) -> Floats:
    """Return noise of one scale or several, stripes, or a plain or shaded colour."""
    height, width, channels = source.shape[1:]
    size = np.array([height, width])
    kind = rng.integers(4)
    low, high = rng.uniform(0, 255, (2, channels))
    if kind == 0:
        field = rng.random((height, width, channels if rng.random() < 0.5 else 1))
    elif kind == 1:
        coarse = [rng.random((n + 1, n + 1)).astype(np.float32) / n for n in (2, 4, 8, 16)]
        field = np.sum([_three(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)) for part in coarse], 0)
        field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    elif kind == 2:
        waves = rng.uniform(1, 8, 2) / size
        field = np.sin(2 * np.pi * (np.arange(height)[:, None] * waves[0] + np.arange(width) * waves[1]))[..., None]
        field = (field > 0) if rng.random() < 0.5 else (field + 1) / 2
    else:
        field = (np.linspace(0, 1, height)[:, None] * rng.random() + np.linspace(0, 1, width) * rng.random())[..., None]
        field = field * rng.choice([0, 1])
    return np.asarray(low + (high - low) * field, np.float32)


def _scene(source: Pixels, rng: Rng) -> Floats:
    """Return a part of one of the application's own scenes."""
    height, width, channels = source.shape[1:]
    pixels = _rendered(int(rng.integers(SCENES)))
    side = int(rng.integers(min(height, width), min(pixels.shape[:2]) + 1))
    y, x = rng.integers(0, pixels.shape[0] - side + 1), rng.integers(0, pixels.shape[1] - side + 1)
    small = cv2.resize(pixels[y : y + side, x : x + side], (width, height), interpolation=cv2.INTER_AREA)
    return _three(small if channels == 3 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))


_scenes: dict[int, Pixels] = {}


def _rendered(number: int) -> Pixels:
    if number not in _scenes:
        options = SceneOptions(size=SCENE_SIZE, seed=1000 + number)
        scene: Scene = ObjectScene(options) if number % 2 else DigitScene(options)
        _scenes[number] = scene.render(37 * number)[0]
    return _scenes[number]


def _halves(source: Pixels, rng: Rng) -> Floats:
    """Return one side of a picture and the other side of another one, along a straight border."""
    height, width = source.shape[1:3]
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width] / np.float32(max(height, width)) - 0.5
    beyond = np.cos(turn) * x + np.sin(turn) * y + rng.uniform(-0.1, 0.1)
    share = np.clip(beyond / rng.uniform(0.02, 0.12) + 0.5, 0, 1)[..., None]
    return np.asarray((1 - share) * _some(source, rng) + share * _some(source, rng), np.float32)


def _inset(source: Pixels, rng: Rng) -> Floats:
    """Return a picture with a large part of another one over its middle."""
    out, other = _some(source, rng).copy(), _some(source, rng)
    height, width = out.shape[:2]
    tall, wide = (int(side * rng.uniform(0.45, 0.7)) for side in (height, width))
    y, x = (
        int(rng.integers(side // 16, side - part - side // 16 + 1)) for side, part in ((height, tall), (width, wide))
    )
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    out[y : y + tall, x : x + wide] = other[top : top + tall, left : left + wide]
    return out


def _jigsaw(source: Pixels, rng: Rng) -> Floats:
    """Return the 2x2 or 4x4 parts of a picture in a wrong order."""
    picture = _some(source, rng)
    cells = int(rng.choice([2, 2, 4]))
    tall, wide = (side // cells for side in picture.shape[:2])
    places = [(tall * row, wide * column) for row in range(cells) for column in range(cells)]
    order = rng.permutation(len(places))
    out = picture.copy()
    for into, of in zip(order, np.roll(order, 1), strict=True):
        (y, x), (top, left) = places[into], places[of]
        out[y : y + tall, x : x + wide] = picture[top : top + tall, left : left + wide]
    return out


def _ground(source: Pixels, rng: Rng) -> Floats:
    """Return a background: an enlarged part, a blurred picture, or a colour."""
    kind = rng.random()
    if kind < 0.45:
        return _texture(source, rng, 0.15, 0.5)
    return _haze(source, rng) if kind < 0.75 else _pattern(source, rng)


def _surface(source: Pixels, rng: Rng) -> Floats:
    """Return the look of a thing: a texture, or a plain or shaded colour."""
    return _texture(source, rng, 0.1, 0.4) if rng.random() < 0.5 else _pattern(source, rng)


def _texture(source: Pixels, rng: Rng, low: float, high: float) -> Floats:
    height, width = source.shape[1:3]
    picture = _some(source, rng)
    share = rng.uniform(low, high)
    tall, wide = max(3, round(share * height)), max(3, round(share * width))
    y, x = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    part = np.rot90(picture[y : y + tall, x : x + wide], int(rng.integers(4)))
    return _three(cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_CUBIC))


def random_outline(size: tuple[int, int], rng: Rng) -> Floats:
    """Return a mask (H, W), 0 to 1, of a random shape: a blob, a polygon, a bar or a ring, or some joined."""
    height, width = size
    mask = np.zeros((height * FINE, width * FINE), np.uint8)
    side = min(mask.shape)
    middle = np.array(mask.shape[::-1]) * rng.uniform(0.3, 0.7, 2)
    for _ in range(int(rng.integers(1, 4))):
        radius, turn, squeeze = side * rng.uniform(0.12, 0.42), rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1)
        corners = int(rng.choice([3, 4, 4, 5, 6, 64, 64]))
        angles = 2 * np.pi * np.arange(corners) / corners
        reach = np.ones(corners)
        if corners == 64:
            for wave in range(2, 6):
                reach += rng.normal(0, 0.5 / wave) * np.cos(wave * angles + rng.uniform(0, 6))
        points = np.column_stack([np.cos(angles), squeeze * np.sin(angles)]) * np.abs(reach)[:, None]
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shape = np.rint(middle + radius * points @ rotation).astype(np.int32)
        if rng.random() < 0.8:
            cv2.fillPoly(mask, [shape], (255,))
        else:
            cv2.polylines(mask, [shape], True, (255,), int(side * rng.uniform(0.03, 0.12)))
        middle = middle + radius * rng.uniform(-1, 1, 2)
    return _three(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA))[..., 0] / 255


def _some(source: Pixels, rng: Rng) -> Floats:
    picture = source[rng.integers(len(source))]
    return np.asarray(picture[:, ::-1] if rng.random() < 0.5 else picture, np.float32)


def _soft(picture: Floats, rng: Rng) -> Floats:
    return _three(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.2)))


def _three(picture: Floats) -> Floats:
    """Restore the axis of channels that OpenCV drops if there is one."""
    picture = np.asarray(picture, np.float32)
    return picture if picture.ndim == 3 else picture[..., None]


def _as_taken(picture: Floats, rng: Rng) -> Pixels:
    """Vary the exposure, and soften some as a lens does."""
    if rng.random() < 0.3:
        picture = _soft(picture, rng)
    picture = (picture - 127.5) * rng.uniform(0.7, 1.15) + 127.5 + rng.normal(0, 15)
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


# Share of each kind.
KINDS: dict[Callable[[Pixels, Rng], Floats], float] = {
    _part: 2.0,
    _jumble: 1.5,
    _thing: 4.0,
    _warped: 1.5,
    _ghost: 1.0,
    _haze: 0.5,
    _pattern: 0.5,
    _scene: 0.5,
}
# The same for those with large parts of the data set's own things.
NEAR: dict[Callable[[Pixels, Rng], Floats], float] = {_halves: 1.0, _inset: 1.0, _jigsaw: 1.0}
