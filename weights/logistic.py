"""Fits a logistic regression on measures of two kinds, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats

ITERATIONS, CONVERGED = 60, 1e-6


def fit_logistic(inputs: Floats, is_first: NDArray[np.bool_], decay: float) -> Floats:
    """Return the coefficients (n,) that give the log-odds of the first kind, by Newton's method.

    Both kinds have the same weight, however many there are of each.

    Args:
        inputs: (count, n) standardised measures; the last one is the constant 1.
        is_first: (count,) whether a row is of the first kind; some are, some are not.
        decay: weight of the coefficients' squares in the sum of the losses, but for the constant's.
    """
    first = int(is_first.sum())
    weight = np.where(is_first, 0.5 / first, 0.5 / (len(inputs) - first)) * len(inputs)
    penalty = np.diag([decay] * (inputs.shape[1] - 1) + [1e-3])
    point = np.zeros(inputs.shape[1])
    for _ in range(ITERATIONS):
        odds = 1 / (1 + np.exp(-np.clip(inputs @ point, -30, 30)))
        curvature = (inputs * (weight * odds * (1 - odds) + 1e-9)[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curvature, inputs.T @ (weight * (odds - is_first)) + penalty @ point)
        point -= step
        if np.abs(step).max() < CONVERGED:
            break
    return point
