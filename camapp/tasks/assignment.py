"""Pairs rows with columns at the least total cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Indices = NDArray[np.int64]


def assign(cost: Costs, unpaired: float) -> tuple[Indices, Indices]:
    """Return the pairs (rows, columns) of least total cost; a row without a partner costs `unpaired`."""
    rows, columns = (np.flatnonzero((cost < unpaired).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return rows, rows
    # Further columns stand for no partner.
    part = np.full((len(rows), len(columns) + len(rows)), unpaired)
    part[:, : len(columns)] = np.minimum(cost[np.ix_(rows, columns)], unpaired)
    chosen = _cheapest(part)
    paired = part[np.arange(len(rows)), chosen] < unpaired
    return rows[paired], columns[chosen[paired]]


def _cheapest(cost: Costs) -> Indices:
    """Return the column of each row in the cheapest assignment, by shortest augmenting paths (Jonker and Volgenant).

    There are at least as many columns as rows.
    """
    rows, columns = cost.shape
    u, v = np.zeros(rows), np.zeros(columns)
    owner, chosen = np.full(columns, -1), np.full(rows, -1)
    for start in range(rows):
        length, before, done = np.full(columns, np.inf), np.full(columns, -1), np.zeros(columns, bool)
        row, shortest = start, 0.0
        while row >= 0:
            reduced = shortest + cost[row] - u[row] - v
            better = ~done & (reduced < length)
            length[better], before[better] = reduced[better], row
            column = int(np.where(done, np.inf, length).argmin())
            shortest, done[column], row = float(length[column]), True, int(owner[column])
        inner = np.flatnonzero(done & (owner >= 0))
        u[start] += shortest
        u[owner[inner]] += shortest - length[inner]
        v[inner] -= shortest - length[inner]
        # Each row of the path passes its column to the row before it.
        while row != start:
            row = int(before[column])
            owner[column], chosen[row], column = row, column, int(chosen[row])
    return chosen
