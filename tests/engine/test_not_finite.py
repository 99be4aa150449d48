"""NaN and infinity go through every kernel as IEEE says, and are forgotten with the frame that brought them.

Winograd is an exception, as everywhere: it sums up whole tiles, so that around a number that is not finite a few more
outputs are NaN than must be; none that should be NaN or infinite ever becomes a number. (Of Resize, which sums up with
shares that may be 0, ONNX does not say whether these count.)
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.choices import Choices
from engine.graph import Array, Graph, Value
from engine.kernels.step import Layout
from engine.model import Model
from engine.planner import choose_steps, make_plan
from engine.reference import run_graph, run_node
from tests.engine import net_cases
from tests.engine.operator_cases import CASES, Case
from tests.engine.test_conv_kernels import KERNEL_NAMES, SHAPES, net
from tests.engine.test_nets import model

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

STRANGE = (np.nan, np.inf, -np.inf)
TILE = 6  # inputs that one of Winograd's tiles spans


def spoilt(array: Array, number: float, seed: int = 0) -> Array:
    found = array.copy()
    if found.size:
        found.flat[np.random.RandomState(seed).randint(found.size)] = number
    return found


def assert_same(found: Array, expected: Array) -> None:
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [Layout.PLANAR, Layout.LAST], ids=["planar", "last"])
@pytest.mark.parametrize("number", STRANGE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_pass_them_on_and_forget_them(case: Case, number: float, layout: Layout) -> None:
    inputs, node = case.inputs(), case.node()
    strange = spoilt(inputs[0], number)
    initializers = dict(zip(node.inputs[1:], inputs[1:], strict=True))
    graph = Graph("g", (Value("in0", strange.shape),), (Value("out", ()),), (node,), initializers=initializers)
    plan = make_plan(graph, [strange.shape], Choices(layout=layout))
    before = np.array(plan.run(inputs[0]))
    found, expected = np.array(plan.run(strange)), run_node(node, strange, *inputs[1:])
    if case.op_type != "Resize" or case.attributes.get("mode", "nearest") == "nearest":
        assert_same(found, expected)
    np.testing.assert_array_equal(plan.run(inputs[0]), before)


def pinned(graph: Graph, kernel: str) -> Choices | None:
    """Choices in which that kernel runs the graph's Conv; None if it does not suit it."""
    shapes = [value.shape for value in graph.inputs]
    for layout in (Layout.LAST, Layout.PLANAR):
        choices = Choices(pins={"conv": kernel}, layout=layout)
        if kernel in [each.kernel for each in choose_steps(graph, shapes, choices)]:
            return choices
    return None


@pytest.mark.parametrize("number", STRANGE)
@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_kernels_of_conv_keep_them_where_they_belong(kernel: str, number: float) -> None:
    taken = 0
    for x, weight, strides, pads, group in SHAPES:
        graph = net(x, weight, strides, pads, group, residual=False, wraps=False)
        choices = pinned(graph, kernel)
        if choices is None:
            continue
        taken += 1
        clean = np.random.RandomState(1).uniform(-1, 1, x).astype(np.float32)
        strange = spoilt(clean, number, 2)
        plan = make_plan(graph, [x], choices)
        found, (expected,) = np.array(plan.run(strange)), run_graph(graph, strange)
        if kernel.startswith("winograd"):
            near = np.zeros(found.shape, bool)
            _, _, row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(strange)))
            near[:, :, max(0, row - TILE) : row + TILE, max(0, column - TILE) : column + TILE] = True
            assert not np.isfinite(found[~np.isfinite(expected)]).any()
            assert np.isfinite(found[~near]).all()
            np.testing.assert_allclose(found[~near], expected[~near], rtol=0, atol=1e-4)
        else:
            assert_same(found, expected)
    assert taken >= 2


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", net_cases.NETS)
def test_a_frame_of_nan_makes_nan_and_leaves_no_trace(name: str, batch: int) -> None:
    found: Model = model(name)
    pictures = net_cases.pictures(name, batch)
    plan = found.plan(pictures.shape)
    before = np.array(plan.run(pictures))
    for number in STRANGE:
        strange = pictures.copy()
        strange[0] = number
        after = np.array(plan.run(strange))
        assert np.isnan(after[0]).all() or not np.isfinite(after[0]).all()
        np.testing.assert_array_equal(after[1:], before[1:])  # nor in the other items of the batch
        np.testing.assert_array_equal(plan.run(pictures), before)
