"""Assertions that the tests of several formats share."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph import Array


def assert_same(found: Any, expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype
