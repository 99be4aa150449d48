"""Selects the strongest candidates of a detector, and drops those that overlap a stronger one of their class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats

Indices = NDArray[np.intp]

# Candidates that go on to the suppression, and objects that it leaves, at most.
MAX_CANDIDATES = 2000
MAX_OBJECTS = 300
# Candidates that are compared at a time.
_BLOCK = 128


def strongest(scores: Floats, limit: int = MAX_CANDIDATES) -> Indices:
    """Return the indices of the highest scores (n,), at most `limit`, in descending order; NaN must be absent."""
    if len(scores) > limit:
        chosen = np.argpartition(scores, len(scores) - limit)[-limit:]
        return chosen[np.argsort(-scores[chosen], kind="stable")]
    return np.argsort(-scores, kind="stable")


def best_classes(scores: Floats, min_score: float) -> tuple[Indices, Indices, Floats]:
    """Return row, class and score of each row of `scores` (n, classes) whose best class has at least `min_score`.

    Rows with NaN are left out. The rows are the strongest `MAX_CANDIDATES`, best first.
    """
    best = scores.max(axis=1)
    rows = np.flatnonzero(best >= min_score)
    rows = rows[strongest(best[rows])]
    return rows, scores[rows].argmax(axis=1), best[rows]


def all_classes(scores: Floats, min_score: float) -> tuple[Indices, Indices, Floats]:
    """Return row, class and score of every element of `scores` (n, classes) that has at least `min_score`.

    The elements are the strongest `MAX_CANDIDATES`, best first.
    """
    rows, classes = np.nonzero(scores >= min_score)
    found = scores[rows, classes]
    order = strongest(found)
    return rows[order], classes[order], found[order]


def iou_matrix(first: Floats, second: Floats) -> Floats:
    """Return the intersection over union (n, m) of boxes (n, 4) and (m, 4): x0, y0, x1, y1."""
    shared, areas = _shared(_sides(first), _sides(second))
    found: Floats = np.divide(shared, areas - shared, out=np.zeros_like(shared), where=shared > 0)
    return found


def suppress(boxes: Floats, scores: Floats, classes: Indices, iou: float, limit: int = MAX_OBJECTS) -> Indices:
    """Return the indices that greedy non-maximum suppression keeps, best first, at most `limit`.

    A box is dropped if its IoU with a kept box of the same class and a higher score is above `iou`. Of more than
    `MAX_CANDIDATES` boxes only the strongest are looked at.

    Args:
        boxes: (n, 4): x0, y0, x1, y1.
        scores: (n,), finite.
        classes: (n,).
    """
    order = strongest(scores)
    sides, classes = _sides(boxes[order]), classes[order]
    kept = np.zeros(0, np.intp)

    def overlaps(first: Indices, second: Indices) -> NDArray[np.bool_]:
        shared, areas = _shared(sides[:, first], sides[:, second])
        # The IoU is above the bound, without a division.
        areas *= np.float32(iou / (1 + iou))
        found: NDArray[np.bool_] = shared > areas
        found &= classes[first][:, None] == classes[second]
        return found

    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if len(kept):
            block = block[~overlaps(kept, block).any(axis=0)]
        kept = np.concatenate([kept, block[greedy(np.triu(overlaps(block, block), 1))]])
        if len(kept) >= limit:
            break
    return order[kept[:limit]]


def _sides(boxes: Floats) -> Floats:
    """Return x0, y0, x1, y1 and area of boxes (n, 4) as (5, n); a box whose sides are swapped has none."""
    x0, y0, x1, y1 = boxes.T
    return np.stack([x0, y0, x1, y1, np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)])


def _shared(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return the intersection and the sum of the areas (n, m) of all pairs of `_sides`."""
    width = np.minimum.outer(first[2], second[2])
    width -= np.maximum.outer(first[0], second[0])
    np.maximum(width, 0, out=width)
    height = np.minimum.outer(first[3], second[3])
    height -= np.maximum.outer(first[1], second[1])
    np.maximum(height, 0, out=height)
    width *= height
    return width, np.add.outer(first[4], second[4])


def greedy(overlaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what stays of n candidates in descending order, where `overlaps[i, j]` (i < j) lets i drop j.

    Each pass drops what the survivors of the one before overlap. The first k candidates are final after k passes, and
    all of them usually after three.
    """
    alive = np.ones(len(overlaps), np.bool_)
    for _ in range(len(overlaps)):
        dropped = np.any(overlaps & alive[:, None], axis=0)
        if np.array_equal(alive, ~dropped):
            break
        alive = ~dropped
    return alive
