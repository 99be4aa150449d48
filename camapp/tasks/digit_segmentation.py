"""Finds handwritten marks in a grey image and normalises each to the form of an MNIST digit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats, Pixels
from camapp.core.image_ops import resize
from camapp.tasks.mark_evidence import PAPER, is_handwriting, look_of

# x0, y0, x1, y1
Rect = tuple[int, int, int, int]
# (n, 1, 2) int32, the form that OpenCV uses
Outline = Any
# A candidate: its rectangle, and the outlines of its pieces.
Group = tuple[Rect, list[Outline]]

# Wider images are halved until they fit.
WORKING_WIDTH = 800
# An image up to this size in pixels is one digit, as in MNIST.
TINY = 64
# Columns of the paper's brightness map.
PAPER_CELLS = 64
# Dark areas narrower than this many cells are on the paper; wider ones are not paper.
STROKE_CELLS = 9
# Contrast of ink against paper.
MIN_CONTRAST, MAX_CONTRAST = 0.2, 0.45
# MNIST: a digit fits a box of 20 pixels, centred by mass in 28.
DIGIT, FIELD = 20, 28
# Maximum difference in pixels of a digit's size from MNIST's, in an enlarged or bordered image of MNIST.
SAME_SIZE = 1.5
# Indices of the border pixels in a flat field.
RIM = np.flatnonzero(np.pad(np.zeros((FIELD - 2, FIELD - 2)), 1, constant_values=1))
# Grey level below which a pixel of MNIST's border counts as dark, and minimum share of such pixels.
MAX_RIM, MIN_DARK_RIM = 48, 0.9
# In a row of digits: maximum slope to the next one, and maximum distance of their centres in digit heights.
MAX_SLOPE, MAX_DISTANCE = 1.0, 2.2
# A row is turned upright from this angle on, in radians; the net was trained on larger angles.
MIN_LEAN = 0.05
# Minimum ink, as a share of the darkest, of a pixel in the box of a turned digit.
MIN_INK = 0.2
# Maximum number of pieces examined: bounds the time for a cluttered image.
MAX_PIECES = 40
# Minimum height in pixels of the working copy; lower marks cannot be read.
MIN_HEIGHT = 10
# Stroke width as a share of the digit's size, about that of MNIST; thinner strokes are broadened.
STROKE = 0.115
# Around a digit: maximum share of other dark pixels, minimum free share, and maximum standard deviation there
# (paper is 200).
MAX_CLUTTER, MIN_FREE, MAX_SPREAD = 0.1, 0.2, 13.0
# Median of the absolute second difference of noise with standard deviation 1.
MEDIAN_DIFFERENCE = 1.65
# (noise in grey levels, standard deviation in pixels of the blur that is used from this noise on)
SMOOTHING = ((4.0, 1.5), (1.5, 1.0))


@dataclass(frozen=True, slots=True)
class Mark:
    """One piece of handwriting, or several that belong together, in `rect`: pixels of the image, edges exclusive.

    `ink` is float32 (28, 28), 0 paper to 1 ink, sized and centred as in MNIST; `look` is that of `mark_evidence`, ()
    for a tiny image.
    """

    rect: tuple[float, float, float, float]
    ink: Floats
    look: tuple[float, ...] = ()


def find_marks(gray: Pixels, limit: int, aspect: float = 1.0, anywhere: bool = False) -> list[Mark]:
    """Return at most `limit` digit-like marks, left to right; those closest to the median height are kept.

    Ruled lines, specks, the border of the paper and things beside it are rejected by their shape and surroundings.
    `gray`, uint8 (h, w), has dark ink on light paper, or light ink on a flat dark ground; `aspect` is the ratio of a
    pixel's width to its height, if the image was squeezed. With `anywhere`, marks need not look like handwriting.
    """
    if max(gray.shape) <= TINY:
        return _tiny(gray, aspect)
    small, noise = _smoothed(_working_copy(gray))
    rim = _rim(small)
    ground = _middle(rim)
    # No camera image has such a flat ground: this is a drawing, and its light needs no correction.
    drawn = float(rim.std()) < 3 and not 64 <= ground < 192
    if drawn and ground < 64:
        small, ground = 255 - small, 255 - ground
    cells = np.full((2, 2), ground, np.uint8) if drawn else _paper_cells(small)
    paper = cv2.resize(cells, small.shape[::-1], interpolation=cv2.INTER_LINEAR)
    even = np.asarray(cv2.divide(small, paper, scale=PAPER), dtype=np.uint8)
    # Otsu's threshold lies between paper and ink; it is clipped, since there may be no ink at all.
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
    judged = [(group, _look(even, dark, group)) for group in _plausible_digits(groups, limit)]
    judged = [(group, look) for group, look in judged if anywhere or is_handwriting(look)]
    groups = [group for group, _ in judged]
    looks = [look for _, look in judged]
    for group, look, lean in zip(groups, looks, _leans([rect for rect, _ in groups], aspect), strict=True):
        x0, y0, x1, y1 = group[0]
        ink = _mnist(_turned(_ink(even, dark, group), lean, aspect), aspect)
        marks.append(Mark((x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y), ink, look))
    return marks


def _look(even: Pixels, dark: Pixels, group: Group) -> tuple[float, ...]:
    (x0, y0, x1, y1), outlines = group
    mask = _mask((y1 - y0, x1 - x0), outlines, x0, y0)
    return look_of(even, dark, mask & dark[y0:y1, x0:x1], group[0])


def are_whole(fields: Pixels) -> NDArray[np.bool_]:
    """Return which images (n, 28, 28) have the form of MNIST images: a dark border, and not empty.

    JPEG leaves noise on the border, and some digits touch it.
    """
    flat = fields.reshape(-1, FIELD * FIELD)
    rim = flat[:, RIM]
    dark = (rim < MAX_RIM).mean(axis=1) > MIN_DARK_RIM
    whole: NDArray[np.bool_] = dark & (rim.mean(axis=1) < MAX_RIM / 4) & (flat.max(axis=1) >= 255 * MIN_CONTRAST)
    return whole


def as_ink(fields: Pixels) -> Floats:
    """Convert white on black to ink, 0 to 1."""
    return fields * np.float32(1 / 255)


def _working_copy(gray: Pixels) -> Pixels:
    """Halve the image until it is small: halving is the only fast way in OpenCV to average all pixels."""
    while gray.shape[1] > WORKING_WIDTH:
        height, width = max(1, gray.shape[0] // 2), gray.shape[1] // 2
        gray = resize(gray[: height * 2, : width * 2], (width, height))
    return gray


def _smoothed(gray: Pixels) -> tuple[Pixels, float]:
    """Smooth the image according to its noise; return it and the standard deviation of the remaining noise."""
    rows = gray[::8].astype(np.int16)
    # The second difference of neighbours is independent of light and paper, and most of its values of edges.
    differences = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    counts = np.cumsum(np.bincount(differences.ravel(), minlength=1))
    noise = float(np.searchsorted(counts, counts[-1] / 2)) / MEDIAN_DIFFERENCE
    for threshold, width in SMOOTHING:
        if noise >= threshold:
            return np.asarray(cv2.GaussianBlur(gray, (0, 0), width), np.uint8), noise / (2 * math.sqrt(math.pi) * width)
    return gray, noise


def _grain(noise: float, paper: Pixels, group: Group) -> float:
    """Return the standard deviation of the noise around a mark after evening: dim paper has more of it."""
    x0, y0, x1, y1 = group[0]
    return noise * PAPER / max(1, int(paper[(y0 + y1) // 2, (x0 + x1) // 2]))


def _rim(gray: Pixels) -> Pixels:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _middle(values: Pixels) -> int:
    """Return the median, in a tenth of the time of np.median."""
    ordered = np.sort(values)
    return (int(ordered[len(values) // 2]) + int(ordered[(len(values) - 1) // 2])) // 2


def _tiny(gray: Pixels, aspect: float) -> list[Mark]:
    """Return everything that differs from the border of a tiny image as one mark: as it is, if it is sized as MNIST."""
    if gray.shape == (FIELD, FIELD) and are_whole(gray[None]).all():
        return [Mark((0, 0, FIELD, FIELD), as_ink(gray))]
    ground = _middle(_rim(gray))
    light, ground = (gray, ground) if ground < 128 else (255 - gray, 255 - ground)
    difference = np.maximum(light, ground) - ground
    peak = int(difference.max())
    if peak < 255 * MIN_CONTRAST:
        return []
    # JPEG leaves noise beside the strokes; what is faint counts beside ink only.
    near = cv2.dilate((difference > peak // 4).astype(np.uint8), np.ones((3, 3), np.uint8))
    difference = np.asarray(difference * near, np.uint8)
    x, y, w, h = cv2.boundingRect((difference > peak // 16).astype(np.uint8))
    for x0, y0, side in _mnist_windows(gray.shape, (x, y, w, h)):
        field = resize(light[y0 : y0 + side, x0 : x0 + side], (FIELD, FIELD))
        if are_whole(field[None]).all():
            return [Mark((x0, y0, x0 + side, y0 + side), as_ink(field))]
    ink = difference[y : y + h, x : x + w].astype(np.float32) * np.float32(1 / peak)
    return [Mark((x, y, x + w, y + h), _mnist(ink, aspect))]


def _mnist_windows(shape: tuple[int, ...], ink: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield (x, y, side) of squares that show the ink, (x, y, w, h), as MNIST does: a border around it, or enlarged."""
    height, width = shape
    x, y, w, h = ink
    x0, y0 = (width - FIELD) // 2, (height - FIELD) // 2
    inside = x0 <= x and y0 <= y and x + w <= x0 + FIELD and y + h <= y0 + FIELD
    if shape == (FIELD, FIELD) or (min(x0, y0) >= 0 and inside and abs(max(w, h) - DIGIT) < SAME_SIZE):
        yield x0, y0, FIELD
    if width == height and abs(max(w, h) * FIELD / width - DIGIT) < SAME_SIZE:
        yield 0, 0, width


def _paper_cells(gray: Pixels) -> Pixels:
    """Return the brightness of the paper on a coarse grid: dark strokes are closed, wide dark areas stay."""
    height, width = gray.shape
    rows = max(2, round(PAPER_CELLS * height / width))
    cells = cv2.resize(gray, (PAPER_CELLS, rows), interpolation=cv2.INTER_AREA)
    cells = cv2.morphologyEx(cells, cv2.MORPH_CLOSE, np.ones((STROKE_CELLS, STROKE_CELLS), np.uint8))
    return np.asarray(cv2.blur(cells, (3, 3)), dtype=np.uint8)


def _pieces(dark: Pixels, cells: Pixels) -> list[Group]:
    """Return the connected dark pieces that may be a digit or a part of one."""
    height, width = dark.shape
    per_cell = width / cells.shape[1]
    min_size = max(MIN_HEIGHT, 0.045 * height)
    # The first level of CCOMP has the outlines of all pieces, also of those inside a hole of another.
    outlines, hierarchy = cv2.findContours(dark, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found: list[Group] = []
    for i, outline in enumerate(outlines):
        if len(outline) < 4 or hierarchy[0, i, 3] >= 0:
            continue
        x, y, w, h = cv2.boundingRect(outline)
        if not (min_size <= max(w, h) < 0.9 * height and w < 0.8 * width):
            continue
        if x == 0 or y == 0 or x + w == width or y + h == height:
            continue
        if cv2.countNonZero(dark[y : y + h, x : x + w]) < 0.03 * max(w, h) ** 2:
            continue
        left, top = max(0, int(x / per_cell) - 1), max(0, int(y / per_cell) - 1)
        around = cells[top : int((y + h) / per_cell) + 2, left : int((x + w) / per_cell) + 2]
        # At the border of the paper one side is much darker than the other.
        if around.min() > 0.5 * around.max():
            found.append(((x, y, x + w, y + h), [outline]))
    found.sort(key=_height, reverse=True)
    return found[:MAX_PIECES]


def _join(pieces: list[Group]) -> list[Group]:
    """Join pieces that lie closely above one another, such as a 5 and its bar."""
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


def _plausible_digits(groups: list[Group], limit: int) -> list[Group]:
    """Return at most `limit` groups that are upright and tall enough to be digits, left to right."""
    if not groups:
        return []
    tallest = max(_height(group) for group in groups)
    kept = [
        group
        for group in groups
        if _height(group) >= max(MIN_HEIGHT, 0.4 * tallest, 0.35 * (group[0][2] - group[0][0]))
    ]
    if len(kept) > limit:
        median = float(np.median([_height(group) for group in kept]))
        kept = sorted(kept, key=lambda group: abs(_height(group) - median))[:limit]
    return sorted(kept, key=lambda group: group[0][0] + group[0][2])


def _is_on_clean_paper(even: Pixels, dark: Pixels, group: Group, grain: float) -> bool:
    """Return whether the mark is isolated on an even ground, as ink is and most objects in a room are not.

    `grain` is the standard deviation of the noise on that ground.
    """
    (x0, y0, x1, y1), outlines = group
    margin = max(3, round(0.15 * max(x1 - x0, y1 - y0)))
    left, top = max(0, x0 - margin), max(0, y0 - margin)
    darkness, ground = dark[top : y1 + margin, left : x1 + margin], even[top : y1 + margin, left : x1 + margin]
    own = cv2.countNonZero(darkness & _mask(darkness.shape, outlines, left, top))
    if cv2.countNonZero(darkness) - own > MAX_CLUTTER * darkness.size:
        return False
    free = 1 - cv2.dilate(darkness, np.ones((5, 5), np.uint8))
    if cv2.countNonZero(free) < MIN_FREE * free.size:
        return False
    _, spread = cv2.meanStdDev(ground, mask=free)
    return float(spread[0, 0]) < math.hypot(MAX_SPREAD, 1.5 * grain)


def _mask(shape: tuple[int, ...], outlines: list[Outline], left: int, top: int) -> Pixels:
    """Return a mask of a window with its corner at (left, top): 1 inside the outlines."""
    mask: Pixels = np.zeros(shape, np.uint8)
    cv2.drawContours(mask, outlines, -1, (1,), cv2.FILLED, offset=(-left, -top))
    return mask


def _leans(rects: list[Rect], aspect: float) -> list[float]:
    """Return for each mark, left to right, the angle in radians by which its row falls right; 0 for a single one."""
    rows: list[list[int]] = []
    centres = [((x0 + x1) / 2 * aspect, (y0 + y1) / 2, y1 - y0) for x0, y0, x1, y1 in rects]
    for mark, (x, y, tall) in enumerate(centres):
        near = {}
        for row in rows:
            last_x, last_y, last_tall = centres[row[-1]]
            distance = math.hypot(x - last_x, y - last_y)
            close = distance < MAX_DISTANCE * (tall + last_tall) / 2
            if abs(y - last_y) < MAX_SLOPE * (x - last_x) and close:
                near[distance] = row
        if near:
            near[min(near)].append(mark)
        else:
            rows.append([mark])
    leans = [0.0] * len(rects)
    for row in rows:
        x, y, _ = np.array([centres[mark] for mark in row]).T
        across = x - x.mean()
        lean = math.atan2(float(across @ y), float(across @ across))
        for mark in row:
            leans[mark] = lean
    return leans


def _turned(ink: Floats, lean: float, aspect: float) -> Floats:
    """Turn ink upright that leans by `lean` radians and crop it; a small lean, which the net tolerates, is left."""
    if abs(lean) < MIN_LEAN:
        return ink
    height, width = ink.shape
    side = math.ceil(math.hypot(height, width))
    cosine, sine = math.cos(lean), math.sin(lean)
    rotation = np.array([[cosine, -sine / aspect], [sine * aspect, cosine]])
    start = np.array([width - 1, height - 1]) / 2 - rotation @ np.full(2, (side - 1) / 2)
    turned = cv2.warpAffine(
        ink, np.column_stack([rotation, start]), (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    x, y, w, h = cv2.boundingRect((turned >= MIN_INK * turned.max()).astype(np.uint8))
    return np.asarray(turned[y : y + h, x : x + w], np.float32)


def _ink(even: Pixels, dark: Pixels, group: Group) -> Floats:
    """Return the ink, 0 to 1, of one mark without neighbours and ruling, its stroke at least as wide as in MNIST."""
    (x0, y0, x1, y1), outlines = group
    mask = _mask((y1 - y0, x1 - x0), outlines, x0, y0)
    inked = mask & dark[y0:y1, x0:x1]
    near = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), dtype=np.uint8)
    depth: Pixels = (PAPER - np.minimum(even[y0:y1, x0:x1], PAPER)) * near
    full = np.float32(max(1.0, 1.1 * cv2.mean(depth, inked)[0]))
    # Twice the size of MNIST keeps everything that the net can see, and the steps below cheap.
    scale = min(1.0, 2 * DIGIT / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    ink = np.minimum(resize(depth, size).astype(np.float32) / full, 1.0)
    # The area of a stroke is its length times its width, and its outline is twice its length.
    length = sum(cv2.arcLength(outline, True) for outline in outlines) / 2
    thin = STROKE * max(mask.shape) - cv2.countNonZero(inked) / max(1.0, length)
    grow = round(thin * scale / 2)
    if grow > 0:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
        ink = cv2.dilate(np.pad(ink, grow), kernel)
    return np.asarray(ink, dtype=np.float32)


def _mnist(ink: Floats, aspect: float) -> Floats:
    """Scale ink, with pixels of this aspect ratio, into a box of 20 pixels and centre it by mass in 28."""
    height, width = ink.shape
    scale = DIGIT / max(height, width * aspect)
    wide, tall = max(1, round(width * aspect * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    digit = cv2.resize(ink, (wide, tall), interpolation=method).reshape(tall, wide)
    field = np.zeros((FIELD, FIELD), np.float32)
    x, y = _offset(digit.sum(axis=0)), _offset(digit.sum(axis=1))
    field[y : y + tall, x : x + wide] = digit
    return field


def _offset(profile: Floats) -> int:
    """Return the offset of a profile of ink that puts its centre of mass into the middle of the field."""
    centre = float(profile @ np.arange(len(profile))) / max(float(profile.sum()), 1e-6) + 0.5
    return min(max(round(FIELD / 2 - centre), 0), FIELD - len(profile))


def _height(group: Group) -> int:
    return group[0][3] - group[0][1]


def _union(a: Rect, b: Rect) -> Rect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
