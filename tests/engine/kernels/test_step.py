"""The calls that kernels are made of read and write the memory they were bound to, however it lies."""

import numpy as np
import pytest

from engine.kernels.step import finish, flat


@pytest.mark.parametrize("framed", ["source", "out", "residual", "none"])
def test_a_residual_that_lies_in_a_frame_is_read_when_the_plan_runs(framed):
    def values(name):
        whole = np.zeros((1, 6, 6, 4), np.float32)
        return whole[:, 1:-1, 1:-1] if name == framed else np.ascontiguousarray(whole[:, 1:-1, 1:-1])

    source, out, residual = values("source"), values("out"), values("residual")
    calls = finish(source, out, [residual], "Relu")
    source[...] = 1.0
    residual[...] = np.arange(64).reshape(4, 4, 4) - 30.0
    expected = np.maximum(source + residual, 0)
    for call in calls:
        call()
    np.testing.assert_array_equal(out, expected)


def test_a_view_of_one_axis_is_never_a_copy():
    array = np.zeros((3, 4))
    assert np.shares_memory(flat(array), array)
    with pytest.raises(ValueError, match="no view of one axis"):
        flat(array[:, 1:])
