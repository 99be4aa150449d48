"""Finds handwritten marks in a grey image and makes each look like an MNIST digit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.image_ops import resize

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1
Outline = Any  # (n, 1, 2) int32, as OpenCV wants it
Group = tuple[Rect, list[Outline]]  # a mark to be: its place, and the outlines of its pieces

WORKING_WIDTH = 800  # images wider than this are halved until they are not
TINY = 64  # an image no larger than this is one digit, as in MNIST
PAPER = 200  # value of clean paper once the light is evened out
PAPER_CELLS = 64  # columns of the paper's brightness map
STROKE_CELLS = 9  # dark things narrower than this many cells are on the paper, wider ones are not paper
MIN_CONTRAST, MAX_CONTRAST = 0.2, 0.45  # of ink against paper, to count as ink
DIGIT, FIELD = 20, 28  # MNIST: a digit fits a 20 pixel box, centred by mass in 28
RIM = np.flatnonzero(np.pad(np.zeros((FIELD - 2, FIELD - 2)), 1, constant_values=1))  # places in a flat field
# In a row of digits the next is at most so steeply above or below, its middle so many heights away.
MAX_STEEP, MAX_APART = 1.0, 2.2
MIN_LEAN = 0.05  # radians from which a row is turned upright: the net has learnt more than that
MIN_INK = 0.2  # of a turned digit's darkest, to belong to its box
MAX_PIECES = 40  # looked at more closely; bounds the time that a cluttered image takes
MIN_HEIGHT = 10  # pixels of the working copy; lower marks cannot be read
STROKE = 0.115  # of the digit's size: about MNIST's; thinner pens are made broader
# Round a digit: other dark things, what is left free, and how even that is (standard deviation, paper is 200).
MAX_CLUTTER, MIN_FREE, MAX_SPREAD = 0.1, 0.2, 13.0
MEDIAN_BEND = 1.65  # of the absolute second difference of noise whose standard deviation is 1
SMOOTHING = ((4.0, 1.5), (1.5, 1.0))  # from so much noise (grey levels), blur with that standard deviation (pixels)


@dataclass(frozen=True, slots=True)
class Mark:
    """One connected piece of handwriting, or several that belong together.

    Attributes:
        rect: in the image's pixels, edges exclusive.
        ink: float32 (28, 28), 0 paper to 1 ink, sized and centred as in MNIST.
    """

    rect: tuple[float, float, float, float]
    ink: Floats


def find_marks(gray: Pixels, most: int, aspect: float = 1.0) -> list[Mark]:
    """Digit-like marks, left to right.

    Ruled lines, specks, the paper's border and what lies beside it are left out by shape and surroundings.

    Args:
        gray: uint8 (h, w); dark ink on light paper, or light on a flat dark ground.
        most: at most so many, those nearest to the usual height.
        aspect: width of a pixel by its height, where the image was squeezed.
    """
    if max(gray.shape) <= TINY:
        return _tiny(gray, aspect)
    small, noise = _smoothed(_working_copy(gray))
    rim = _rim(small)
    ground = _middle(rim)
    # No camera sees so flat a ground: this is drawn, and its light needs no evening.
    drawn = float(rim.std()) < 3 and not 64 <= ground < 192
    if drawn and ground < 64:
        small, ground = 255 - small, 255 - ground
    cells = np.full((2, 2), ground, np.uint8) if drawn else _paper_cells(small)
    paper = cv2.resize(cells, small.shape[::-1], interpolation=cv2.INTER_LINEAR)
    even = np.asarray(cv2.divide(small, paper, scale=PAPER), dtype=np.uint8)
    # Otsu's threshold falls between paper and ink; within bounds, for there may be no ink at all.
    otsu, _ = cv2.threshold(even, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    level = min(max(otsu, PAPER * (1 - MAX_CONTRAST)), PAPER * (1 - MIN_CONTRAST))
    dark: Pixels = np.less_equal(even, level).view(np.uint8)
    scale_x, scale_y = gray.shape[1] / small.shape[1], gray.shape[0] / small.shape[0]
    marks = []
    groups = [
        group
        for group in _join(_pieces(dark, cells))
        if _is_on_clean_paper(even, dark, group, _grain(noise, paper, group))
    ]
    groups = _most_usual(groups, most)
    for group, lean in zip(groups, _leans([rect for rect, _ in groups], aspect), strict=True):
        x0, y0, x1, y1 = group[0]
        ink = _mnist(_turned(_ink(even, dark, group), lean, aspect), aspect)
        marks.append(Mark((x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y), ink))
    return marks


def are_whole(fields: Pixels) -> NDArray[np.bool_]:
    """Which of the images (n, 28, 28) are as MNIST's own, to be taken as they are: black rim, something within."""
    flat = fields.reshape(-1, FIELD * FIELD)
    whole: NDArray[np.bool_] = (flat[:, RIM].max(axis=1) == 0) & (flat.max(axis=1) >= 255 * MIN_CONTRAST)
    return whole


def as_ink(fields: Pixels) -> Floats:
    """White on black as ink, 0 to 1."""
    return fields * np.float32(1 / 255)


def _working_copy(gray: Pixels) -> Pixels:
    """The image, halved while it is large: halving is OpenCV's one fast way of averaging all pixels."""
    while gray.shape[1] > WORKING_WIDTH:
        height, width = max(1, gray.shape[0] // 2), gray.shape[1] // 2
        gray = resize(gray[: height * 2, : width * 2], (width, height))
    return gray


def _smoothed(gray: Pixels) -> tuple[Pixels, float]:
    """The image, smoothed as far as its noise asks for, and the standard deviation of the noise that is left."""
    rows = gray[::8].astype(np.int16)
    # The second difference of neighbours knows neither light nor paper, and most of its values no edge.
    bends = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    counts = np.cumsum(np.bincount(bends.ravel(), minlength=1))
    noise = float(np.searchsorted(counts, counts[-1] / 2)) / MEDIAN_BEND
    for least, width in SMOOTHING:
        if noise >= least:
            return np.asarray(cv2.GaussianBlur(gray, (0, 0), width), np.uint8), noise / (2 * math.sqrt(math.pi) * width)
    return gray, noise


def _grain(noise: float, paper: Pixels, group: Group) -> float:
    """Standard deviation of the noise round a mark once the light is evened out: dim paper shows more of it."""
    x0, y0, x1, y1 = group[0]
    return noise * PAPER / max(1, int(paper[(y0 + y1) // 2, (x0 + x1) // 2]))


def _rim(gray: Pixels) -> Pixels:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _middle(values: Pixels) -> int:
    """The median, in a tenth of the time that NumPy's takes."""
    ordered = np.sort(values)
    return (int(ordered[len(values) // 2]) + int(ordered[(len(values) - 1) // 2])) // 2


def _tiny(gray: Pixels, aspect: float) -> list[Mark]:
    """All that differs from the rim of a tiny image, as one mark."""
    if gray.shape == (FIELD, FIELD) and are_whole(gray[None]).all():
        return [Mark((0, 0, FIELD, FIELD), as_ink(gray))]
    ground = _middle(_rim(gray))
    difference = np.maximum(gray, ground) - ground if ground < 128 else ground - np.minimum(gray, ground)
    peak = int(difference.max())
    if peak < 255 * MIN_CONTRAST:
        return []
    x, y, w, h = cv2.boundingRect((difference > peak // 16).astype(np.uint8))
    ink = difference[y : y + h, x : x + w].astype(np.float32) * np.float32(1 / peak)
    return [Mark((x, y, x + w, y + h), _mnist(ink, aspect))]


def _paper_cells(gray: Pixels) -> Pixels:
    """Brightness of the paper on a coarse grid: dark strokes are closed, wide dark things stay."""
    height, width = gray.shape
    rows = max(2, round(PAPER_CELLS * height / width))
    cells = cv2.resize(gray, (PAPER_CELLS, rows), interpolation=cv2.INTER_AREA)
    cells = cv2.morphologyEx(cells, cv2.MORPH_CLOSE, np.ones((STROKE_CELLS, STROKE_CELLS), np.uint8))
    return np.asarray(cv2.blur(cells, (3, 3)), dtype=np.uint8)


def _pieces(dark: Pixels, cells: Pixels) -> list[Group]:
    """The connected dark pieces that could be a digit or a part of one."""
    height, width = dark.shape
    per_cell = width / cells.shape[1]
    least = max(MIN_HEIGHT, 0.045 * height)
    # CCOMP's first level holds the outlines of all pieces, also of those that lie in a hole of another.
    outlines, hierarchy = cv2.findContours(dark, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found: list[Group] = []
    for i, outline in enumerate(outlines):
        if len(outline) < 4 or hierarchy[0, i, 3] >= 0:
            continue
        x, y, w, h = cv2.boundingRect(outline)
        if not (least <= max(w, h) < 0.9 * height and w < 0.8 * width):
            continue
        if x == 0 or y == 0 or x + w == width or y + h == height:
            continue
        if cv2.countNonZero(dark[y : y + h, x : x + w]) < 0.03 * max(w, h) ** 2:
            continue
        left, top = max(0, int(x / per_cell) - 1), max(0, int(y / per_cell) - 1)
        around = cells[top : int((y + h) / per_cell) + 2, left : int((x + w) / per_cell) + 2]
        # Beside the paper's border one side is much darker than the other.
        if around.min() > 0.5 * around.max():
            found.append(((x, y, x + w, y + h), [outline]))
    found.sort(key=_height, reverse=True)
    return found[:MAX_PIECES]


def _join(pieces: list[Group]) -> list[Group]:
    """Pieces above one another and close, such as a 5 and its bar, as one group."""
    groups: list[Group] = []
    for rect, outlines in sorted(pieces, key=lambda piece: piece[0]):
        for k, (other, others) in enumerate(groups):
            overlap = min(rect[2], other[2]) - max(rect[0], other[0])
            gap = max(rect[1], other[1]) - min(rect[3], other[3])
            taller = max(rect[3] - rect[1], other[3] - other[1])
            narrower = min(rect[2] - rect[0], other[2] - other[0])
            if overlap > 0.5 * narrower and gap < 0.2 * taller:
                groups[k] = _union(rect, other), others + outlines
                break
        else:
            groups.append((rect, outlines))
    return groups


def _most_usual(groups: list[Group], most: int) -> list[Group]:
    """Groups upright and tall enough to be digits among these, at most so many, left to right."""
    if not groups:
        return []
    tallest = max(_height(group) for group in groups)
    kept = [
        group
        for group in groups
        if _height(group) >= max(MIN_HEIGHT, 0.4 * tallest, 0.35 * (group[0][2] - group[0][0]))
    ]
    if len(kept) > most:
        usual = float(np.median([_height(group) for group in kept]))
        kept = sorted(kept, key=lambda group: abs(_height(group) - usual))[:most]
    return sorted(kept, key=lambda group: group[0][0] + group[0][2])


def _is_on_clean_paper(even: Pixels, dark: Pixels, group: Group, grain: float) -> bool:
    """Whether the mark stands by itself on an even ground, as ink does and most things in a room do not.

    `grain` is the standard deviation of the noise on that ground.
    """
    (x0, y0, x1, y1), outlines = group
    margin = max(3, round(0.15 * max(x1 - x0, y1 - y0)))
    left, top = max(0, x0 - margin), max(0, y0 - margin)
    darkness, ground = dark[top : y1 + margin, left : x1 + margin], even[top : y1 + margin, left : x1 + margin]
    if cv2.countNonZero(darkness) - _area(darkness, outlines, left, top) > MAX_CLUTTER * darkness.size:
        return False
    free = 1 - cv2.dilate(darkness, np.ones((5, 5), np.uint8))
    if cv2.countNonZero(free) < MIN_FREE * free.size:
        return False
    _, spread = cv2.meanStdDev(ground, mask=free)
    return float(spread[0, 0]) < math.hypot(MAX_SPREAD, 1.5 * grain)


def _area(darkness: Pixels, outlines: list[Outline], left: int, top: int) -> int:
    return cv2.countNonZero(darkness & _mask(darkness.shape, outlines, left, top))


def _mask(shape: tuple[int, ...], outlines: list[Outline], left: int, top: int) -> Pixels:
    """1 within the outlines, of a window whose corner is (left, top)."""
    mask: Pixels = np.zeros(shape, np.uint8)
    cv2.drawContours(mask, outlines, -1, (1,), cv2.FILLED, offset=(-left, -top))
    return mask


def _leans(rects: list[Rect], aspect: float) -> list[float]:
    """By how many radians the row of each mark falls to the right; 0 of a mark that stands alone.

    Args:
        rects: left to right.
        aspect: width of a pixel by its height.
    """
    rows: list[list[int]] = []
    places = [((x0 + x1) / 2 * aspect, (y0 + y1) / 2, y1 - y0) for x0, y0, x1, y1 in rects]
    for mark, (x, y, tall) in enumerate(places):
        near = {}
        for row in rows:
            before_x, before_y, other = places[row[-1]]
            apart = math.hypot(x - before_x, y - before_y)
            if abs(y - before_y) < MAX_STEEP * (x - before_x) and apart < MAX_APART * (tall + other) / 2:
                near[apart] = row
        if near:
            near[min(near)].append(mark)
        else:
            rows.append([mark])
    leans = [0.0] * len(rects)
    for row in rows:
        x, y, _ = np.array([places[mark] for mark in row]).T
        across = x - x.mean()
        lean = math.atan2(float(across @ y), float(across @ across))
        for mark in row:
            leans[mark] = lean
    return leans


def _turned(ink: Floats, lean: float, aspect: float) -> Floats:
    """Ink that leans by so many radians, turned upright and cut close; less than the net minds is left."""
    if abs(lean) < MIN_LEAN:
        return ink
    height, width = ink.shape
    side = math.ceil(math.hypot(height, width))
    cosine, sine = math.cos(lean), math.sin(lean)
    way = np.array([[cosine, -sine / aspect], [sine * aspect, cosine]])
    start = np.array([width - 1, height - 1]) / 2 - way @ np.full(2, (side - 1) / 2)
    turned = cv2.warpAffine(
        ink, np.column_stack([way, start]), (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    x, y, w, h = cv2.boundingRect((turned >= MIN_INK * turned.max()).astype(np.uint8))
    return np.asarray(turned[y : y + h, x : x + w], np.float32)


def _ink(even: Pixels, dark: Pixels, group: Group) -> Floats:
    """Ink from 0 to 1 of one mark, its neighbours and the ruling masked away, its stroke no thinner than MNIST's."""
    (x0, y0, x1, y1), outlines = group
    mask = _mask((y1 - y0, x1 - x0), outlines, x0, y0)
    inked = mask & dark[y0:y1, x0:x1]
    near = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), dtype=np.uint8)
    depth: Pixels = (PAPER - np.minimum(even[y0:y1, x0:x1], PAPER)) * near
    full = np.float32(max(1.0, 1.1 * cv2.mean(depth, inked)[0]))
    # Twice MNIST's size keeps all that the net will see, and the steps below cheap.
    scale = min(1.0, 2 * DIGIT / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    ink = np.minimum(resize(depth, size).astype(np.float32) / full, 1.0)
    # A stroke's area is its length times its width, and its outline is twice its length.
    length = sum(cv2.arcLength(outline, True) for outline in outlines) / 2
    thin = STROKE * max(mask.shape) - cv2.countNonZero(inked) / max(1.0, length)
    grow = round(thin * scale / 2)
    if grow > 0:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
        ink = cv2.dilate(np.pad(ink, grow), kernel)
    return np.asarray(ink, dtype=np.float32)


def _mnist(ink: Floats, aspect: float) -> Floats:
    """Ink of any size, its pixels `aspect` as wide as high, scaled into a 20 pixel box and centred by mass in 28."""
    height, width = ink.shape
    scale = DIGIT / max(height, width * aspect)
    wide, tall = max(1, round(width * aspect * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    digit = cv2.resize(ink, (wide, tall), interpolation=way).reshape(tall, wide)
    field = np.zeros((FIELD, FIELD), np.float32)
    x, y = _offset(digit.sum(axis=0)), _offset(digit.sum(axis=1))
    field[y : y + tall, x : x + wide] = digit
    return field


def _offset(profile: Floats) -> int:
    """Where a profile of ink starts so that its centre of mass is the field's."""
    centre = float(profile @ np.arange(len(profile))) / max(float(profile.sum()), 1e-6) + 0.5
    return min(max(round(FIELD / 2 - centre), 0), FIELD - len(profile))


def _height(group: Group) -> int:
    return group[0][3] - group[0][1]


def _union(a: Rect, b: Rect) -> Rect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
