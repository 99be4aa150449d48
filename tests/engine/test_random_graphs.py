"""Random graphs over operators of all families and data types: each plan, in each layout, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from engine.compiler.kernel_selection import KernelSelector
from engine.formats.onnx import parse_onnx, serialise_onnx
from engine.graph import Array, Graph, Node, Shape, Value
from engine.kernels.step import Layout
from engine.model import Model
from engine.model_card import ModelCard

runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SAME = ("Relu", "Sigmoid", "Tanh", "Elu", "Softplus", "Erf", "Gelu", "Abs", "Neg", "Sin", "HardSwish", "Softmax")
TWO = ("Add", "Mul", "Sub", "Max", "Min")
REDUCED = ("ReduceMax", "ReduceSum", "ReduceMean", "ReduceL2")


@dataclass
class Grower:
    """Grows a graph node by node; `values` holds (name, shape, kind of numbers)."""

    seed: int
    nodes: list[Node] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = np.random.RandomState(self.seed)
        shape = (int(self.state.randint(1, 3)), self.one_of(4, 8, 32), self.one_of(5, 8), 8)
        self.values: list[tuple[str, Shape, str]] = [("x", shape, "f")]

    def one_of(self, *options: Any) -> Any:
        return options[self.state.randint(len(options))]

    def constant(self, array: Array) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def add(self, op_type: str, inputs: tuple[str, ...], shape: Shape, kind: str = "f", **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(op_type, inputs, (name,), attributes, name))
        self.values.append((name, shape, kind))
        return name

    def grow(self) -> None:
        floats = [value for value in self.values if value[2] == "f"]
        name, shape, _ = floats[self.state.randint(max(0, len(floats) - 4), len(floats))]
        alike = [other for other, size, _ in floats if size == shape]
        kind = self.one_of(
            "same", "same", "two", "conv", "conv", "where", "reduce", "top", "arg", "depth", "norm", "quantize"
        )
        if kind == "same":
            self.add(self.one_of(*SAME), (name,), shape)
        elif kind == "two":
            self.add(self.one_of(*TWO), (name, self.one_of(*alike)), shape)
        elif kind == "conv" and len(shape) == 4:
            self.conv(name, shape)
        elif kind == "where":
            above = self.add("Greater", (name, self.constant(np.float32(0.1))), shape, "b")
            self.add("Where", (above, name, self.one_of(*alike)), shape)
        elif kind == "reduce":
            axis = int(self.state.randint(1, len(shape)))
            kept = tuple(1 if at == axis else size for at, size in enumerate(shape))
            self.add("Sub", (name, self.add(self.one_of(*REDUCED), (name,), kept, axes=(axis,))), shape)
        elif kind == "top" and shape[-1] > 2:
            self.add("GatherElements", (name, self.indices(name, shape)), (*shape[:-1], 3), axis=len(shape) - 1)
        elif kind == "arg":
            found = self.add("ArgMax", (name,), (shape[0], 1, *shape[2:]), "i", axis=1)
            self.add("Cast", (found,), (shape[0], 1, *shape[2:]), to=1)
        elif kind == "depth" and len(shape) == 4 and shape[1] % 4 == 0:
            n, c, h, w = shape
            self.add("DepthToSpace", (name,), (n, c // 4, 2 * h, 2 * w), blocksize=2)
        elif kind == "norm":
            parameters = [self.constant(self.state.uniform(0.5, 2, shape[1]).astype(np.float32)) for _ in range(2)]
            self.add("InstanceNormalization", (name, *parameters), shape)
        elif kind == "quantize":
            by = (self.constant(np.float32(0.05)), self.constant(np.uint8(128)))
            self.add("DequantizeLinear", (self.add("QuantizeLinear", (name, *by), shape, "u"), *by), shape)

    def indices(self, name: str, shape: Shape) -> str:
        """Return indices that are computed: those of the largest numbers, modulo the length."""
        found = self.add("ArgMax", (name,), (*shape[:-1], 1), "i", axis=len(shape) - 1)
        steps = self.constant(np.arange(3) - shape[-1] + 1)
        length = self.constant(np.array(shape[-1]))
        return self.add("Mod", (self.add("Add", (found, steps), (*shape[:-1], 3), "i"), length), (*shape[:-1], 3), "i")

    def conv(self, name: str, shape: Shape) -> None:
        depthwise, size = bool(self.state.randint(2)), self.one_of(1, 3)
        outputs = shape[1] if depthwise else self.one_of(4, 8, 16)
        weight = self.state.uniform(-0.4, 0.4, (outputs, 1 if depthwise else shape[1], size, size)).astype(np.float32)
        bias = self.state.uniform(-1, 1, outputs).astype(np.float32)
        names = (name, self.constant(weight), self.constant(bias))
        group = shape[1] if depthwise else 1
        self.add("Conv", names, (shape[0], outputs, *shape[2:]), pads=(size // 2,) * 4, group=group)

    def graph(self) -> Graph:
        read = {name for node in self.nodes for name in node.inputs}
        kinds = {"f": "float32", "b": "bool", "i": "int64", "u": "uint8"}
        ends = [Value(name, size, kinds[kind]) for name, size, kind in self.values[1:] if name not in read]
        inputs = (Value("x", self.values[0][1]),)
        return Graph("random", inputs, tuple(ends), tuple(self.nodes), initializers=self.arrays)


def agree(seed: int) -> None:
    grower = Grower(seed)
    while len(grower.nodes) < 9:
        grower.grow()
    card = ModelCard("random", "other", grower.values[0][1][1:], colour="")
    data, x = serialise_onnx(grower.graph(), card), grower.state.uniform(-2, 2, grower.values[0][1]).astype(np.float32)
    expected = runtime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    parsed = parse_onnx(data).graph
    assert parsed is not None
    for layout in (Layout.PLANAR, Layout.LAST):
        plan = Model(card, parsed).plan(x.shape, selector=KernelSelector(layout=layout))
        plan.run(np.zeros_like(x))
        found = plan.run(x)
        for mine, theirs in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            # Where a comparison, a rounding or the place of a maximum hangs on the last bit, a few numbers may differ.
            far = np.abs(mine.astype(np.float64) - theirs) > 1e-3 * max(1.0, float(np.abs(theirs).max(initial=0)))
            assert far.mean() <= 0.01


@pytest.mark.parametrize("seed", range(12))
def test_a_random_graph_agrees_with_onnxruntime(seed: int) -> None:
    agree(seed)


@pytest.mark.slow
def test_hundreds_of_random_graphs_agree_with_onnxruntime() -> None:
    for seed in range(100, 400):
        agree(seed)
