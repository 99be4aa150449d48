"""The calls that kernels are made of read and write the memory they were bound to, however it lies."""

import numpy as np
import pytest

from engine.kernels import step
from engine.kernels.step import clipped, finish, flat


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


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("limits", [(0, np.inf), (0, 6), (-np.inf, 1), (-np.inf, np.inf), (2, 1)])
def test_both_ways_to_clip_give_the_same(fast, limits, monkeypatch):
    monkeypatch.setattr(step, "HAS_FAST_CLIP", fast)
    source = np.array([-np.inf, -3, -0.0, 0.5, 1.5, 7, np.inf, np.nan], np.float32)
    in_place = source.copy()
    for given, out in ((source, np.zeros_like(source)), (in_place, in_place)):
        for call in clipped(*limits, given, out):
            call()
        np.testing.assert_array_equal(out, np.clip(source, *limits))
