"""Nets of detectors' kinds against ONNX Runtime: depthwise convolutions, SiLU, shuffles, slices, several heads."""

from __future__ import annotations

import numpy as np
import pytest

from engine.compiler.kernel_selection import KernelSelector
from engine.model import Model
from tests.benchmarks.detector_nets import DETECTORS, card_of, with_weights
from tests.benchmarks.peers import onnxruntime_run

# An input's side that each level of the net divides without a rest.
_SIDE = 96


@pytest.mark.parametrize("name", DETECTORS)
def test_outputs_are_those_of_onnx_runtime(name: str) -> None:
    pytest.importorskip("onnxruntime")
    graph = with_weights(DETECTORS[name](_SIDE))
    x = np.random.default_rng(1).standard_normal((1, 3, _SIDE, _SIDE), np.float32)
    expected = onnxruntime_run(graph, x)()
    plan = Model(card_of(graph), graph).plan(x.shape, selector=KernelSelector())
    plan.run(np.full_like(x, np.nan))  # what an earlier frame left must not matter
    found = np.asarray(plan.run(x))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
