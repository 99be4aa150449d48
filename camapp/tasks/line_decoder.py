"""The field of line points that the track net predicts: polylines written into it, and read back out of it.

Each cell near a line holds the line's nearest point and its direction there. Reading links the points of neighbouring
cells into chains, so lines may run any way, as flat as a bend across the image or back towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats
from camapp.core.predictions import Point
from engine.nets.track import FIELDS, SUBCELLS

# Distances of a line from a cell's centre, in cells: nearer, it is in the cell; beyond the second, it is not.
INSIDE, OUTSIDE = 0.6, 0.85
FAINT = 1.2  # around lines that nobody could be sure of, cells are judged by
DOUBT = 0.2  # so much: not at all, and the net would see lines along every horizon
REACH = 2.7  # cells from one point of a line to the next, at most
ECHO = 2.5  # cells: a line that runs so near to a much longer one all along is its echo,
ECHO_LENGTH = 0.5  # if it has less than this share of the other's length
MAX_POINTS = 400  # of the surest are linked; an image full of lines has about 150


@dataclass(frozen=True)
class Chain:
    """A line: points (n, 2) as fractions of the image, n > 1, and how sure the net is of it, 0 to 1."""

    points: Floats
    score: float


def write(lines: Sequence[tuple[Sequence[Point], bool]], grid: tuple[int, int]) -> Floats:
    """What the net should say.

    Args:
        lines: (points as fractions of the image, faint) each.
        grid: (rows, columns) of cells.

    Returns:
        (rows, columns, FIELDS + 1): presence, x and y of the nearest point from the cell's centre in cells, cos and
        sin of twice the direction; last the weight of the presence, less than 1 where it is in doubt.
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
    along = np.clip((away * ahead[:, None]).sum(axis=2), -0.15, 0.15)  # points lie a quarter of a cell apart
    foot = along[..., None] * ahead[:, None] - away
    distance = np.hypot(foot[..., 0], foot[..., 1])
    within = (nearby >= 0).all(axis=2) & (nearby < (columns, rows)).all(axis=2) & (distance < FAINT)
    cell = (nearby[..., 1] * columns + nearby[..., 0])[within].astype(int)
    point = np.nonzero(within)[0]
    foot, distance = foot[within], distance[within]
    order = np.lexsort((-distance, -faint[point, 0]))  # sure lines after faint ones, the nearest last
    cell, point, foot, distance = cell[order], point[order], foot[order], distance[order]
    cosine, sine = ahead[point, 0], ahead[point, 1]
    unsure = faint[point, 0] > 0
    field[cell, 0] = (distance < INSIDE) & ~unsure
    field[cell, 1:3] = foot
    field[cell, 3] = cosine * cosine - sine * sine
    field[cell, 4] = 2 * cosine * sine
    field[cell, 5] = np.where(unsure, DOUBT, np.where((distance >= INSIDE) & (distance < OUTSIDE), 0.0, 1.0))
    return field.reshape(rows, columns, -1)


def _points(points: Sequence[Point], faint: bool, grid: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 5): x, y in cells, unit direction, faint; a quarter of a cell apart."""
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
    """The net's output (SUBCELLS * SUBCELLS * FIELDS, h, w) as a field (rows, columns, FIELDS), raw numbers."""
    height, width = output.shape[1:]
    parts = output.reshape(SUBCELLS, SUBCELLS, FIELDS, height, width).transpose(3, 0, 4, 1, 2)
    return parts.reshape(height * SUBCELLS, width * SUBCELLS, FIELDS)


def read(
    field: Floats, weak: float = 0.5, sure: float = 0.85, clear: float = 0.91, shortest: float = 4.5
) -> list[Chain]:
    """Lines in a field of raw numbers, the surest first.

    Args:
        field: (rows, columns, FIELDS); presence as a logit.
        weak: presence from which a cell may lengthen a line.
        sure: presence from which it may begin one.
        clear: mean presence of the surest line, before it is lengthened, from which there is any at all.
        shortest: length from which a line counts, cells.
    """
    rows, columns = field.shape[:2]
    logits = np.nan_to_num(field[..., 0].ravel(), nan=-50.0)
    chosen = np.flatnonzero(logits > np.log(weak / (1 - weak)))
    # The surest first: they decide which points are only their echoes.
    chosen = chosen[np.argsort(-logits[chosen], kind="stable")[:MAX_POINTS]]
    score = 1 / (1 + np.exp(-np.clip(logits[chosen], -50, 50)))
    if (score > sure).sum() < 2:
        return []
    values = np.nan_to_num(field.reshape(-1, FIELDS)[chosen])
    at = np.stack([chosen % columns, chosen // columns], axis=1) + 0.5 + np.clip(values[:, 1:3], -1.5, 1.5)
    angle = np.arctan2(values[:, 4], values[:, 3]) / 2
    ahead = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    keep = _thinned(at, ahead)
    at, ahead, score = at[keep], ahead[keep], score[keep]
    strong = int((score > sure).sum())
    along, across, agree = _between(at, ahead)
    links = _links(along[:strong, :strong], _price(along, across, agree, 0.7)[:strong, :strong])
    chains = _joined(_chains(links), at)
    chains = _joined(_grown(chains, along, _price(along, across, agree, 0.5)), at)
    lines = []
    for chain in _without_echoes(chains, at, shortest):
        path = _smooth(at[chain])
        if path[0, 1] < path[-1, 1]:
            path = path[::-1]
        presence = float(score[[point for point in chain if point < strong]].mean())
        lines.append(Chain((path / (columns, rows)).astype(np.float32), presence))
    lines.sort(key=lambda line: -line.score)
    return lines if lines and lines[0].score >= clear else []


def _grown(chains: list[list[int]], along: Floats, price: Floats) -> list[list[int]]:
    """Chains lengthened by weaker points that lie where their ends lead."""
    free = np.ones(len(along), bool)
    free[[point for chain in chains for point in chain]] = False
    for chain in sorted(chains, key=len, reverse=True):
        for _ in (0, 1):
            chain.reverse()
            while (point := _next(chain[-1], chain[-2], along, price, free)) is not None:
                chain.append(point)
                free[point] = False
    return chains


def _next(here: int, last: int, along: Floats, price: Floats, free: NDArray[np.bool_]) -> int | None:
    """The free point that a line leads to which comes from `last`."""
    onward = along[here] > 0 if along[here, last] < 0 else along[here] < 0
    prices = np.where(free & onward, price[here], np.inf)
    point = int(prices.argmin())
    return point if prices[point] < np.inf else None


def _thinned(at: Floats, ahead: Floats) -> NDArray[np.intp]:
    """Points, the surest first, that no surer one beside them says already."""
    along, across, agree = _between(at, ahead)
    told = (np.abs(along) < 0.55) & (np.abs(across) < 0.6) & (agree > 0.8)
    return np.flatnonzero(~np.tril(told, -1).any(axis=1))


def _between(at: Floats, ahead: Floats) -> tuple[Floats, Floats, Floats]:
    """For points i (rows) and j: how far j lies along i's direction and to its side, and how well directions agree."""
    aside = ahead[:, ::-1] * (1, -1)
    along = ahead @ at.T - (ahead * at).sum(axis=1)[:, None]
    across = aside @ at.T - (aside * at).sum(axis=1)[:, None]
    return along, across, np.abs(ahead @ ahead.T)


def _price(along: Floats, across: Floats, agree: Floats, bend: float) -> Floats:
    """What it costs a line to go from one point to another; infinite where it cannot."""
    # Off the tangent of either end: a line bends, but both its ends tell how.
    off = np.abs(across) + np.abs(across.T)
    reach = np.abs(along)
    fits = (reach > 0.2) & (reach < REACH) & (off < 0.3 + bend * reach) & (agree > 0.6)
    return np.where(fits, reach + 2 * off + 2 * (1 - agree), np.inf)


def _links(along: Floats, price: Floats) -> NDArray[np.intp]:
    """(n, 2): the neighbour of each point against and along its direction, -1 for none; all links are mutual."""
    here = np.arange(len(along))
    best = np.full((len(along), 2), -1, np.intp)
    for side, there in enumerate((along < 0, along > 0)):
        prices = np.where(there, price, np.inf)
        nearest = prices.argmin(axis=1)
        best[:, side] = np.where(prices[here, nearest] < np.inf, nearest, -1)
    # Each must be the other's choice, on the side where it lies.
    chooser = here[:, None]
    mutual = (best >= 0) & (best[best, (along[best, chooser] > 0).astype(int)] == chooser)
    return np.where(mutual, best, -1)


def _chains(pairs: NDArray[np.intp]) -> list[list[int]]:
    """Each unbroken path of links once."""
    links = pairs.tolist()
    seen: set[int] = set()
    chains = []
    ends = [i for i, pair in enumerate(links) if min(pair) < 0]
    for start in [*ends, *range(len(links))]:  # what is left after the ends are rings
        if start in seen:
            continue
        chain, last, here = [], -1, start
        while here >= 0 and here not in seen:
            seen.add(here)
            chain.append(here)
            ahead = [j for j in links[here] if j >= 0 and j != last]
            last, here = here, ahead[0] if ahead else -1
        chains.append(chain)
    return [chain for chain in chains if len(chain) > 1]


def _joined(chains: list[list[int]], at: Floats, gap: float = 5.0, overlap: float = 6.0) -> list[list[int]]:
    """Chains whose ends point at each other over a small gap, or past each other a little, as one."""
    while len(chains) > 1:
        ends = [(i, side) for i in range(len(chains)) for side in (0, 1)]
        place = np.array([at[chains[i][-side]] for i, side in ends])
        inner = np.array([at[chains[i][-side + (1 - 2 * side) * min(5, len(chains[i]) - 1)]] for i, side in ends])
        out = place - inner
        out /= np.maximum(np.hypot(*out.T), 1e-9)[:, None]
        away = place[None] - place[:, None]
        along = (away * out[:, None]).sum(axis=2)
        across = np.abs(away[..., 0] * out[:, None, 1] - away[..., 1] * out[:, None, 0])
        owner = np.array([i for i, _ in ends])
        fits = (along > -overlap) & (along < gap) & (across < 0.6 + 0.35 * np.abs(along)) & (out @ out.T < -0.8)
        fits &= fits.T & (owner[None] != owner[:, None])
        if not fits.any():
            break
        price = np.where(fits, np.abs(along) + 2 * across, np.inf)
        a, b = np.unravel_index(int(price.argmin()), price.shape)
        first = chains[ends[a][0]] if ends[a][1] else chains[ends[a][0]][::-1]
        second = chains[ends[b][0]][::-1] if ends[b][1] else chains[ends[b][0]]
        # What lies side by side is told once.
        beyond = (at[second] - place[a]) @ out[a] > 0
        second = second[int(beyond.argmax()) :] if beyond.any() else second[-1:]
        chains = [chain for i, chain in enumerate(chains) if i not in (ends[a][0], ends[b][0])] + [first + second]
    return chains


def _without_echoes(chains: list[list[int]], at: Floats, shortest: float) -> list[list[int]]:
    """Chains that are long enough and no short copy beside a long one, as a broad or blurred line may have."""
    lengths = [float(np.hypot(*np.diff(at[chain], axis=0).T).sum()) for chain in chains]
    kept: list[int] = []
    for i in sorted(range(len(chains)), key=lambda i: -lengths[i]):
        longer = [at[chains[j]] for j in kept if lengths[i] < ECHO_LENGTH * lengths[j]]
        path = at[chains[i]]
        beside = any(
            (np.hypot(*(path[:, None] - other).transpose(2, 0, 1)).min(axis=1) < ECHO).all() for other in longer
        )
        if lengths[i] >= shortest and not beside:
            kept.append(i)
    return [chains[i] for i in kept]


def _smooth(path: Floats) -> Floats:
    """Weighted with the neighbours; ends stay."""
    smooth = path.copy()
    smooth[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return smooth
