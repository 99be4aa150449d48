"""Defines Step, a kernel's offer for one node before memory is allocated, and the small tools that kernels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from engine.graph import FLOAT32, Array, Node, Shape, UnsupportedOperator

try:
    from numpy._core import umath
except ImportError:  # NumPy 1
    from numpy.core import umath  # type: ignore[no-redef]

Call = Callable[[], object]

# The ufunc behind np.clip: both bounds in one pass. It has no public name, and np.clip itself adds 3 us to a call.
clip: np.ufunc = vars(umath)["clip"]
# From NumPy 2.1 on it is compiled for vectors: 16k numbers against (0, inf) take 3.6 us, np.maximum 4.8 us, maximum
# and minimum 8.7 us (x86, NumPy 2.1 to 2.4). Before, it takes 11.4 us, these two 4.4 and 8.6 us (1.24, 1.26, 2.0).
HAS_FAST_CLIP = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1)

FLOOR = "Floor"  # an activation that `compiler.bias_deferral.defer_biases` makes: see `finish`
SWISH = "Swish"  # HardSwish of a value that `compiler.fusion.fuse_activations` scaled and shifted: see `_swish`
SWISH_SCALE = 6**-0.5
LEAKY = "LeakyRelu"  # an activation with its slope after a colon, above 0 and up to 1: max(x, slope * x)
SILU = "Silu"  # x * sigmoid(x) of a value that `compiler.fusion.fuse_activations` halved: see `_silu`
FEW_CHANNELS = 4  # up to this many, a change of layout copies each channel by a separate call
MAX_TAPS = 1 << 16  # of a window or a kernel with one call for each tap
# Elements in a row for a ufunc: enough to make its start-up negligible, and three rows fit a level 1 cache of 32 KiB.
WIDE = 2048


class Layout(Enum):
    """Names the order of a value (N, C, ...) in memory; its shape is (N, C, ...) in each of them."""

    PLANAR = "planar"  # channel by channel, C-contiguous
    LAST = "channels last"  # pixel by pixel: `last(array)` is C-contiguous
    ANY = "any"  # one of the two, the same for all operands: numbers are taken one by one, in any strides


@dataclass(frozen=True)
class Border:
    """Describes a frame around the spatial axes of a value."""

    begin: Shape
    end: Shape
    fill: float | tuple[float, ...] = 0.0  # one number, or one for each channel

    def inside(self, framed: Array) -> Array:
        """Return the part of (N, C, *framed) within the frame."""
        spatial = framed.shape[2:]
        kept = (slice(b, size - e) for b, e, size in zip(self.begin, self.end, spatial, strict=True))
        return framed[(slice(None), slice(None), *kept)]

    def framed(self, shape: Shape) -> Shape:
        """Return the shape (N, C, ...) with the frame around it."""
        spatial = (b + size + e for b, size, e in zip(self.begin, shape[2:], self.end, strict=True))
        return (*shape[:2], *spatial)


@dataclass(frozen=True)
class Operand:
    """Describes an input of a node.

    Attributes:
        shape: (N, C, ...), or as the operator defines it.
        constant: the array of a parameter, if it is available when planning.
        is_parameter: it never changes, although its array may only be available as a `Pack` made earlier.
        dtype: of its numbers.
    """

    shape: Shape
    constant: Array | None = None
    is_parameter: bool = False
    dtype: np.dtype[Any] = FLOAT32

    @classmethod
    def of(cls, array: Array) -> Operand:
        """Describe a parameter."""
        return cls(array.shape, array, True, array.dtype)


@dataclass(frozen=True)
class Scratch:
    """Describes a buffer that a step uses while it runs; its initial content is undefined.

    Attributes:
        shape: of the array passed to `bind`, C-contiguous.
        follows: the shape is (N, C, ...) with the same layout as the step's output.
        dtype: of its numbers.
    """

    shape: Shape
    follows: bool = False
    dtype: np.dtype[Any] = FLOAT32


@dataclass(frozen=True)
class Pack:
    """Describes another arrangement of a parameter, made once when planning and shared by all plans.

    Attributes:
        label: identifies the arrangement; with the parameter's name it forms the key.
        make: returns it from the parameter's array.
    """

    label: str
    make: Callable[[Array], Array]

    def key(self, name: str) -> str:
        """Return the key of the arrangement for the parameter with that name."""
        return f"{name}|{self.label}"


Operation = Callable[[Array, Array], list[Call]]
Bind = Callable[[Sequence[Array], Array, Sequence[Array]], list[Call]]


@dataclass(frozen=True)
class Step:
    """Describes how a kernel would run a node.

    Attributes:
        shape: of the node's output.
        bind: (inputs, output, scratch) -> prepared calls; None: the output is the first input in another shape.
        scratch: buffers that `bind` gets, in this order.
        macs: multiply-adds.
        layout: of the output and of all inputs with spatial axes that are no parameters.
        input_layout: of the first input, if it is another; None: `layout`.
        border: a frame that the first input must have; `bind` then gets it with its frame.
        strided: `bind` accepts inputs (except a first one with `border`) that are views within a frame.
        strided_out: `bind` accepts an output that is a view within a frame.
        either_out: `bind` accepts an output in either layout, independent of `layout`.
        packs: by index, parameters that `bind` gets in another arrangement.
        dtype: of the output; None: that of the first input.
    """

    shape: Shape
    bind: Bind | None
    scratch: tuple[Scratch, ...] = ()
    macs: int = 0
    layout: Layout = Layout.PLANAR
    input_layout: Layout | None = None
    border: Border | None = None
    strided: bool = False
    strided_out: bool = False
    either_out: bool = False
    packs: Mapping[int, Pack] = field(default_factory=dict)
    dtype: np.dtype[Any] | None = None

    def dtype_for(self, inputs: Sequence[Operand]) -> np.dtype[Any]:
        """Return the data type of the output."""
        if self.dtype is not None:
            return self.dtype
        return inputs[0].dtype if inputs else FLOAT32

    def layout_of(self, at: int) -> Layout:
        """Return the layout of the input with that index."""
        return self.input_layout or self.layout if at == 0 else self.layout


Kernel = Callable[[Node, Sequence[Operand]], Step | None]
"""Returns a step, or None if it does not suit the node."""


def attributes(node: Node, **defaults: Any) -> dict[str, Any]:
    """Return the node's attributes over their defaults.

    Raises:
        UnsupportedOperator: the node has an attribute that is not among `defaults`, or an unknown activation.
    """
    for name, value in node.attributes.items():
        if name not in defaults:
            raise UnsupportedOperator(f"{node.op_type} '{node.name}': attribute {name}={value!r:.60} is not supported")
    if str(node.attributes.get("activation", "")).partition(":")[0] not in ("", FLOOR, *ACTIVATIONS):
        raise unsupported(node, "activation", node.attributes["activation"], ", ".join(ACTIVATIONS))
    return {**defaults, **node.attributes}


def unsupported(node: Node, attribute: str, value: object, allowed: str) -> UnsupportedOperator:
    """Return the error for a value of an attribute that kernels do not run."""
    return UnsupportedOperator(f"{node.op_type} '{node.name}': {attribute}={value!r:.60}; supported is {allowed}")


def scalar(value: float, dtype: np.dtype[Any] = FLOAT32) -> Array:
    """Return a 0-d array: ufuncs read it twice as fast as a Python number."""
    return np.array(value, dtype)


def last(array: Array) -> Array:
    """Return a view (N, ..., C) of (N, C, ...)."""
    return np.moveaxis(array, 1, -1)


def first(array: Array) -> Array:
    """Return a view (N, C, ...) of (N, ..., C)."""
    return np.moveaxis(array, -1, 1)


def is_last(array: Array) -> bool:
    """Return whether (N, C, ...) lies pixel by pixel in memory."""
    return array.strides[1] < array.strides[-1]


def copy(target: Array, source: Array) -> Call:
    """Prepare target[...] = source; half the call of np.copyto for small arrays."""
    return partial(target.__setitem__, Ellipsis, source)


def turn(target: Array, source: Array) -> list[Call]:
    """Prepare a copy (N, C, ...) between layouts: few channels one by one, else NumPy's inner loop would be short."""
    if target.ndim < 3 or target.shape[1] > FEW_CHANNELS or is_last(target) == is_last(source):
        return [copy(target, source)]
    return [copy(target[:, channel], source[:, channel]) for channel in range(target.shape[1])]


def flat(array: Array) -> Array:
    """Return a one-axis view of an array; raises ValueError if it is not contiguous: a plan must not read a copy."""
    if not array.flags.c_contiguous:
        raise ValueError(f"shape {array.shape} with strides {array.strides} has no view of one axis")
    return array.reshape(-1)


def gemm(a: Array, b: Array, out: Array) -> Call:
    """Prepare out = a @ b; 2-D operands, or stacks of them that broadcast.

    Raises:
        ValueError: an operand that NumPy would not pass to BLAS (it would run plain loops instead, far slower).
    """
    for name, operand in (("a", a), ("b", b), ("out", out)):
        if not blasable(operand):
            raise ValueError(f"gemm: {name} of shape {operand.shape}, strides {operand.strides} does not fit BLAS")
    # np.dot costs a third of np.matmul's call, but treats stacks differently and needs a contiguous `out`.
    if a.ndim == b.ndim == 2 and out.flags.c_contiguous:
        return partial(np.dot, a, b, out)
    return partial(np.matmul, a, b, out)


def blasable(array: Array) -> bool:
    """Return whether matmul passes the last two axes to BLAS without a copy (NumPy's `is_blasable2d`, either order)."""
    (rows, columns), (row, column) = array.shape[-2:], array.strides[-2:]
    item = array.itemsize

    def fits(slow: int, fast: int, length: int) -> bool:
        return fast == item and slow % item == 0 and slow // item >= length

    return array.dtype == np.float32 and (fits(row, column, columns) or fits(column, row, rows))


def finish(
    source: Array,
    out: Array,
    added: Sequence[Array],
    activation: str,
    late: Sequence[Array] = (),
    room: Array | None = None,
) -> list[Call]:
    """Prepare out = activation(source + sum of added) + sum of late; all passes but the last overwrite `source`.

    Addends are broadcast.
    With the activation FLOOR the first of `added` is the floor, not an addend: out = max(source + others, floor).
    If the activation `reads_twice`, `source` and `out` must differ; if `out` lies in a frame, a buffer `room` like
    `source` saves a pass.
    """
    if all(term.flags.c_contiguous and term.size == out.size for term in (source, out, *added, *late)):
        # With one axis and no broadcasting ufuncs start in half the time.
        source, out, *added = (flat(array) for array in (source, out, *added))
        late, room = [flat(array) for array in late], None
    operations: list[Operation] = [partial(_add, term) for term in added]
    if activation == FLOOR:
        operations = [*operations[1:], partial(_floor, added[0])]
    elif reads_twice(activation):
        name, _, slope = activation.partition(":")
        operations.append(partial(NOT_IN_PLACE[name], room=room, **({"slope": float(slope)} if slope else {})))
    elif activation:
        operations.append(ACTIVATIONS[activation])
    operations += [partial(_add, term) for term in late]
    if not operations:
        return [] if _same(source, out) else [copy(out, source)]
    before = [call for operation in operations[:-1] for call in operation(source, source)]
    return before + operations[-1](source, out)


def _floor(floor: Array, source: Array, out: Array) -> list[Call]:
    if HAS_FAST_CLIP and floor.ndim and floor.shape[-1] == 1 != out.shape[-1]:  # one number for many in a row
        return [partial(clip, source, floor, scalar(np.inf), out)]
    return [partial(np.maximum, source, floor, out=out)]


def _add(term: Array, source: Array, out: Array) -> list[Call]:
    return [partial(np.add, source, term, out)]


def _same(a: Array, b: Array) -> bool:
    return a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides


def finish_channels(
    source: Array,
    out: Array,
    bias: Array | None,
    residual: Array | None,
    activation: str,
    late: bool = False,
    room: Array | None = None,
) -> list[Call]:
    """Prepare `finish` for values (N, C, ...) in either layout: add a bias by channel and a residual of the same shape.

    With `late` the residual is added after the activation. Channels last, the bias is a parameter, so it may be copied
    when binding.
    """
    others = [] if residual is None else [residual]
    pixels, channels = out.shape[-1], out.shape[1]
    if out.strides[1] != out.itemsize or out.ndim < 3:
        added = [] if bias is None else [bias.reshape(-1, *(1,) * (out.ndim - 2))]
        return finish(source, out, added + others[late:], activation, others[:late], room)
    # Channels last, ufuncs loop over the last axis: join several pixels, with a bias of that length; within a frame a
    # whole row: with two axes NumPy sees that the operands do not overlap, with three it copies them before an in-place
    # operation.
    joined = divisor(pixels, WIDE // channels) if last(source).flags.c_contiguous else pixels
    shape = (*out.shape[:1], *out.shape[2:-1], pixels // joined, joined * channels)
    source, out, *others = (last(array).reshape(shape) for array in (source, out, *others))
    added = [] if bias is None else [bias if joined == 1 else np.tile(bias, joined)]
    room = None if room is None else last(room).reshape(shape)
    return finish(source, out, added + others[late:], activation, others[:late], room)


def divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number up to `limit`, at least 1."""
    return next(size for size in range(max(1, min(number, limit)), 0, -1) if number % size == 0)


def clipped(low: float, high: float, source: Array, out: Array) -> list[Call]:
    """Prepare out = min(max(source, low), high)."""
    if HAS_FAST_CLIP:
        return [partial(clip, source, scalar(low), scalar(high), out)]
    below = [] if low == -np.inf else [partial(np.maximum, source, scalar(low), out=out)]
    if high == np.inf and below:
        return [*below]
    return [*below, partial(np.minimum, out if below else source, scalar(high), out=out)]


def _swish(source: Array, out: Array, room: Array | None = None) -> list[Call]:
    """Compute x * clip(x + 3, 0, 6) / 6 from source = (x + 3) * SWISH_SCALE, in three passes."""
    if _same(source, out):
        raise ValueError("Swish reads its source twice and cannot work in place")
    room = out if room is None else room
    passes: list[Call] = [
        *clipped(0, 6 * SWISH_SCALE, source, room),
        partial(np.subtract, source, scalar(3 * SWISH_SCALE), source),
    ]
    if room.flags.c_contiguous:
        return [*passes, partial(np.multiply, source, room, out)]
    # A ufunc that overwrites an operand within a frame copies it first.
    return [*passes, partial(np.multiply, source, out, source), copy(out, source)]


def _silu(source: Array, out: Array, room: Array | None = None) -> list[Call]:
    """Compute x / (1 + exp(-x)) = h * tanh(h) + h from source = h = x / 2, in three passes.

    NumPy computes tanh with vectors on x86 and ARM alike, exp on x86 only. The error is 1e-7 of the larger of x and 1.
    """
    if _same(source, out):
        raise ValueError("Silu reads its source twice and cannot work in place")
    room = out if room is None else room
    if room.flags.c_contiguous:
        return [
            partial(np.tanh, source, room),
            partial(np.multiply, room, source, room),
            partial(np.add, room, source, out),
        ]
    return [
        partial(np.tanh, source, out),
        partial(np.multiply, out, source, out),
        partial(np.add, source, out, source),
        copy(out, source),
    ]


def _leaky(source: Array, out: Array, room: Array | None = None, slope: float = 1.0) -> list[Call]:
    """Compute max(x, slope * x) in two passes."""
    if _same(source, out):
        raise ValueError("LeakyRelu reads its source twice and cannot work in place")
    room = out if room is None else room
    scaled = partial(np.multiply, source, scalar(slope), room)
    if room.flags.c_contiguous:
        return [scaled, partial(np.maximum, source, room, out=out)]
    return [scaled, partial(np.maximum, source, room, out=source), copy(out, source)]


NOT_IN_PLACE: Mapping[str, Callable[..., list[Call]]] = {SWISH: _swish, SILU: _silu, LEAKY: _leaky}
"""Activations that read their source twice: (source, out, room=) -> prepared calls."""


def reads_twice(activation: str) -> bool:
    """Return whether the activation cannot work in place."""
    return activation.partition(":")[0] in NOT_IN_PLACE


ACTIVATIONS: Mapping[str, Operation] = {
    "Relu": partial(clipped, 0, np.inf),
    "Relu6": partial(clipped, 0, 6),
    "Unit": partial(clipped, 0, 1),
    **NOT_IN_PLACE,
}
"""Activations that `compiler.fusion` may fuse into a node: prepared calls (source, out). Relu6 and Unit are Clips."""


ALIGNMENT = 64  # bytes: a cache line, and more than any vector register


def aligned(array: Array) -> Array:
    """Return the array, or an aligned copy: if it began within a cache line, each vector load would touch two lines."""
    if not array.ctypes.data % ALIGNMENT:
        return array
    copy = aligned_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned_bytes(size: int) -> Array:
    """Return `size` uninitialised bytes that begin on a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
