"""Encodes polylines as the field of line points that the track net predicts, and decodes such a field.

Each cell near a line holds the nearest point of the line and its direction there. Decoding links the points of
neighbouring cells into chains, so lines may have any direction, also across the image or back towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from camapp.core.predictions import Point
from engine.nets.track import FIELDS, SUBCELLS

# Distance of a line from a cell's centre, in cells: present below INSIDE, absent beyond OUTSIDE, ignored between.
INSIDE, OUTSIDE = 0.6, 0.85
# Loss weight DOUBT of the cells within FAINT cells of an ambiguous line. With 0 the net hallucinates lines at the
# horizon.
FAINT, DOUBT = 1.2, 0.2
# Maximum distance of consecutive points of a line, in cells.
MAX_STEP = 2.7
# A line within DUPLICATE_DISTANCE cells of another one over its whole length is a duplicate if it is shorter than this
# share of the other's length.
DUPLICATE_DISTANCE, DUPLICATE_LENGTH = 2.5, 0.5
# Points of one direction that lie within ROW_WIDTH cells of a line are a second row of the same line.
ROW_WIDTH = 1.2
# Maximum distance of the ends that meet in a corner, cells.
CORNER = 2.5
# A line leads up if it rises by this share of its length; its end is at the horizon within so many cells of the highest
# point.
LEADS_UP, AT_HORIZON = 0.2, 2.5
# Two lines that meet at the horizon turn there: the cosine between chords of so many points is above -KINK. One line
# that bends across the image turns less.
KINK, KINK_POINTS = 0.95, 4
# Only the points with the highest scores are linked; an image full of lines has about 150.
MAX_POINTS = 400


@dataclass(frozen=True)
class Chain:
    """A line: points (n, 2), n > 1, as fractions of the image, and its score, 0 to 1."""

    points: Floats
    score: float


def encode(lines: Sequence[tuple[Sequence[Point], bool]], grid: tuple[int, int]) -> Floats:
    """Return the target field of the net for lines, each (points as fractions of the image, faint).

    It is (rows, columns, FIELDS + 1): presence, x and y of the nearest point from the cell's centre in cells, cos and
    sin of twice the direction; last the loss weight of the presence, below 1 if it is ambiguous.
    """
    rows, columns = grid
    field = np.zeros((rows * columns, FIELDS + 1), np.float32)
    field[:, FIELDS] = 1
    parts = [_points(points, faint, grid) for points, faint in lines]
    parts = [part for part in parts if len(part)]
    if not parts:
        return field.reshape(rows, columns, -1)
    at, ahead, faint = np.split(np.concatenate(parts), [2, 4], axis=1)
    nearby = np.floor(at)[:, None] + np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    away = nearby + 0.5 - at[:, None]
    # Points lie a quarter of a cell apart.
    along = np.clip((away * ahead[:, None]).sum(axis=2), -0.15, 0.15)
    foot = along[..., None] * ahead[:, None] - away
    distance = np.hypot(foot[..., 0], foot[..., 1])
    within = (nearby >= 0).all(axis=2) & (nearby < (columns, rows)).all(axis=2) & (distance < FAINT)
    cell = (nearby[..., 1] * columns + nearby[..., 0])[within].astype(int)
    point = np.nonzero(within)[0]
    foot, distance = foot[within], distance[within]
    # Later entries overwrite earlier ones: clear lines after faint ones, the nearest last.
    order = np.lexsort((-distance, -faint[point, 0]))
    cell, point, foot, distance = cell[order], point[order], foot[order], distance[order]
    cosine, sine = ahead[point, 0], ahead[point, 1]
    ambiguous = faint[point, 0] > 0
    field[cell, 0] = (distance < INSIDE) & ~ambiguous
    field[cell, 1:3] = foot
    field[cell, 3] = cosine * cosine - sine * sine
    field[cell, 4] = 2 * cosine * sine
    field[cell, 5] = np.where(ambiguous, DOUBT, np.where((distance >= INSIDE) & (distance < OUTSIDE), 0.0, 1.0))
    return field.reshape(rows, columns, -1)


def _points(points: Sequence[Point], faint: bool, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return (n, 5): x, y in cells, unit direction, faint; points lie a quarter of a cell apart."""
    path = np.asarray(points, np.float64) * (grid[1], grid[0])
    steps = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if along[-1] < 1e-6:
        return np.zeros((0, 5))
    places = np.linspace(0, along[-1], max(2, int(along[-1] * 4) + 1))
    dense = np.stack([np.interp(places, along, path[:, axis]) for axis in (0, 1)], axis=1)
    ahead = np.gradient(dense, axis=0)
    ahead /= np.maximum(np.hypot(*ahead.T), 1e-9)[:, None]
    return np.concatenate([dense, ahead, np.full((len(dense), 1), float(faint))], axis=1)


def unpack(output: Floats) -> Floats:
    """Return the output (SUBCELLS * SUBCELLS * FIELDS, h, w) as a field (rows, columns, FIELDS) of raw numbers."""
    height, width = output.shape[1:]
    parts = output.reshape(SUBCELLS, SUBCELLS, FIELDS, height, width).transpose(3, 0, 4, 1, 2)
    return parts.reshape(height * SUBCELLS, width * SUBCELLS, FIELDS)


def decode(
    field: Floats, weak: float = 0.4, strong: float = 0.85, clear: float = 0.91, min_length: float = 4.5
) -> list[Chain]:
    """Return the lines in a field of raw numbers, by descending score.

    Args:
        field: (rows, columns, FIELDS); presence as a logit.
        weak: minimum presence of a cell that extends a line.
        strong: minimum presence of a cell that starts a line.
        clear: minimum mean presence of the best line, before it is extended; below it there are no lines at all.
        min_length: minimum length of a line, cells.
    """
    rows, columns = field.shape[:2]
    at, ahead, score = _line_points(field, weak)
    if (score > strong).sum() < 2:
        return []
    every = _pairwise(at, ahead)
    keep = _suppress_duplicates(*every)
    at, score = at[keep], score[keep]
    along, across, agree = (values[np.ix_(keep, keep)] for values in every)
    chains = _trace(at, along, across, agree, int((score > strong).sum()))
    sure = [(chain, score[chain][score[chain] > strong]) for chain in chains]
    scored = [(chain, float(presences.mean())) for chain, presences in sure if len(presences) > 1]
    if max((mean for _, mean in scored), default=0.0) < clear:
        return []
    lines = []
    for i in _without_duplicates([at[chain] for chain, _ in scored], min_length):
        path = _smooth(at[scored[i][0]])
        if path[0, 1] < path[-1, 1]:
            path = path[::-1]
        lines.append(Chain((path / (columns, rows)).astype(np.float32), scored[i][1]))
    return sorted(lines, key=lambda line: -line.score)


def _trace(at: Floats, along: Floats, across: Floats, agree: Floats, starts: int) -> list[list[int]]:
    """Return chains of points.

    Args:
        at: places of the points, (n, 2), cells; strong points first.
        along, across, agree: as `_pairwise` returns them.
        starts: number of strong points.
    """
    strong = np.s_[:starts, :starts]
    links = _links(along[strong], _link_cost(along[strong], across[strong], agree[strong], 0.7))
    chains = _join(_chains(links), at)
    cost = _link_cost(along, across, agree, 0.5)
    chains = _extend(chains, along, cost)
    horizon = min((float(at[chain, 1].min()) for chain in chains), default=0.0)
    chains += _chains_beside(chains, along, across, agree, cost)
    return _join_corners(_split_at_horizon(_join(chains, at), at, horizon), at, horizon)


def _line_points(field: Floats, weak: float) -> tuple[Floats, Floats, Floats]:
    """Return the places (n, 2) in cells, directions (n, 2) and presences of the points, by descending presence."""
    columns = field.shape[1]
    logits = np.nan_to_num(field[..., 0].ravel(), nan=-50.0)
    chosen = np.flatnonzero(logits > np.log(weak / (1 - weak)))
    # Descending scores: a point suppresses its duplicates of lower score.
    chosen = chosen[np.argsort(-logits[chosen], kind="stable")[:MAX_POINTS]]
    score = 1 / (1 + np.exp(-np.clip(logits[chosen], -50, 50)))
    values = np.nan_to_num(field.reshape(-1, FIELDS)[chosen])
    at = np.stack([chosen % columns, chosen // columns], axis=1) + 0.5 + np.clip(values[:, 1:3], -1.5, 1.5)
    angle = np.arctan2(values[:, 4], values[:, 3]) / 2
    return at, np.stack([np.cos(angle), np.sin(angle)], axis=1), score


def _extend(chains: list[list[int]], along: Floats, cost: Floats) -> list[list[int]]:
    """Extend the chains by weaker points in the direction of their ends."""
    free = np.ones(len(along), bool)
    free[[point for chain in chains for point in chain]] = False
    for chain in sorted(chains, key=len, reverse=True):
        for _ in (0, 1):
            chain.reverse()
            while (point := _next(chain[-1], chain[-2], along, cost, free)) is not None:
                chain.append(point)
                free[point] = False
    return chains


def _chains_beside(
    chains: list[list[int]], along: Floats, across: Floats, agree: Floats, cost: Floats
) -> list[list[int]]:
    """Return the chains of those points that are not in a chain yet, and no second row of one that is."""
    used = np.zeros(len(along), bool)
    used[[point for chain in chains for point in chain]] = True
    row = (np.abs(across[used]) < ROW_WIDTH) & (np.abs(along[used]) < 1) & (agree[used] > 0.8)
    free = np.flatnonzero(~used & ~row.any(axis=0))
    if len(free) < 2:
        return []
    part = np.ix_(free, free)
    return [free[chain].tolist() for chain in _chains(_links(along[part], cost[part]))]


def _next(current: int, previous: int, along: Floats, cost: Floats, free: NDArray[np.bool_]) -> int | None:
    """Return the free point that continues a line from `previous` through `current`."""
    onward = along[current] > 0 if along[current, previous] < 0 else along[current] < 0
    costs = np.where(free & onward, cost[current], np.inf)
    point = int(costs.argmin())
    return point if costs[point] < np.inf else None


def _suppress_duplicates(along: Floats, across: Floats, agree: Floats) -> NDArray[np.intp]:
    """Non-maximum suppression of line points, which are sorted by descending score."""
    same = (np.abs(along) < 0.55) & (np.abs(across) < 0.6) & (agree > 0.8)
    return np.flatnonzero(~np.tril(same, -1).any(axis=1))


def _pairwise(at: Floats, ahead: Floats) -> tuple[Floats, Floats, Floats]:
    """Return, for points i (rows) and j, the distance of j along and beside i's direction, and |cos| of their angle."""
    aside = ahead[:, ::-1] * (1, -1)
    along = ahead @ at.T - (ahead * at).sum(axis=1)[:, None]
    across = aside @ at.T - (aside * at).sum(axis=1)[:, None]
    return along, across, np.abs(ahead @ ahead.T)


def _link_cost(along: Floats, across: Floats, agree: Floats, bend: float) -> Floats:
    """Return the cost of a link between two points, infinite if they cannot be linked."""
    # Distance from the tangents of both ends: a line bends, and both directions show how.
    off = np.abs(across) + np.abs(across.T)
    reach = np.abs(along)
    fits = (reach > 0.2) & (reach < MAX_STEP) & (off < 0.3 + bend * reach) & (agree > 0.6)
    return np.where(fits, reach + 2 * off + 2 * (1 - agree), np.inf)


def _links(along: Floats, cost: Floats) -> NDArray[np.intp]:
    """Return (n, 2): the neighbour of each point against and along its direction, or -1; all links are mutual."""
    points = np.arange(len(along))
    best = np.full((len(along), 2), -1, np.intp)
    for side, on_side in enumerate((along < 0, along > 0)):
        costs = np.where(on_side, cost, np.inf)
        nearest = costs.argmin(axis=1)
        best[:, side] = np.where(costs[points, nearest] < np.inf, nearest, -1)
    # Each must be the best of the other, on the side where it lies.
    chooser = points[:, None]
    mutual = (best >= 0) & (best[best, (along[best, chooser] > 0).astype(int)] == chooser)
    return np.where(mutual, best, -1)


def _chains(pairs: NDArray[np.intp]) -> list[list[int]]:
    """Return each connected path of links once."""
    links = pairs.tolist()
    seen: set[int] = set()
    chains = []
    ends = [i for i, pair in enumerate(links) if min(pair) < 0]
    # After the paths with ends, only rings are left.
    for start in [*ends, *range(len(links))]:
        if start in seen:
            continue
        chain, previous, current = [], -1, start
        while current >= 0 and current not in seen:
            seen.add(current)
            chain.append(current)
            following = [j for j in links[current] if j >= 0 and j != previous]
            previous, current = current, following[0] if following else -1
        chains.append(chain)
    return [chain for chain in chains if len(chain) > 1]


def _join(chains: list[list[int]], at: Floats, gap: float = 5.0, overlap: float = 6.0) -> list[list[int]]:
    """Join chains whose ends point at each other over a small gap, or overlap a little."""
    while len(chains) > 1:
        owner, tip, out = _ends(chains, at, 5)
        away = tip[None] - tip[:, None]
        along = (away * out[:, None]).sum(axis=2)
        across = np.abs(away[..., 0] * out[:, None, 1] - away[..., 1] * out[:, None, 0])
        fits = (along > -overlap) & (along < gap) & (across < 0.6 + 0.35 * np.abs(along)) & (out @ out.T < -0.8)
        fits &= fits.T & (owner[None] != owner[:, None])
        if not fits.any():
            break
        cost = np.where(fits, np.abs(along) + 2 * across, np.inf)
        a, b = map(int, np.unravel_index(int(cost.argmin()), cost.shape))
        first, second = _towards(chains, a)[::-1], _towards(chains, b)
        # Drop the points of the second chain that lie beside the first.
        beyond = (at[second] - tip[a]) @ out[a] > 0
        second = second[int(beyond.argmax()) :] if beyond.any() else second[-1:]
        chains = [chain for i, chain in enumerate(chains) if i not in (a // 2, b // 2)] + [first + second]
    return chains


def _split_at_horizon(chains: list[list[int]], at: Floats, horizon: float) -> list[list[int]]:
    """Split chains that lead up to the horizon, turn there, and lead down again: they are the borders of one lane."""
    parts = []
    for chain in chains:
        path = at[chain]
        top = int(path[:, 1].argmin())
        if path[top, 1] < horizon + AT_HORIZON and 2 < top < len(chain) - 3 and _are_borders(path - path[top], top):
            parts += [chain[: top + 1], chain[top:]]
        else:
            parts.append(chain)
    return parts


def _are_borders(path: Floats, top: int) -> bool:
    """Return whether the legs of a path, relative to its point `top`, lead down to both sides, with a kink between."""
    left, right = path[0], path[-1]
    if left[0] * right[0] >= 0 or any(leg[1] <= LEADS_UP * np.hypot(*leg) for leg in (left, right)):
        return False
    before, after = path[max(0, top - KINK_POINTS)], path[min(len(path) - 1, top + KINK_POINTS)]
    return bool(before @ after > -KINK * np.hypot(*before) * np.hypot(*after))


def _join_corners(chains: list[list[int]], at: Floats, horizon: float) -> list[list[int]]:
    """Join chains whose ends meet at an angle, as at a corner of tape or in a hairpin.

    Two lines that both lead up to the horizon and meet there are the borders of one lane, which stay two.
    """
    while len(chains) > 1:
        owner, tip, out = _ends(chains, at, 4)
        other = tip.reshape(-1, 2, 2)[:, ::-1].reshape(-1, 2)
        chord = tip - other
        upper = (chord[:, 1] < -LEADS_UP * np.hypot(*chord.T)) & (tip[:, 1] < horizon + AT_HORIZON)
        distance = np.hypot(*(tip[:, None] - tip[None]).transpose(2, 0, 1))
        # Ends that point the same way are those of parallel lines.
        fits = (distance < CORNER) & (owner[:, None] != owner) & (out @ out.T < 0.8) & ~(upper[:, None] & upper)
        if not fits.any():
            break
        a, b = map(int, np.unravel_index(int(np.where(fits, distance, np.inf).argmin()), fits.shape))
        corner = _towards(chains, a)[::-1] + _towards(chains, b)
        chains = [chain for i, chain in enumerate(chains) if i not in (a // 2, b // 2)] + [corner]
    return chains


def _ends(chains: list[list[int]], at: Floats, reach: int) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Return, for the two ends of each chain, the chain's index, the last point and the direction outwards there.

    Args:
        chains: of indices of points.
        at: places of the points, cells.
        reach: number of points over which the direction is measured.
    """
    tips = [chain[side] for chain in chains for side in (0, -1)]
    inner = [chain[side] for chain in chains for side in (min(reach, len(chain) - 1), -1 - min(reach, len(chain) - 1))]
    out = at[tips] - at[inner]
    return np.arange(len(tips)) // 2, at[tips], out / np.maximum(np.hypot(*out.T), 1e-9)[:, None]


def _towards(chains: list[list[int]], end: int) -> list[int]:
    """Return the chain that begins with this end of those that `_ends` lists."""
    return chains[end // 2][:: -1 if end % 2 else 1]


def _without_duplicates(paths: list[Floats], min_length: float) -> list[int]:
    """Return the indices of paths that are long enough, without short copies beside a long one.

    Broad or blurred lines may have such copies.
    """
    lengths = [_length(path) for path in paths]
    kept: list[int] = []
    for i in sorted(range(len(paths)), key=lambda i: -lengths[i]):
        longer = [paths[j] for j in kept if lengths[i] < DUPLICATE_LENGTH * lengths[j]]
        beside = any(
            (np.hypot(*(paths[i][:, None] - other).transpose(2, 0, 1)).min(axis=1) < DUPLICATE_DISTANCE).all()
            for other in longer
        )
        if lengths[i] >= min_length and not beside:
            kept.append(i)
    return kept


def _length(path: Floats) -> float:
    return float(np.hypot(*np.diff(path, axis=0).T).sum())


def _smooth(path: Floats) -> Floats:
    """Average each point with its neighbours (weights 1, 2, 1); the ends stay."""
    smooth = path.copy()
    smooth[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return smooth
