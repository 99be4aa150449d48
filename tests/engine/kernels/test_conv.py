"""Every convolution kernel by name against the plain loops, in both layouts, within nets that frame and add."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import choose_steps, make_plan
from engine.graph import Array, Graph, Node, Shape, Value
from engine.kernels import KERNELS
from engine.kernels.conv import LATE
from engine.kernels.products import SMALL_PRODUCT, inner_parts, panel_width, panels, product, row_tiles
from engine.kernels.step import Layout
from engine.reference import run_graph
from tests.engine.operator_cases import CASES, Case, assert_close, run_in_plan

# Of the output's largest number. Sums that cancel make the error of F(4, 3) and F(5, 3); all others only round.
TOLERANCES = {"winograd4": 2e-5, "winograd5": 5e-5, "winograd6": 5e-5}
PLAIN = 1e-5

KERNEL_NAMES = [kernel.__name__ for kernel in KERNELS["Conv"]]
SMALL_PRODUCTS = "engine.kernels.blas.has_small_products"

# input, weight, strides, pads, group
SHAPES: list[tuple[Shape, Shape, tuple[int, ...], tuple[int, ...], int]] = [
    ((1, 16, 8, 8), (16, 16, 3, 3), (1, 1), (1, 1, 1, 1), 1),
    ((2, 16, 7, 9), (32, 16, 3, 3), (1, 1), (1, 1, 1, 1), 1),
    ((1, 16, 12, 12), (16, 16, 3, 3), (1, 1), (1, 1, 1, 1), 1),
    ((2, 17, 14, 8), (20, 17, 3, 3), (1, 1), (0, 0, 0, 0), 1),
    ((1, 16, 10, 10), (16, 16, 3, 3), (1, 1), (1, 1, 1, 1), 1),
    ((2, 24, 13, 15), (32, 24, 3, 3), (1, 1), (1, 0, 1, 2), 1),
    ((1, 17, 5, 6), (19, 17, 3, 3), (1, 1), (0, 0, 0, 0), 1),
    ((1, 24, 6, 6), (16, 24, 3, 3), (1, 1), (2, 0, 1, 3), 1),
    ((1, 16, 4, 4), (64, 16, 1, 1), (1, 1), (0, 0, 0, 0), 1),
    ((3, 20, 5, 4), (24, 20, 1, 1), (1, 1), (0, 0, 0, 0), 1),
    ((1, 16, 7, 7), (32, 16, 1, 1), (2, 2), (0, 0, 0, 0), 1),
    ((1, 8, 9, 9), (16, 8, 3, 3), (2, 2), (1, 1, 1, 1), 1),
    ((1, 3, 20, 20), (16, 3, 7, 7), (2, 2), (3, 3, 3, 3), 1),
    ((2, 1, 11, 12), (8, 1, 5, 5), (1, 1), (0, 2, 2, 0), 1),
    ((1, 4, 9, 13), (20, 4, 3, 2), (3, 4), (1, 0, 4, 0), 1),
    ((1, 12, 6, 7), (12, 1, 3, 3), (1, 1), (1, 1, 1, 1), 12),
    ((2, 12, 7, 6), (12, 1, 5, 5), (2, 2), (2, 2, 2, 2), 12),
    ((3, 16, 11, 13), (16, 1, 3, 3), (2, 2), (1, 1, 1, 1), 16),
    ((1, 20, 12, 17), (20, 1, 3, 2), (3, 4), (1, 0, 1, 3), 20),
    ((1, 8, 14, 9), (8, 1, 5, 5), (1, 2), (2, 0, 2, 1), 8),
    ((1, 8, 9, 10), (8, 1, 1, 1), (2, 3), (0, 0, 0, 0), 8),
    ((1, 8, 6, 6), (16, 4, 3, 3), (1, 1), (1, 1, 1, 1), 2),
    ((2, 16, 11), (32, 16, 3), (1,), (1, 1), 1),
    ((1, 16, 12), (16, 1, 3), (2,), (1, 1), 16),
    ((1, 16, 1, 1), (24, 16, 1, 1), (1, 1), (0, 0, 0, 0), 1),
]


# input, weight, strides, pads, group, dilations
DILATED: list[tuple[Shape, Shape, tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]] = [
    ((1, 16, 15, 20), (16, 16, 3, 3), (1, 1), (2, 2, 2, 2), 1, (2, 2)),
    ((1, 17, 15, 20), (16, 17, 3, 3), (1, 1), (4, 4, 4, 4), 1, (4, 4)),
    ((1, 16, 24, 9), (16, 16, 3, 3), (1, 1), (3, 0, 1, 2), 1, (3, 1)),
    ((2, 16, 6, 30), (16, 16, 3, 3), (1, 1), (1, 5, 1, 0), 1, (1, 5)),
    ((1, 16, 18, 20), (16, 16, 3, 3), (1, 1), (2, 2, 2, 2), 1, (2, 2)),
    ((1, 16, 24, 12), (16, 16, 3, 3), (1, 1), (2, 1, 2, 1), 1, (2, 1)),
]


def net(
    x: Shape,
    weight: Shape,
    strides: Shape,
    pads: Shape,
    group: int,
    dilations: Shape | None = None,
    *,
    residual: int,
    wraps: bool,
) -> Graph:
    """One Conv; with `wraps` between two Relus, so that it reads from and writes into the plan's own memory."""
    state = np.random.RandomState(sum(x) + sum(weight))
    dilations = dilations or (1,) * len(strides)
    attributes = {"strides": strides, "pads": pads, "group": group, "dilations": dilations, "activation": "Relu"}
    outs = [
        (size + pads[axis] + pads[axis + len(strides)] - dilations[axis] * (weight[2 + axis] - 1) - 1) // strides[axis]
        + 1
        for axis, size in enumerate(x[2:])
    ]
    inputs = [Value("x", x)]
    names = ("a" if wraps else "x", "w", "b")
    if residual:
        attributes["residual"] = residual
        inputs.append(Value("r", (x[0], weight[0], *outs)))
        names = (*names, "r")
    nodes = [Node("Conv", names, ("y" if wraps else "out",), attributes, "conv")]
    if wraps:
        nodes = [Node("Relu", ("x",), ("a",), {}, "before"), *nodes, Node("Relu", ("y",), ("out",), {}, "after")]
    arrays = {"w": state.uniform(-1, 1, weight).astype(np.float32), "b": state.uniform(-1, 1, weight[0])}
    arrays["b"] = arrays["b"].astype(np.float32)
    return Graph("one", tuple(inputs), (Value("out", ()),), tuple(nodes), initializers=arrays)


def inputs_of(graph: Graph) -> list[Array]:
    state = np.random.RandomState(11)
    return [state.uniform(-1, 2, value.shape).astype(np.float32) for value in graph.inputs]


@cache
def example(shape: tuple[Any, ...], residual: int, wraps: bool) -> tuple[Graph, list[Array], Array]:
    """A net, inputs, and what the plain loops make of them."""
    graph = net(*shape, residual=residual, wraps=wraps)
    arrays = inputs_of(graph)
    return graph, arrays, run_graph(graph, *arrays)[0]


def check(kernel: str, shape: tuple[Any, ...], *, residual: int, wraps: bool) -> bool:
    """Compare if the kernel runs the node; return whether it does."""
    graph, arrays, expected = example(shape, residual, wraps)
    selector = KernelSelector(pins={"conv": kernel}, layout=Layout.LAST)
    shapes = [value.shape for value in graph.inputs]
    if kernel not in [each.kernel for each in choose_steps(graph, shapes, selector)]:
        selector = KernelSelector(pins={"conv": kernel}, layout=Layout.PLANAR)
        if kernel not in [each.kernel for each in choose_steps(graph, shapes, selector)]:
            return False
    plan = make_plan(graph, shapes, selector)
    plan.run(*(np.full_like(array, np.nan) for array in arrays))  # what an earlier frame left must not matter
    found = plan.run(*arrays)
    assert isinstance(found, np.ndarray)
    assert found.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(found - expected).max() <= TOLERANCES.get(kernel, PLAIN) * largest
    return True


def offer_everywhere(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a kernel run that declines on this core, or for a small image, because it would be slow."""
    if kernel == "rows_in_panels":
        monkeypatch.setattr(SMALL_PRODUCTS, lambda: True)
    monkeypatch.setattr("engine.kernels.winograd.MIN_SIDE", 1)


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
@pytest.mark.parametrize(("residual", "wraps"), [(0, False), (0, True), (1, True), (LATE, True), (LATE, False)])
def test_kernel_agrees_with_plain_loops_wherever_it_offers_itself(
    kernel: str, residual: int, wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_everywhere(kernel, monkeypatch)
    # Only convolutions of one group get a late residual (`engine.compiler.fusion.fuse_residuals`).
    shapes = [shape for shape in SHAPES if residual != LATE or shape[4] == 1]
    taken = [check(kernel, shape, residual=residual, wraps=wraps) for shape in shapes]
    assert sum(taken) >= 2 or len(shapes) < len(SHAPES)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_kernel_agrees_with_small_products_and_without(
    kernel: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_everywhere(kernel, monkeypatch)
    monkeypatch.setattr(SMALL_PRODUCTS, lambda: small)
    taken = [check(kernel, shape, residual=0, wraps=True) for shape in SHAPES]
    assert sum(taken) >= 2 if small or kernel != "rows_in_panels" else not any(taken)


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_kernel_agrees_in_many_slabs(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_everywhere(kernel, monkeypatch)
    for module in ("conv_last", "depthwise", "winograd"):
        monkeypatch.setattr(f"engine.kernels.{module}.SLAB_BYTES", 3000)
    monkeypatch.setattr("engine.kernels.products.SMALL_PRODUCT", 8000)
    assert sum(check(kernel, shape, residual=1, wraps=True) for shape in SHAPES) >= 2


@pytest.mark.parametrize("slab", [3000, 768 << 10])
@pytest.mark.parametrize("residual", [0, 1, LATE])
@pytest.mark.parametrize("kernel", ["winograd2", "winograd4", "winograd5", "winograd6", "rows_in_panels"])
def test_kernel_agrees_with_dilation(kernel: str, residual: int, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_everywhere(kernel, monkeypatch)
    monkeypatch.setattr("engine.kernels.winograd.SLAB_BYTES", slab)
    taken = [check(kernel, shape, residual=residual, wraps=True) for shape in DILATED]
    assert all(taken) or (kernel in ("winograd5", "winograd6") and any(taken))


@pytest.mark.parametrize(
    ("kernel", "bound"), [("winograd2", 1e-6), ("winograd4", 5e-6), ("winograd5", 1e-5), ("winograd6", 1e-5)]
)
def test_winograds_error_has_a_bound(kernel: str, bound: float) -> None:
    state = np.random.RandomState(5)
    shape, weight = (1, 64, 60, 60), (16, 64, 3, 3)
    graph = net(shape, weight, (1, 1), (1, 1, 1, 1), 1, residual=0, wraps=False)
    w = state.standard_normal(weight).astype(np.float32)
    graph = replace(graph, initializers={"w": w, "b": np.zeros(16, np.float32)})
    x = state.standard_normal(shape).astype(np.float32)
    found = make_plan(graph, [shape], KernelSelector(pins={"conv": kernel}, layout=Layout.LAST)).run(x)
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    expected = np.maximum(np.tensordot(w.astype(np.float64), windows, ((1, 2, 3), (0, 3, 4))), 0)
    assert np.abs(found - expected).max() <= bound * expected.max()


def test_winograd_declines_where_most_of_its_tiles_would_lie_outside() -> None:
    shape = ((1, 16, 8, 8), (16, 16, 3, 3), (1, 1), (8, 8, 8, 8), 1, (8, 8))
    assert not check("winograd4", shape, residual=0, wraps=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operator_agrees_with_itself_channels_last(case: Case) -> None:
    planar, final = (
        run_in_plan(case.node(), case.inputs(), constants=True, selector=KernelSelector(layout=layout))
        for layout in (Layout.PLANAR, Layout.LAST)
    )
    assert_close(final, planar)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 200))
def test_tiles_cover_every_row_once_and_stay_small(rows: int, limit: int) -> None:
    tiles = row_tiles(rows, limit)
    covered = [
        start + tile * size + row
        for start, n, size in row_tiles(rows, limit)
        for tile in range(n)
        for row in range(size)
    ]
    assert covered == list(range(rows))
    assert all(size <= limit for _, _, size in tiles)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 150), st.integers(1, 3))
def test_product_in_panels_is_the_product(rows: int, inner: int, columns: int, stack: int) -> None:
    state = np.random.RandomState(rows)
    a = state.uniform(-1, 1, (stack, rows, inner)).astype(np.float32)
    b = state.uniform(-1, 1, (stack, inner, columns)).astype(np.float32)
    out = np.zeros((stack, rows, columns), np.float32)
    width = panel_width(inner, columns)
    assert width is not None
    for call in product(a, panels(b, width), out):
        call()
    np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inner", [64, 147, 1152, 2048, 2304, 4608])
def test_a_long_inner_axis_is_cut_evenly_until_a_full_panel_is_small(inner: int) -> None:
    parts = inner_parts(inner)
    assert inner % parts == 0
    assert panel_width(inner // parts, 512) == 64
    assert 12 * 64 * (inner // parts) <= SMALL_PRODUCT
