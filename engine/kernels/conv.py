"""Runs Conv, planar: a 1x1 convolution is one matrix product; others copy windows into columns first (im2col).

`compiler.fusion` may have fused into a Conv, as in ONNX Runtime's FusedConv, an activation and a last input to add to
its output (attribute `residual`; one of LATE is added after the activation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.products import product_by_columns
from engine.kernels.step import Call, Operand, Scratch, Step, attributes, copy, finish_channels, gemm, reads_twice
from engine.kernels.windows import WINDOW_ATTRIBUTES, Windows, windows_of

LATE = 2


@dataclass(frozen=True)
class Convolution:
    """Describes a Conv node for given inputs.

    Attributes:
        windows: their geometry.
        weight: shape (outputs, inputs of a group, *kernel).
        group: number of groups.
        shape: of the output.
        has_bias: input 2 is the bias.
        has_residual: the last input is added to the output.
        late: the residual is added after the activation.
        activation: of the output; '' is none.
        fixed: weight and bias are parameters.
        padding: value around the input: 0, or one for each channel (`compiler.bias_deferral.defer_biases`).
    """

    windows: Windows
    weight: Shape
    group: int
    shape: Shape
    has_bias: bool
    has_residual: bool
    late: bool
    activation: str
    fixed: bool
    padding: float | tuple[float, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the plain algorithm."""
        return prod(self.shape) * prod(self.weight[1:])

    @property
    def is_pointwise(self) -> bool:
        """Whether every output pixel needs its input pixel only: kernel 1, stride 1, no padding."""
        windows = self.windows
        return prod(windows.kernel) == 1 and prod(windows.strides) == 1 and not windows.needs_padding

    def added(self, arrays: Sequence[Array]) -> tuple[Array | None, Array | None]:
        """Return bias and residual among the arrays of `bind`, None for each that is missing."""
        return (arrays[2] if self.has_bias else None), (arrays[-1] if self.has_residual else None)


def read(node: Node, inputs: Sequence[Operand]) -> Convolution:
    """Return a checked description of the node.

    Raises:
        ModelError: shapes that do not fit each other.
        UnsupportedOperator: an attribute that no kernel runs.
    """
    found = attributes(node, **WINDOW_ATTRIBUTES, group=1, residual=0, padding=0.0, activation="")
    data, weight, has_residual = inputs[0].shape, inputs[1].shape, bool(found["residual"])
    group, has_bias = found["group"], len(inputs) - has_residual > 2
    where = f"Conv '{node.name}'"
    if len(weight) != len(data) or len(data) < 3:
        raise ModelError(f"{where}: input {data} and weight {weight} should both have the axes (N, C, ...)")
    if group < 1 or weight[1] * group != data[1] or weight[0] % group:
        raise ModelError(f"{where}: weight {weight} in {group} groups does not fit an input of {data[1]} channels")
    if found["kernel_shape"] not in (None, weight[2:]):
        raise ModelError(f"{where}: kernel_shape={found['kernel_shape']}, but its weight is {weight}")
    if has_bias and inputs[2].shape != weight[:1]:
        raise ModelError(f"{where}: expected a bias of shape {weight[:1]}, found {inputs[2].shape}")
    windows = windows_of(node, data[2:], weight[2:], found)
    shape = (data[0], weight[0], *windows.out)
    if has_residual and inputs[-1].shape != shape:
        raise ModelError(f"{where}: its residual is {inputs[-1].shape}, its output {shape}")
    fixed = all(operand.is_parameter for operand in inputs[1 : 2 + has_bias])
    late, activation, padding = found["residual"] == LATE, found["activation"], found["padding"]
    return Convolution(windows, weight, group, shape, has_bias, has_residual, late, activation, fixed, padding)


def pointwise(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Multiply weight @ pixels, directly from the input: kernel 1, stride 1, no padding."""
    conv = read(node, inputs)
    if not conv.is_pointwise:
        return None

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        columns = arrays[0].reshape(out.shape[0], conv.group, -1, prod(conv.windows.out))
        return _multiply(conv, columns, arrays, scratch[0] if scratch else out, out)

    return Step(conv.shape, bind, _before_swish(conv), macs=conv.macs)


def im2col(node: Node, inputs: Sequence[Operand]) -> Step | None:
    """Copy the windows, then multiply weight @ columns: any other kernel, stride, dilation, padding and group."""
    conv = read(node, inputs)
    if conv.is_pointwise:
        return None
    batch, channels = inputs[0].shape[:2]
    columns = Scratch((batch, channels, *conv.windows.kernel, *conv.windows.out))

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        stacked = scratch[0].reshape(batch, conv.group, -1, prod(conv.windows.out))
        gather = copy(scratch[0], conv.windows.view(arrays[0]))
        return [gather, *_multiply(conv, stacked, arrays, scratch[1] if len(scratch) > 1 else out, out)]

    scratch = (columns, *_before_swish(conv))
    return Step(conv.shape, bind, scratch, conv.macs, border=conv.windows.border(conv.padding))


def _before_swish(conv: Convolution) -> tuple[Scratch, ...]:
    """Return a buffer for the products if the activation cannot work in place."""
    return (Scratch(conv.shape),) if reads_twice(conv.activation) else ()


def _multiply(conv: Convolution, columns: Array, arrays: Sequence[Array], products: Array, out: Array) -> list[Call]:
    """Prepare products = weight @ columns (N, group, taps, pixels), then the addends and the activation, into out."""
    batch, channels = out.shape[:2]
    weight = arrays[1].reshape(conv.group, channels // conv.group, -1)
    stacked = products.reshape(batch, conv.group, channels // conv.group, -1)
    if batch == conv.group == 1:
        multiply = product_by_columns(weight[0], columns[0, 0], stacked[0, 0])
    else:
        multiply = [gemm(weight, columns, stacked)]
    return [*multiply, *finish_channels(products, out, *conv.added(arrays), conv.activation, conv.late)]
