"""Judges by its looks whether a mark is handwriting on a sheet: ink of one darkness, in strokes, on an even ground.

The judge is a logistic regression on nine measures of a mark, their squares and products. `COEFFICIENTS` were fitted
to digits on generated paper and to marks from generated rooms, tracks and charts: `python -m weights.fit_marks`.
"""

from __future__ import annotations

import cv2
import numpy as np

from camapp.core.arrays import Floats, Pixels
from camapp.tasks.mark_coefficients import COEFFICIENTS, LEAST, MEAN, STD

# Grey level of clean paper after the light is evened out.
PAPER = 200
# Width of the surroundings, as a share of the mark's size.
AROUND = 0.6
# Width of the ring of ground beside the strokes, as a share of the mark's size; the blur of the strokes' edges, pixels;
# the percentile of the ring's grey levels that counts as its darkest.
RING, EDGE, DARKEST = 0.12, 2, 10
# Share of the mark's contrast from which on the ground counts as stained.
STAIN = 0.3
# The side of each measure's mean that speaks against handwriting; a cleaner drawing than any photograph is welcome.
AGAINST = np.array([-1, -1, -1, 1, 1, 1, 1, 1, 1])
# Measures beyond these numbers of standard deviations, on that side and on the other, count as much as these.
LARGEST, CLEANEST = 6.0, 2.0


def look_of(even: Pixels, dark: Pixels, inked: Pixels, rect: tuple[int, int, int, int]) -> tuple[float, ...]:
    """Measure a mark.

    Args:
        even: the image with its light evened out.
        dark: 1 where the image is dark.
        inked: the same within `rect`, for the pieces of this mark alone.
        rect: (x0, y0, x1, y1) of the mark.

    Returns:
        logarithms of contrast, of contrast by the unevenness around, and of the height in the image; how much the
        width of the strokes varies; other dark pixels around; logarithm of the widest stroke; how much the ink varies;
        logarithms of the darkness of the ground beside the strokes and of its stained share around.
    """
    x0, y0, x1, y1 = rect
    size, margin = max(x1 - x0, y1 - y0), int(AROUND * max(x1 - x0, y1 - y0))
    window = np.s_[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
    around, darkness = even[window], dark[window]
    depth = cv2.distanceTransform(np.pad(inked, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    widest = float(depth.max())
    ridge = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)) - 1e-6) & (depth > 0.6)]
    ink = even[y0:y1, x0:x1]
    contrast = max(1.0, PAPER - float(np.median(ink[inked > 0])))
    core = ink[depth >= max(1.5, 0.5 * widest)]
    own = np.zeros_like(darkness)
    own[y0 - window[0].start : y1 - window[0].start, x0 - window[1].start : x1 - window[1].start] = inked
    free = _grown(darkness, EDGE) == 0
    beside = around[(_grown(own, EDGE + max(3, round(RING * size))) > 0) & (_grown(own, EDGE) == 0) & free]
    ground = PAPER - around[free].astype(np.float32)
    return (
        float(np.log(contrast)),
        float(np.log(contrast / max(1.0, float(around[darkness == 0].std())))),
        float(np.log((y1 - y0) / even.shape[0])),
        float(ridge.std() / ridge.mean()) if len(ridge) > 3 else 0.0,
        (cv2.countNonZero(darkness) - cv2.countNonZero(inked)) / darkness.size,
        float(np.log(2 * widest / size + 0.02)),
        float(core.std()) / contrast if len(core) else 0.0,
        float(np.log(max(0.0, PAPER - np.percentile(beside, DARKEST)) / contrast + 0.05)) if len(beside) else 0.0,
        float(np.log(np.mean(ground > STAIN * contrast) + 0.01)) if len(ground) else 0.0,
    )


def _grown(mask: Pixels, pixels: int) -> Pixels:
    """Return a mask with everything within this distance added."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate(mask, kernel), np.uint8)


def evidence(looks: Floats, mean: Floats = MEAN, std: Floats = STD, coefficients: Floats = COEFFICIENTS) -> Floats:
    """Return the log-odds that marks (n, 9) are handwriting."""
    found: Floats = expanded(looks, mean, std) @ coefficients
    return found


def expanded(looks: Floats, mean: Floats, std: Floats) -> Floats:
    """Return standardised measures, their squares and products, and a constant."""
    scaled = np.clip(AGAINST * (looks - mean) / std, -CLEANEST, LARGEST)
    rows, columns = np.triu_indices(scaled.shape[1])
    return np.column_stack([scaled, scaled[:, rows] * scaled[:, columns], np.ones(len(scaled))])


def is_handwriting(look: tuple[float, ...]) -> bool:
    """Return whether a mark that looks like this is taken for handwriting."""
    return bool(evidence(np.array([look]))[0] >= LEAST)
