"""No matrix product of any net gets an operand that BLAS does not accept: NumPy would silently run slow loops."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest

from engine import nets
from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.memory_plan import alone
from engine.compiler.planner import choose, make_plan, prepare
from engine.graph import Array, Graph
from engine.kernels import FUSED, KERNELS
from engine.kernels.step import Call, Layout, Operand

LARGE = {"resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg16"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in nets.REGISTRY]


def products(calls: Iterable[Call]) -> list[tuple[Array, ...]]:
    """Operands and output of each matrix product; every call must be one that can be looked into."""
    found = []
    for call in calls:
        function: Any = call.func if isinstance(call, partial) else call
        while isinstance(function, partial):
            function = function.func
        # A ufunc or a method of one, an array's method, or a NumPy function; none of the engine.
        ours = hasattr(function, "__code__") and not function.__module__.startswith("numpy")
        assert not ours, f"{function} may hide a product"
        if isinstance(call, partial) and function in (np.matmul, np.dot):
            out = call.keywords.get("out")
            found.append((*call.args, *([] if out is None else [out])))
    return found


def goes_to_blas(matrix: Array) -> bool:
    """NumPy 1.24's `is_blasable2d` on the last two axes in either order, and the alignment that it asks for first."""
    if matrix.dtype != np.float32 or not matrix.flags.aligned or not matrix.dtype.isnative:
        return False
    (rows, columns), (down, across) = matrix.shape[-2:], matrix.strides[-2:]

    def fits(slow: int, fast: int, length: int) -> bool:
        return fast == 4 and slow % 4 == 0 and slow // 4 >= length and slow // 4 <= 2**31 - 1

    return fits(down, across, columns) or fits(across, down, rows)


def check(calls: Iterable[Call]) -> int:
    """How many products there are, all of them for BLAS."""
    found = products(calls)
    for operands in found:
        assert len(operands) == 3
        for operand in operands:
            assert operand.ndim >= 2
            assert goes_to_blas(operand), (operand.shape, operand.strides, operand.dtype)
    return len(found)


def empty(name: str) -> Graph:
    """The net with weights that are never touched and take no memory."""
    graph = nets.build(name)
    return graph.bind({key: np.zeros(shape, np.float32) for key, shape in graph.parameters.items()})


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_product_of_a_plan_goes_to_blas(name: str, batch: int) -> None:
    shape = (batch, *nets.default_card(name).input_shape)
    graph = empty(name)
    linear = sum(
        node.op_type == "Gemm" or (node.op_type == "Conv" and "group" not in node.attributes) for node in graph.nodes
    )
    for layout in (None, Layout.PLANAR):
        plan = make_plan(optimise(graph), [shape], KernelSelector(layout=layout))
        assert check(plan.calls) >= linear
    bound = plan.bind([np.zeros(shape, np.float32)], [np.zeros(out.shape, np.float32) for out in plan.outputs])
    assert check(bound.args[0]) >= linear  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_that_offers_to_run_a_node_goes_to_blas(name: str) -> None:
    shapes, found, seen = [(1, *nets.default_card(name).input_shape)], 0, set()
    for layout in (Layout.PLANAR, Layout.LAST):
        selector = KernelSelector(layout=layout)
        prepared = prepare(optimise(empty(name)), shapes, selector)
        graph = prepared.graph
        assert graph is not None
        known = {key: Operand(array.shape, array, True) for key, array in graph.initializers.items()}
        known |= {value.name: Operand(shape) for value, shape in zip(graph.inputs, shapes, strict=True)}
        for each in choose(graph, shapes, selector, prepared):
            inputs = [known[key] for key in each.node.inputs]
            known[each.node.outputs[0]] = Operand(each.step.shape)
            kind = (each.node.op_type, str(each.node.attributes), *(operand.shape for operand in inputs))
            if kind in seen:
                continue
            seen.add(kind)
            for kernel in {**KERNELS, **FUSED}[each.node.op_type]:
                step = kernel(each.node, inputs)
                if step is not None and step.layout is not Layout.ANY and step.bind is not None:
                    found += check(alone(inputs, step)[0])
    assert found


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 6), np.float32)[:, ::2],
        np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (4, 5), (4, 4)),
        np.zeros((4, 4)),
        np.zeros((4, 4), ">f4"),
        np.frombuffer(bytes(66), np.uint8)[1:65].view(np.float32).reshape(4, 4),
    ],
    ids=["every other", "overlapping", "double", "big-endian", "unaligned"],
)
def test_the_check_finds_operands_that_blas_does_not_accept(bad: Array) -> None:
    good = np.zeros((4, 4), np.float32)
    assert goes_to_blas(good)
    assert goes_to_blas(good.T)
    assert not goes_to_blas(bad)
    with pytest.raises(AssertionError):
        check([partial(np.matmul, good, bad, out=good)])
