"""Evaluates NonMaxSuppression: of overlapping boxes the one with the highest score stays."""

from __future__ import annotations

import numpy as np

from engine.graph import Array, ModelError, Node

MAX_BOXES = 1 << 20


def non_max_suppression(
    node: Node,
    boxes: Array,
    scores: Array,
    limit: Array | None = None,
    overlap: Array | None = None,
    score: Array | None = None,
) -> Array:
    """Return the rows (batch, class, box) of the boxes that stay, by batch and class, the highest score first.

    Args:
        node: with `center_point_box` 0: boxes are two opposite corners (y, x, y, x); 1: (x, y, width, height).
        boxes: (batches, boxes, 4).
        scores: (batches, classes, boxes).
        limit: of boxes for each class; none stay without it.
        overlap: share of two boxes' union above which the lower one goes.
        score: only boxes above it stay.

    Raises:
        ModelError: shapes or limits that do not fit.
    """
    most = 0 if limit is None else int(limit.ravel()[0])
    share = 0.0 if overlap is None else float(overlap.ravel()[0])
    fits = boxes.ndim == scores.ndim == 3 and boxes.shape == (len(scores), scores.shape[2], 4)
    if not fits or not 0 <= share <= 1 or boxes.shape[1] > MAX_BOXES:
        raise ModelError(
            f"NonMaxSuppression '{node.name}': boxes {boxes.shape}, scores {scores.shape}, overlap {share}"
        )
    corners = _corners(boxes.astype(np.float32), bool(node.attributes.get("center_point_box")))
    kept: list[tuple[int, int, int]] = []
    for batch, by_class in enumerate(scores):
        for label, row in enumerate(by_class):
            places = np.arange(len(row)) if score is None else np.flatnonzero(row > score.ravel()[0])
            order = places[np.argsort(-row[places], kind="stable")]
            kept += [(batch, label, int(place)) for place in _survivors(corners[batch], order, share, most)]
    return np.array(kept, np.int64).reshape(-1, 3)


def _corners(boxes: Array, centred: bool) -> Array:
    """Return the smaller and the larger coordinates (..., 2, 2) of each box."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return np.stack([np.minimum(first, second), np.maximum(first, second)], axis=-2)


def _survivors(corners: Array, order: Array, share: float, most: int) -> list[int]:
    """Return the boxes that stay of those in `order`."""
    sizes = corners[:, 1] - corners[:, 0]
    areas = sizes[:, 0] * sizes[:, 1]
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        common = np.minimum(corners[best, 1], corners[order, 1]) - np.maximum(corners[best, 0], corners[order, 0])
        shared = np.maximum(common, 0).prod(axis=1)
        union = areas[best] + areas[order] - shared
        # No overlap of a box without an area, whatever the division would give.
        overlaps = (shared > 0) & (areas[best] > 0) & (areas[order] > 0) & (shared > share * union)
        order = order[~overlaps]
    return kept
