"""Builds nets: NetBuilder collects ONNX nodes and declares their parameters under PyTorch's names."""

from __future__ import annotations

from typing import Any

from engine.graph import Graph, Node, Shape, Value


class NetBuilder:
    """Collects the nodes of one net for items (C, H, W) or (C, L); each method adds a layer and names its output."""

    def __init__(self, name: str, input_shape: Shape) -> None:
        self.name = name
        self.input = "input"
        self._input_shape = input_shape
        self._axes = len(input_shape) - 1
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
        """Add torch.nn.Conv2d with a square kernel; torch.nn.Conv1d in a net of one dimension."""
        axes = self._axes
        parameters = [self._declare(f"{name}.weight", (out_channels, in_channels // groups, *(kernel,) * axes))]
        if bias:
            parameters.append(self._declare(f"{name}.bias", (out_channels,)))
        attributes = {
            "kernel_shape": (kernel,) * axes,
            "strides": (stride,) * axes,
            "pads": (pad,) * 2 * axes,
            "dilations": (dilation,) * axes,
            "group": groups,
        }
        return self.node("Conv", (x, *parameters), attributes, name)

    def linear(self, x: str, name: str, in_features: int, out_features: int) -> str:
        """Add torch.nn.Linear: x @ weight.T + bias."""
        weight = self._declare(f"{name}.weight", (out_features, in_features))
        bias = self._declare(f"{name}.bias", (out_features,))
        return self.node("Gemm", (x, weight, bias), {"transB": 1}, name)

    def batch_norm(self, x: str, name: str, channels: int, *, eps: float = 1e-5) -> str:
        """Add torch.nn.BatchNorm2d in evaluation mode."""
        return self.node("BatchNormalization", (x, *self.batch_norm_parameters(name, channels)), {"epsilon": eps}, name)

    def batch_norm_parameters(self, name: str, channels: int) -> list[str]:
        """Declare the parameters of a batch norm; alone, for a net that has them without the layer."""
        fields = ("weight", "bias", "running_mean", "running_var")
        return [self._declare(f"{name}.{field}", (channels,)) for field in fields]

    def conv_norm_relu(
        self, x: str, name: str, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1
    ) -> str:
        """Add a 3x3 convolution with padding 1 (or its dilation), batch norm 'NAME_bn' and ReLU."""
        x = self.conv(x, name, in_channels, out_channels, 3, stride=stride, pad=dilation, dilation=dilation, bias=False)
        return self.relu(self.batch_norm(x, f"{name}_bn", out_channels))

    def relu(self, x: str) -> str:
        """Add max(x, 0)."""
        return self.node("Relu", (x,))

    def relu6(self, x: str) -> str:
        """Add min(max(x, 0), 6)."""
        return self.node("Clip", (x,), {"min": 0.0, "max": 6.0})

    def hard_swish(self, x: str) -> str:
        """Add x * min(max(x + 3, 0), 6) / 6."""
        return self.node("HardSwish", (x,))

    def silu(self, x: str) -> str:
        """Add x * sigmoid(x) as two nodes."""
        return self.multiply(x, self.node("Sigmoid", (x,)))

    def hard_sigmoid(self, x: str) -> str:
        """Add min(max(x + 3, 0), 6) / 6, torch.nn.Hardsigmoid."""
        return self.node("HardSigmoid", (x,), {"alpha": 1 / 6, "beta": 0.5})

    def multiply(self, a: str, b: str) -> str:
        """Add a * b, broadcast, as at the end of squeeze-and-excitation."""
        return self.node("Mul", (a, b))

    def concat(self, *parts: str) -> str:
        """Add a concatenation along the channels."""
        return self.node("Concat", parts, {"axis": 1})

    def add(self, a: str, b: str) -> str:
        """Add a + b, as at the end of a residual block."""
        return self.node("Add", (a, b))

    def max_pool(self, x: str, size: int, *, stride: int = 0, pad: int = 0, ceil: bool = False) -> str:
        """Add torch.nn.MaxPool2d: without a stride it is the size."""
        attributes: dict[str, Any] = {"kernel_shape": (size,) * self._axes, "strides": (stride or size,) * self._axes}
        if pad:
            attributes["pads"] = (pad,) * 2 * self._axes
        if ceil:
            attributes["ceil_mode"] = 1
        return self.node("MaxPool", (x,), attributes)

    def global_average_pool(self, x: str) -> str:
        """Return the mean over each channel, (N, C, 1, 1) or (N, C, 1)."""
        return self.node("GlobalAveragePool", (x,))

    def flatten(self, x: str) -> str:
        """Add a reshape (N, ...) -> (N, features)."""
        return self.node("Flatten", (x,), {"axis": 1})

    def unsqueeze(self, x: str) -> str:
        """Add a reshape (N, C) -> (N, C, 1)."""
        return self.node("Unsqueeze", (x,), {"axes": (2,)})

    def dropout(self, x: str, ratio: float) -> str:
        """Add torch.nn.Dropout(ratio), for training; a plan removes it."""
        return self.node("Dropout", (x,), {"ratio": ratio})

    def node(
        self, op_type: str, inputs: tuple[str, ...], attributes: dict[str, Any] | None = None, name: str = ""
    ) -> str:
        """Add any other operator with one output; the default name has its operator and index."""
        name = name or f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(Node(op_type, inputs, (name,), attributes or {}, name))
        return name

    def graph(self, output: str, output_shape: Shape) -> Graph:
        """Return the finished net; `output_shape` is one item's."""
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
