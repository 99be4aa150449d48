"""Converts inputs of double precision, such as `numpy.random.randn` makes, to the engine's float32."""

from __future__ import annotations

import warnings

import numpy as np

from engine.graph import Array

# Largest relative change of a number, and the size below which numbers may become 0.
TOLERANCE, NEGLIGIBLE = 1e-6, 1e-30


def as_float32(array: Array, what: str = "input") -> Array:
    """Return a float64 array as float32, with a warning; any other array as it is.

    Raises:
        ValueError: numbers that float32 does not hold to one part in a million: too large.
    """
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        converted = array.astype(np.float32)
    if not np.allclose(converted, array, rtol=TOLERANCE, atol=NEGLIGIBLE, equal_nan=True):
        raise ValueError(f"{what}: expected float32, found float64 numbers that are too large for it")
    warnings.warn(f"{what}: float64 was converted to float32", stacklevel=3)
    return converted
