"""Plans: their allocations, operands for BLAS, the arrays that they read and write, and refused inputs."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.compiler.arena import ALIGNMENT, Buffer, place
from engine.compiler.planner import make_plan
from engine.graph import Graph, ModelError, Node, UnsupportedOperator, Value
from engine.kernels.step import aligned, blasable, gemm
from engine.model import Model, with_card
from engine.nets.layers import NetBuilder
from engine.plan import BUFFER
from tests.engine import net_cases
from tests.engine.nets.test_nets import model


def chain(*nodes: Node, shape: tuple[int, ...] = (1, 4), outputs: tuple[str, ...] = ("out",)) -> Graph:
    return Graph("chain", (Value("in0", shape),), tuple(Value(name, ()) for name in outputs), nodes)


@pytest.mark.parametrize("name", net_cases.NETS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_run_allocates_no_array(name: str, count: int) -> None:
    plan, images = model(name).plan((count, *net_cases.images(name).shape[1:])), net_cases.images(name, count)
    gc.collect()
    # NumPy's own ufunc buffers, of a fixed size, are made as small as they get, so as to see anything else; some plans
    # choose their size.
    size = np.setbufsize(16)
    tracemalloc.start()
    try:
        for _ in range(50):  # until Python's free lists are full
            plan.run(images)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            plan.run(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        np.setbufsize(size)
    # Iterators, argument tuples and these buffers; the nets' layers have up to 65536 bytes an item.
    assert peak - before < 2500 + 20 * BUFFER


def test_a_run_leaves_numpys_buffers_as_they_were() -> None:
    net = NetBuilder("one", (3, 80, 80))
    graph = net.graph(net.relu(net.conv(net.input, "conv", 3, 32, 3)), (32, 78, 78))
    plan = make_plan(graph.bind({key: np.ones(shape) for key, shape in graph.parameters.items()}), [(1, 3, 80, 80)])
    assert plan.large
    size, seen = np.setbufsize(4096), []
    try:
        plan.calls[:] = [lambda: seen.append(np.getbufsize())]
        plan.run()
        assert seen == [BUFFER]
        assert np.getbufsize() == 4096
        plan.calls[:] = [partial(np.add, np.ones(2), np.ones(3))]
        with pytest.raises(ValueError, match="broadcast"):
            plan.run()
        assert np.getbufsize() == 4096
    finally:
        np.setbufsize(size)


def test_tracemalloc_would_see_an_allocated_array() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        _ = np.ones(1000, np.float32) + 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before >= 4000


@pytest.mark.parametrize("name", net_cases.NETS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_matrix_product_goes_to_blas(name: str, count: int) -> None:
    plan = model(name).plan((count, *net_cases.images(name).shape[1:]))
    products = [call for call in plan.calls if isinstance(call, partial) and call.func in (np.dot, np.matmul)]
    layers = [node for node in net_cases.build(name).nodes if node.op_type in ("Conv", "Gemm")]
    assert len(products) >= len(layers)
    assert all(blasable(operand) for call in products for operand in call.args)


def test_gemm_refuses_operands_that_numpy_would_not_give_to_blas() -> None:
    out, good = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    overlapping = np.lib.stride_tricks.sliding_window_view(np.ones(7, np.float32), 4)
    for bad in (np.ones((4, 8), np.float32)[:, ::2], overlapping, good.astype(np.float64)):
        with pytest.raises(ValueError, match="does not fit BLAS"):
            gemm(bad, good, out)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_buffers_that_live_together_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer((size,), min(a, b), max(a, b)) for size, a, b in drawn]
    total = place(buffers)
    for one, other in combinations(buffers, 2):
        if one.first <= other.last and other.first <= one.last:
            assert one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset
    assert all(buffer.offset % 64 == 0 and buffer.offset + buffer.nbytes <= total for buffer in buffers)


def test_memory_is_shared_by_values_that_never_live_together() -> None:
    relus = [Node("Relu", (f"v{index}",), (f"v{index + 1}",), {}, f"relu{index}") for index in range(20)]
    graph = Graph("long", (Value("v0", (1, 1000)),), (Value("v20", ()),), tuple(relus))
    assert make_plan(graph, [(1, 1000)]).arena_bytes <= 3 * 4096


@pytest.mark.parametrize("start", range(4))
def test_an_aligned_copy_begins_with_a_cache_line(start: int) -> None:
    numbers = np.arange(40, dtype=np.float32)[start : start + 30].reshape(5, 6)
    found = aligned(numbers)
    assert found.ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(found, numbers)
    assert aligned(found) is found


def test_a_value_read_late_is_not_overwritten() -> None:
    middle = [Node("Relu", (f"v{index}",), (f"v{index + 1}",), {}, "") for index in range(5)]
    nodes = (Node("Add", ("in0", "in0"), ("v0",), {}, ""), *middle, Node("Add", ("v0", "v5"), ("out",), {}, ""))
    x = np.array([[1, -2, 3, -4]], np.float32)
    found = make_plan(chain(*nodes), [(1, 4)]).run(x)
    np.testing.assert_array_equal(found, [[4, -4, 12, -8]])


def test_padding_stays_zero_run_after_run() -> None:
    net, images = model("cifar10"), net_cases.images("cifar10")
    plan = net.plan((1, 3, 32, 32))
    first = np.array(plan.run(images[:1]))
    plan.run(np.full_like(images[:1], 1e6))
    np.testing.assert_array_equal(plan.run(images[:1]), first)


def test_run_returns_its_own_output_and_copies_it_on_request() -> None:
    plan, images = model("mnist").plan(), net_cases.images("mnist")
    out = np.zeros((1, 10), np.float32)
    found = plan.run(images[:1], out=out)
    assert found is plan.outputs[0]
    np.testing.assert_array_equal(out, found)
    kept = out.copy()
    plan.run(images[1:])
    assert not np.array_equal(plan.outputs[0], kept)
    np.testing.assert_array_equal(out, kept)


def test_run_without_arguments_takes_what_was_written_into_its_inputs() -> None:
    plan, images = model("mnist").plan(), net_cases.images("mnist")
    expected = np.array(plan.run(images[:1]))
    plan.run(images[1:])
    plan.inputs[0][...] = images[:1]
    np.testing.assert_array_equal(plan.run(), expected)


@pytest.mark.parametrize("name", net_cases.NETS)
def test_bound_run_reads_and_writes_the_given_arrays(name: str) -> None:
    images = net_cases.images(name, 2)
    plan = model(name).plan((1, *images.shape[1:]))
    expected = [np.array(plan.run(image[None])) for image in images]
    slots = np.zeros((2, images[0].size + plan.outputs[0].size), np.float32)
    runs, results = [], []
    for slot in slots:
        source, target = slot[: images[0].size].reshape(plan.inputs[0].shape), slot[images[0].size :][None]
        runs.append(plan.bind([source], [target]))
        results.append(target)
    for slot, image, run in zip(slots, images, runs, strict=True):
        slot[: image.size] = image.ravel()
        run()
    np.testing.assert_array_equal(results, expected)


def test_a_bound_run_reads_a_read_only_array() -> None:
    plan, image = model("mnist").plan(), net_cases.images("mnist", 1)
    expected, out = np.array(plan.run(image)), np.zeros((1, 10), np.float32)
    image.flags.writeable = False
    plan.bind([image], [out])()
    np.testing.assert_array_equal(out, expected)


def test_wrong_arrays_are_refused_with_what_was_expected() -> None:
    plan, image, out = model("mnist").plan(), net_cases.images("mnist", 1), np.zeros((1, 10), np.float32)
    with pytest.raises(ValueError, match=r"input 0: expected float32 of shape \(1, 1, 28, 28\), found float64"):
        plan.run(image.astype(np.float64))
    with pytest.raises(ValueError, match=r"found float32 of shape \(1, 28, 28\)"):
        plan.run(image[0])
    with pytest.raises(ValueError, match="expected 1 input arrays, found 2"):
        plan.run(image, image)
    with pytest.raises(ValueError, match=r"output 0: expected float32 of shape \(1, 10\)"):
        plan.run(image, out=out[0])
    with pytest.raises(ValueError, match="input 0: expected a C-contiguous, aligned array"):
        plan.bind([image.transpose(0, 1, 3, 2)], [out])
    out.flags.writeable = False
    with pytest.raises(ValueError, match="output 0: the array is read-only"):
        plan.bind([image], [out])


def test_wrong_shapes_are_refused_when_planning() -> None:
    with pytest.raises(ModelError, match=r"input 'input' is \(N, 1, 28, 28\), found \(1, 3, 32, 32\)"):
        model("mnist").plan((1, 3, 32, 32))
    with pytest.raises(ModelError, match=r"found \(0, 1, 28, 28\)"):
        model("mnist").plan((0, 1, 28, 28))
    with pytest.raises(ModelError, match="takes 1 inputs, 2 shapes are given"):
        model("mnist").plan((1, 1, 28, 28), (1, 1, 28, 28))


def test_unknown_operator_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperator, match=r"operator LSTM \('deep'\) is not supported; known are Add"):
        make_plan(chain(Node("LSTM", ("in0",), ("out",), {}, "deep")), [(1, 4)])


@pytest.mark.parametrize(
    ("node", "shape", "message"),
    [
        (Node("Relu", ("in0",), ("out",), {"slope": 0.1}, "r"), (1, 4), r"Relu 'r': attribute slope=0.1 is not"),
        (Node("Softmax", ("in0",), ("out",), {"axis": 2}, "s"), (1, 4), "Softmax 's': axis 2, but its input has 2"),
        (Node("Relu", ("nowhere",), ("out",), {}, "r"), (1, 4), "Relu 'r' reads 'nowhere', which nothing before it"),
        (Node("Relu", ("in0",), ("else",), {}, "r"), (1, 4), "no node makes its output 'out'"),
        (Node("MaxPool", ("in0",), ("out",), {}, "p"), (1, 1, 4, 4), "MaxPool 'p': kernel_shape is missing"),
        (
            Node("MaxPool", ("in0",), ("out",), {"kernel_shape": (5, 5)}, "p"),
            (1, 1, 4, 4),
            r"MaxPool 'p': input \(4, 4\) with its padding is smaller than the kernel \(5, 5\)",
        ),
        (
            Node("MaxPool", ("in0",), ("out",), {"kernel_shape": (2, 2), "strides": (0, 1)}, "p"),
            (1, 1, 4, 4),
            r"strides=\(0, 1\); expected 2 whole numbers of at least 1",
        ),
        (
            Node("MaxPool", ("in0",), ("out",), {"kernel_shape": (2, 2), "auto_pad": "SAME"}, "p"),
            (1, 1, 4, 4),
            "auto_pad='SAME'; supported is NOTSET, VALID",
        ),
        (
            Node("AveragePool", ("in0",), ("out",), {"kernel_shape": (2, 2), "pads": (2, 2, 2, 2)}, "p"),
            (1, 1, 4, 4),
            "lies wholly in the padding",
        ),
        (
            Node("MaxPool", ("in0",), ("out", "at"), {"kernel_shape": (2, 2)}, "p"),
            (1, 1, 4, 4),
            "without their indices",
        ),
        (
            Node("Add", ("in0", "in0"), ("out",), {"activation": "Gelu"}, "a"),
            (1, 4),
            "activation='Gelu'; supported is Relu",
        ),
        (Node("Dropout", ("in0",), ("out", "mask"), {}, "d"), (1, 4), "Dropout 'd'"),
        (Node("Add", ("in0", "in0"), ("out",), {"axis": 1}, "a"), (1, 4), "attribute axis=1"),
        (Node("Gemm", ("in0", "in0"), ("out",), {}, "g"), (1, 4), r"Gemm 'g': input \(1, 4\) does not fit weight"),
        (Node("Conv", ("in0", "in0"), ("out",), {"group": 3}, "c"), (4, 4, 3, 3), "in 3 groups does not fit"),
    ],
)
def test_a_node_that_cannot_run_is_refused_with_its_name(node: Node, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_plan(chain(node, shape=shape), [shape])


def test_outputs_that_are_views_or_inputs_are_copied_out() -> None:
    nodes = (Node("Relu", ("in0",), ("r",), {}, ""), Node("Flatten", ("r",), ("flat",), {}, ""))
    plan = make_plan(chain(*nodes, shape=(1, 2, 2), outputs=("flat", "r", "in0")), [(1, 2, 2)])
    x = np.array([[[1, -2], [-3, 4]]], np.float32)
    flat, relu, same = plan.run(x)
    np.testing.assert_array_equal(flat, [[1, 0, 0, 4]])
    np.testing.assert_array_equal(relu, [[[1, 0], [0, 4]]])
    np.testing.assert_array_equal(same, x)


def test_an_output_named_twice_is_given_twice() -> None:
    plan = make_plan(chain(Node("Relu", ("in0",), ("r",), {}, ""), outputs=("r", "r")), [(1, 4)])
    first, second = plan.run(np.array([[1, -1, 2, -2]], np.float32))
    np.testing.assert_array_equal(first, [[1, 0, 2, 0]])
    np.testing.assert_array_equal(second, first)


def test_model_run_gives_arrays_that_stay() -> None:
    net, images = model("mnist"), net_cases.images("mnist", 2)
    first = net.run(images[:1])
    kept = np.array(first)
    net.run(images[1:])
    np.testing.assert_array_equal(first, kept)


def test_labels_that_do_not_fit_the_outputs_are_refused() -> None:
    net = model("mnist")
    with pytest.raises(ModelError, match="net 'mnist' has 10 outputs, but 2 labels are given"):
        Model(replace(net.card, labels=("yes", "no")), net.graph)


def test_described_model_has_the_changed_card_and_the_same_numbers() -> None:
    net, image = model("mnist"), net_cases.images("mnist", 1)
    other = with_card(net, labels=tuple("abcdefghij"))
    assert other.card == replace(net.card, labels=tuple("abcdefghij"))
    np.testing.assert_array_equal(other.run(image), net.run(image))
    with pytest.raises(ModelError, match="10 outputs, but 1 labels"):
        with_card(net, labels=("one",))


def test_input_shape_of_the_card_must_be_the_nets() -> None:
    net = model("mnist")
    with pytest.raises(ModelError, match=r"takes \(1, 28, 28\), but its card has \(1, 32, 32\)"):
        Model(replace(net.card, input_shape=(1, 32, 32)), net.graph)


def test_a_free_spatial_size_takes_any() -> None:
    net = NetBuilder("free", (1, 0, 0))
    graph = net.graph(net.conv(net.input, "conv", 1, 2, 3), (2, 0, 0))
    graph = graph.bind({"conv.weight": np.ones((2, 1, 3, 3)), "conv.bias": np.zeros(2)})
    assert make_plan(graph, [(1, 1, 5, 9)]).outputs[0].shape == (1, 2, 3, 7)
