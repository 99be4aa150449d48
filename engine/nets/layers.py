"""NetBuilder: writes a net down as ONNX nodes, and declares its parameters under PyTorch's names."""

from __future__ import annotations

from typing import Any

from engine.graph import Graph, Node, Shape, Value


class NetBuilder:
    """Collects the nodes of one net. Each method adds a layer and returns the name of its output.

    Args:
        name: the net's.
        input_shape: one item's (C, H, W).
    """

    def __init__(self, name: str, input_shape: Shape) -> None:
        self.name = name
        self.input = "input"
        self._input_shape = input_shape
        self._nodes: list[Node] = []
        self._parameters: dict[str, Shape] = {}

    def conv(
        self,
        x: str,
        name: str,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """torch.nn.Conv2d with a square kernel."""
        parameters = [self._declare(f"{name}.weight", (out_channels, in_channels // groups, kernel, kernel))]
        if bias:
            parameters.append(self._declare(f"{name}.bias", (out_channels,)))
        attributes = {
            "kernel_shape": (kernel, kernel),
            "strides": (stride, stride),
            "pads": (pad, pad, pad, pad),
            "dilations": (dilation, dilation),
            "group": groups,
        }
        return self.node("Conv", (x, *parameters), attributes, name)

    def linear(self, x: str, name: str, in_features: int, out_features: int) -> str:
        """torch.nn.Linear: x @ weight.T + bias."""
        weight = self._declare(f"{name}.weight", (out_features, in_features))
        bias = self._declare(f"{name}.bias", (out_features,))
        return self.node("Gemm", (x, weight, bias), {"transB": 1}, name)

    def batch_norm(self, x: str, name: str, channels: int, *, eps: float = 1e-5) -> str:
        """torch.nn.BatchNorm2d in evaluation mode."""
        fields = ("weight", "bias", "running_mean", "running_var")
        parameters = [self._declare(f"{name}.{field}", (channels,)) for field in fields]
        return self.node("BatchNormalization", (x, *parameters), {"epsilon": eps}, name)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", (x,))

    def add(self, a: str, b: str) -> str:
        """a + b, as at the end of a residual block."""
        return self.node("Add", (a, b))

    def max_pool(self, x: str, size: int) -> str:
        """torch.nn.MaxPool2d(size): the stride is the size."""
        return self.node("MaxPool", (x,), {"kernel_shape": (size, size), "strides": (size, size)})

    def global_average_pool(self, x: str) -> str:
        """The mean over each channel, (N, C, 1, 1)."""
        return self.node("GlobalAveragePool", (x,))

    def flatten(self, x: str) -> str:
        """(N, ...) -> (N, features)."""
        return self.node("Flatten", (x,), {"axis": 1})

    def dropout(self, x: str, ratio: float) -> str:
        """torch.nn.Dropout(ratio): for training; a plan drops it."""
        return self.node("Dropout", (x,), {"ratio": ratio})

    def node(
        self, op_type: str, inputs: tuple[str, ...], attributes: dict[str, Any] | None = None, name: str = ""
    ) -> str:
        """Any other operator with one output; without a name it gets one by its place."""
        name = name or f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(Node(op_type, inputs, (name,), attributes or {}, name))
        return name

    def graph(self, output: str, output_shape: Shape) -> Graph:
        """The finished net; `output_shape` is one item's."""
        return Graph(
            name=self.name,
            inputs=(Value(self.input, (0, *self._input_shape)),),
            outputs=(Value(output, (0, *output_shape)),),
            nodes=tuple(self._nodes),
            parameters=self._parameters,
        )

    def _declare(self, name: str, shape: Shape) -> str:
        self._parameters[name] = shape
        return name
