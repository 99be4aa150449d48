"""A model shared through one mapping: another process computes the same from it, and damage is noticed."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.graph import Graph, ModelError, Node, Value
from engine.model import Model, ModelCard
from engine.runtime.shared_model import attach_shared, write_shared
from tests.engine import net_cases
from tests.engine.nets.test_nets import model

ROOT = Path(__file__).resolve().parents[3]

CHILD = """
import mmap, os, sys
import numpy as np
from engine.runtime.shared_model import attach_shared

mapping = mmap.mmap(int(sys.argv[1]), 0, prot=mmap.PROT_READ)
model = attach_shared(mapping)
shape = model.card.input_shape
image = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(1, *shape)
sys.stdout.buffer.write(model.plan().run(image).tobytes())
"""


def shared(net: str | Model) -> bytearray:
    file = io.BytesIO()
    assert write_shared(model(net) if isinstance(net, str) else net, file) == file.tell()
    return bytearray(file.getvalue())


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_another_process_computes_the_same_from_a_memfd(name: str) -> None:
    image, net = net_cases.images(name, 1), model(name)
    fd = os.memfd_create("model")
    try:
        size = write_shared(net, fd)
        assert os.fstat(fd).st_size == size
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(fd)],
            input=image.tobytes(),
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            cwd=ROOT,
            timeout=60,
            check=True,
        )
    finally:
        os.close(fd)
    # Not to the last bit: this process and that one may give BLAS another number of threads, which rounds otherwise.
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), np.asarray(net.run(image))[0], atol=1e-6)


@pytest.mark.parametrize("name", net_cases.NETS)
def test_attached_model_has_the_same_card_and_outputs(name: str) -> None:
    original, attached = model(name), attach_shared(bytes(shared(name)))
    assert attached.card == original.card
    images = net_cases.images(name)
    np.testing.assert_allclose(attached.run(images), original.run(images), atol=1e-6)


def test_arrays_are_aligned_read_only_views_of_the_mapping() -> None:
    fd = os.memfd_create("model")
    size = write_shared(model("cifar10"), fd)
    mapping = mmap.mmap(fd, size)  # writeable, to see that the views are not
    os.close(fd)
    memory = np.frombuffer(mapping, np.uint8)
    for array in attach_shared(mapping).graph.initializers.values():
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0
        assert np.shares_memory(array, memory)


def test_planning_an_attached_model_copies_no_weights() -> None:
    data = bytes(shared("cifar10"))
    mapping = mmap.mmap(-1, len(data))  # begins with a page, as workers' memory does: a copy would only align weights
    mapping.write(data)
    attached = attach_shared(mapping)
    weights = attached.graph.initializers["fc1.weight"]
    operands = [operand for call in attached.plan().calls for operand in getattr(call, "args", ())]
    assert any(np.shares_memory(operand, weights) for operand in operands if isinstance(operand, np.ndarray))


def test_memory_that_holds_no_model_is_refused() -> None:
    for buffer in (b"", b"short", bytes(4096)):
        with pytest.raises(ModelError, match="this memory holds none"):
            attach_shared(buffer)


def test_truncated_memory_is_refused() -> None:
    whole = bytes(shared("mnist"))
    for keep in range(0, len(whole), 997):
        with pytest.raises(ModelError, match="shared model"):
            attach_shared(whole[:keep])


def test_a_flipped_byte_of_the_header_never_raises_anything_but_a_model_error() -> None:
    whole, state = shared("mnist"), np.random.RandomState(5)
    refused = 0
    for place in state.randint(0, 1500, 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << state.randint(8)
        try:
            attach_shared(bytes(damaged))
        except ModelError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(("old", "new"), [(b'"offset": 64', b'"offset": 65'), (b'"offset": 64', b'"offset": -4')])
def test_arrays_outside_the_memory_are_refused(old: bytes, new: bytes) -> None:
    graph = Graph(
        "two",
        (Value("x", (0, 1, 2, 2)),),
        (Value("y", (0, 1, 2, 2)),),
        (Node("Add", ("x", "a"), ("z",)), Node("Add", ("z", "b"), ("y",))),
        initializers={"a": np.ones(3, np.float32)[:1], "b": np.ones(1, np.float32)},
    )
    file = io.BytesIO()
    write_shared(Model(ModelCard("two", "other", (1, 2, 2), colour="GRAY"), graph), file)
    assert old in file.getvalue()
    with pytest.raises(ModelError, match="is not within 128 bytes"):
        attach_shared(file.getvalue().replace(old, new.ljust(len(old))))


def test_an_attribute_that_cannot_travel_is_named() -> None:
    node = Node("Add", ("x", "x"), ("y",), {"activation": np.str_("Relu")})
    graph = Graph("odd", (Value("x", (0, 1, 2, 2)),), (Value("y", (0, 1, 2, 2)),), (node,))
    net = Model(ModelCard("odd", "other", (1, 2, 2), colour="GRAY"), graph)
    net.plan()
    net.prepared[0].graph = replace(graph, nodes=(replace(node, attributes={"value": np.ones(3)}),))
    with pytest.raises(ModelError, match="net 'odd' cannot be shared"):
        write_shared(net, io.BytesIO())


def with_free_batch(*nodes: Node, **constants: np.ndarray) -> Model:
    values = Value("x", (0, 2, 4, 4)), Value("y", ())
    graph = Graph("free", (values[0],), (values[1],), nodes, initializers=constants)
    return Model(ModelCard("free", "other", (2, 4, 4), colour=""), graph)


def attached(net: Model) -> Model:
    net.plan()
    return attach_shared(bytes(shared(net)))


SHAPE = Node("Shape", ("x",), ("shape",))


def test_a_resize_to_a_size_serves_every_batch() -> None:
    batch = Node("Slice", ("shape",), ("batch",), {"starts": (0,), "ends": (2,)})
    sizes = Node("Concat", ("batch", "wanted"), ("sizes",), {"axis": 0})
    resize = Node("Resize", ("x", "", "", "sizes"), ("y",), {"mode": "linear"})
    net = with_free_batch(SHAPE, batch, sizes, resize, wanted=np.array([6, 5]))
    x = np.random.RandomState(1).uniform(-1, 1, (3, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(attached(net).plan(x.shape).run(x), net.run(x))


@pytest.mark.parametrize(
    "last",
    [
        Node("Mul", ("x", "rows"), ("y",)),
        Node("Resize", ("x", "", "", "shape"), ("y",), {"keep_aspect_ratio_policy": "not_larger"}),
    ],
    ids=["a number that counts the batch", "sizes that do"],
)
def test_a_net_that_computes_with_its_batch_is_shared_for_that_batch_alone(last: Node) -> None:
    rows = Node("Gather", ("shape", "zero"), ("count",)), Node("Cast", ("count",), ("rows",), {"to": 1})
    net = with_free_batch(SHAPE, *rows, last, zero=np.array([0]))
    x = np.ones((3, 2, 4, 4), np.float32)
    other = attached(net)
    np.testing.assert_array_equal(other.plan().run(x[:1]), net.run(x[:1]))
    with pytest.raises(ModelError, match=r"in batches of \(\(1,\),\): it takes no others"):
        other.plan(x.shape)
    assert np.asarray(net.run(x)).shape == x.shape
