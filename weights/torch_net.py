"""Runs an engine graph as a PyTorch module, so that each net is defined only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graph import Graph, Node, UnsupportedOperator


class TorchNet(nn.Module):
    """Interprets a graph node by node.

    Layers that hold parameters are PyTorch's own, with its default initial values, at the places that the graph's
    parameter names give ('layer1.0.conv1.weight'), so `state_dict` has the graph's names and shapes (and batch
    norms' `num_batches_tracked`). Dropout and batch norm follow the module's training mode.

    Args:
        graph: of nodes listed in `OPERATORS`, with one input and one output.

    Raises:
        UnsupportedOperator: a node of another kind, or with an attribute that this module does not do.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._source = graph.inputs[0].name
        self._result = graph.outputs[0].name
        self._steps: list[tuple[tuple[str, ...], str, Callable[..., Tensor]]] = []
        for node in graph.nodes:
            if node.op_type not in OPERATORS:
                raise UnsupportedOperator(f"{node.op_type} ({node.name}): TorchNet does {', '.join(OPERATORS)}")
            step = OPERATORS[node.op_type](self, node, graph)
            values = tuple(name for name in node.inputs if name and name not in graph.parameters)
            self._steps.append((values, node.outputs[0], step))
        self._keep_unused_norms(graph)

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw outputs for a batch in the layout of the graph's input."""
        values = {self._source: images}
        for inputs, output, step in self._steps:
            values[output] = step(*(values[name] for name in inputs))
        return values[self._result]

    def _keep_unused_norms(self, graph: Graph) -> None:
        """Add batch norms that a net declares but skips (see `mobilenet_v3_1d`): its files contain them."""
        last = ".running_mean"
        placed = self.state_dict()
        for name, shape in graph.parameters.items():
            if name.endswith(last) and name not in placed:
                self.place(name.removesuffix(last), nn.BatchNorm1d(shape[0]))

    def place(self, name: str, layer: nn.Module) -> nn.Module:
        """Register a layer under a dotted name; parent modules are created."""
        *way, last = name.split(".")
        parent: nn.Module = self
        for step in way:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, layer)
        return layer


def _conv(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    shape = graph.parameters[node.inputs[1]]
    kernel = shape[2:]
    axes = len(kernel)
    pads = _pads(node, axes)
    # With symmetric padding the layer pads itself, without a copy.
    even = pads[::2] == pads[1::2]
    group = node.attributes.get("group", 1)
    kind: Any = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    layer: nn.Module = kind(
        shape[1] * group,
        shape[0],
        kernel,
        stride=tuple(node.attributes.get("strides", (1,) * axes)),
        padding=pads[::-2] if even else 0,
        dilation=tuple(node.attributes.get("dilations", (1,) * axes)),
        groups=group,
        bias=len(node.inputs) > 2,
    )
    _layer(net, node, layer)
    return layer if even else lambda x: layer(F.pad(x, pads))


def _gemm(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    _only(node, alpha=1.0, beta=1.0, transA=0)
    if not node.attributes.get("transB", 0):
        raise UnsupportedOperator(f"Gemm ({node.name}): transB 0; a layer's weight is (out, in), so transB must be 1")
    outputs, inputs = graph.parameters[node.inputs[1]]
    return _layer(net, node, nn.Linear(inputs, outputs, bias=len(node.inputs) > 2))


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d, 2d and 3d in one: the graph has the number of axes, not the norm."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _batch_norm(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    # The momentum of ONNX is the share of the old value, that of PyTorch the share of the new one.
    layer = _BatchNorm(
        graph.parameters[node.inputs[1]][0],
        eps=node.attributes.get("epsilon", 1e-5),
        momentum=1 - node.attributes.get("momentum", 0.9),
    )
    return _layer(net, node, layer)


def _max_pool(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    kernel, strides, pads = _window(node)
    return lambda x: F.max_pool2d(F.pad(x, pads, value=-torch.inf) if any(pads) else x, kernel, strides)


def _average_pool(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    kernel, strides, pads = _window(node)
    if any(pads):
        _only(node, count_include_pad=1)
    return lambda x: F.avg_pool2d(F.pad(x, pads) if any(pads) else x, kernel, strides)


def _dropout(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    ratio = node.attributes.get("ratio", 0.5)
    return lambda x: F.dropout(x, ratio, net.training)


def _flatten(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    _only(node, axis=1)
    return lambda x: torch.flatten(x, 1)


def _softmax(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    axis = node.attributes.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _clip(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    least, most = node.attributes.get("min"), node.attributes.get("max")
    return lambda x: torch.clamp(x, least, most)


def _hard_sigmoid(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _unsqueeze(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    (axis,) = node.attributes["axes"]
    return lambda x: x.unsqueeze(axis)


def _global_average_pool(net: TorchNet, node: Node, graph: Graph) -> Callable[..., Tensor]:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


OPERATORS: Mapping[str, Callable[[TorchNet, Node, Graph], Callable[..., Tensor]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "Relu": lambda net, node, graph: torch.relu,
    "Clip": _clip,
    "HardSwish": lambda net, node, graph: F.hardswish,
    "HardSigmoid": _hard_sigmoid,
    "Add": lambda net, node, graph: torch.add,
    "Mul": lambda net, node, graph: torch.mul,
    "Unsqueeze": _unsqueeze,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Softmax": _softmax,
}


def _layer(net: TorchNet, node: Node, layer: nn.Module) -> nn.Module:
    return net.place(node.inputs[1].removesuffix(".weight"), layer)


def _only(node: Node, **allowed: Any) -> None:
    """Refuse attribute values that this module does not support; absent attributes have the ONNX default."""
    for name, value in allowed.items():
        found = node.attributes.get(name, ONNX_DEFAULTS[name])
        if found != value:
            raise UnsupportedOperator(f"{node.op_type} ({node.name}): {name} {found}; TorchNet does {value} only")


ONNX_DEFAULTS = {
    "alpha": 1.0,
    "beta": 1.0,
    "transA": 0,
    "axis": 1,
    "count_include_pad": 0,
    "auto_pad": "NOTSET",
    "ceil_mode": 0,
}


def _window(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    _only(node, ceil_mode=0)
    kernel = tuple(node.attributes["kernel_shape"])
    return kernel, tuple(node.attributes.get("strides", (1,) * len(kernel))), _pads(node, len(kernel))


def _pads(node: Node, axes: int) -> tuple[int, ...]:
    """Convert ONNX pads (all begins, then all ends) to the order of `F.pad` (begin, end of the last axis first)."""
    _only(node, auto_pad="NOTSET")
    pads = tuple(node.attributes.get("pads", (0,) * (2 * axes)))
    return tuple(pads[axis + side * axes] for axis in reversed(range(axes)) for side in (0, 1))
