"""Step: what a kernel answers for one node before any memory exists, and the small tools that kernels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from engine.graph import Array, Node, Shape, UnsupportedOperator

try:
    from numpy._core import umath
except ImportError:  # NumPy 1
    from numpy.core import umath  # type: ignore[no-redef]

Call = Callable[[], object]

# The ufunc behind np.clip: both bounds in one pass, 8 numbers a nanosecond where np.maximum takes 2.2 against a single
# number and 5 against an array (x86, NumPy 2.4). It has no public name, and np.clip itself adds 3 us to a call.
clip: np.ufunc = vars(umath)["clip"]

FLOOR = "Floor"  # an activation that `compiler.bias_deferral.defer_biases` makes: see `finish`
SWISH = "Swish"  # HardSwish of what `compiler.fusion.fuse_activations` has scaled and shifted: see `_swish`
SWISH_SCALE = 6**-0.5
FEW_CHANNELS = 4  # that are worth a call each when a value changes its layout
MAX_TAPS = 1 << 16  # of a window or a kernel whose taps are a call each
WIDE = 2048  # numbers that a ufunc should find in a row: enough to forget its start, and still in the L1 cache


class Layout(Enum):
    """How the numbers of a value (N, C, ...) lie in memory; kernels see its shape as (N, C, ...) all the same."""

    PLANAR = "planar"  # channel by channel, C-contiguous
    LAST = "channels last"  # pixel by pixel: `last(array)` is C-contiguous
    ANY = "any"  # one of the two, the same for all operands: numbers are taken one by one, in any strides


@dataclass(frozen=True)
class Border:
    """A frame around the spatial axes of a value."""

    begin: Shape
    end: Shape
    fill: float | tuple[float, ...] = 0.0  # one number, or one a channel

    def inside(self, framed: Array) -> Array:
        """The part of (N, C, *framed) within the frame."""
        spatial = framed.shape[2:]
        kept = (slice(b, size - e) for b, e, size in zip(self.begin, self.end, spatial, strict=True))
        return framed[(slice(None), slice(None), *kept)]

    def framed(self, shape: Shape) -> Shape:
        """The shape (N, C, ...) with the frame around it."""
        spatial = (b + size + e for b, size, e in zip(self.begin, shape[2:], self.end, strict=True))
        return (*shape[:2], *spatial)


@dataclass(frozen=True)
class Operand:
    """An input of a node.

    Attributes:
        shape: (N, C, ...), or what the operator takes.
        constant: its array where that is known when planning (a parameter) and at hand.
        is_parameter: it never changes, though its array may be at hand only as a `Pack` made earlier.
    """

    shape: Shape
    constant: Array | None = None
    is_parameter: bool = False


@dataclass(frozen=True)
class Scratch:
    """A float32 buffer that a step wants for itself while it runs; it holds anything at first.

    Attributes:
        shape: of what `bind` gets, C-contiguous.
        follows: the shape is (N, C, ...) and lies in memory as the step's output does.
    """

    shape: Shape
    follows: bool = False


@dataclass(frozen=True)
class Pack:
    """Another arrangement of a parameter, made once when planning and shared by all plans that want the same.

    Attributes:
        label: says which, in a word; with the parameter's name it is the key under which it is kept.
        make: from the parameter's array.
    """

    label: str
    make: Callable[[Array], Array]

    def key(self, name: str) -> str:
        """Under which the arrangement of the parameter of that name is kept."""
        return f"{name}|{self.label}"


Operation = Callable[[Array, Array], list[Call]]
Bind = Callable[[Sequence[Array], Array, Sequence[Array]], list[Call]]


@dataclass(frozen=True)
class Step:
    """A kernel's offer for a node.

    Attributes:
        shape: of the node's output.
        bind: (inputs, output, scratch) -> prepared calls; None: the output is the first input in another shape.
        scratch: buffers that `bind` gets, in this order.
        macs: multiply-adds.
        layout: of the output and of all inputs with spatial axes that are no parameters.
        input_layout: of the first input, where it is another; None: `layout`.
        border: a frame that the first input should have; `bind` then gets it with its frame.
        strided: `bind` takes inputs (but a first one with `border`) that are views within a frame.
        strided_out: `bind` takes an output that is a view within a frame.
        either_out: `bind` takes an output in either layout, whatever `layout` says.
        packs: by index, parameters which `bind` gets in another arrangement.
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

    def layout_of(self, at: int) -> Layout:
        """Of the input with that index."""
        return self.input_layout or self.layout if at == 0 else self.layout


Kernel = Callable[[Node, Sequence[Operand]], Step | None]
"""Offers a step, or None where it does not suit the node."""


def attributes(node: Node, **defaults: Any) -> dict[str, Any]:
    """The node's attributes over their defaults.

    Raises:
        UnsupportedOperator: the node has an attribute that is not among `defaults`, or an unknown activation.
    """
    for name, value in node.attributes.items():
        if name not in defaults:
            raise UnsupportedOperator(f"{node.op_type} '{node.name}': attribute {name}={value!r:.60} is not supported")
    if node.attributes.get("activation", "") not in ("", FLOOR, *ACTIVATIONS):
        raise unsupported(node, "activation", node.attributes["activation"], ", ".join(ACTIVATIONS))
    return {**defaults, **node.attributes}


def unsupported(node: Node, attribute: str, value: object, allowed: str) -> UnsupportedOperator:
    """The error for a value of an attribute that kernels do not run."""
    return UnsupportedOperator(f"{node.op_type} '{node.name}': {attribute}={value!r:.60}; supported is {allowed}")


def scalar(value: float) -> Array:
    """A 0-d float32: ufuncs take it twice as fast as a Python number."""
    return np.array(value, np.float32)


def last(array: Array) -> Array:
    """(N, C, ...) -> (N, ..., C), a view."""
    return np.moveaxis(array, 1, -1)


def first(array: Array) -> Array:
    """(N, ..., C) -> (N, C, ...), a view."""
    return np.moveaxis(array, -1, 1)


def is_last(array: Array) -> bool:
    """Whether (N, C, ...) lies pixel by pixel."""
    return array.strides[1] < array.strides[-1]


def copy(target: Array, source: Array) -> Call:
    """target[...] = source, prepared; half the call of np.copyto for small arrays."""
    return partial(target.__setitem__, Ellipsis, source)


def turn(target: Array, source: Array) -> list[Call]:
    """`copy` between layouts, (N, C, ...): few channels one by one, else NumPy's inner loop has so many steps."""
    if target.ndim < 3 or target.shape[1] > FEW_CHANNELS or is_last(target) == is_last(source):
        return [copy(target, source)]
    return [copy(target[:, channel], source[:, channel]) for channel in range(target.shape[1])]


def flat(array: Array) -> Array:
    """The same numbers along one axis: never a copy, which a plan would go on reading when the numbers have changed.

    Raises:
        ValueError: they do not lie in a row.
    """
    if not array.flags.c_contiguous:
        raise ValueError(f"shape {array.shape} with strides {array.strides} has no view of one axis")
    return array.reshape(-1)


def gemm(a: Array, b: Array, out: Array) -> Call:
    """out = a @ b, prepared; 2-D operands, or stacks of them that broadcast.

    Raises:
        ValueError: an operand that NumPy would not hand to BLAS (it would run plain loops instead, far slower).
    """
    for name, operand in (("a", a), ("b", b), ("out", out)):
        if not blasable(operand):
            raise ValueError(f"gemm: {name} of shape {operand.shape}, strides {operand.strides} does not fit BLAS")
    # np.dot costs a third of np.matmul's call, but its stacks mean something else and its `out` must be contiguous.
    if a.ndim == b.ndim == 2 and out.flags.c_contiguous:
        return partial(np.dot, a, b, out)
    return partial(np.matmul, a, b, out)


def blasable(array: Array) -> bool:
    """Whether matmul passes the last two axes to BLAS as they lie (NumPy's own `is_blasable2d`, either order)."""
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
    """out = activation(source + sum of added) + sum of late, broadcast; all passes but the last work within `source`.

    With the activation FLOOR the first of `added` is no addend but the floor: out = max(source + others, floor).
    With SWISH `source` and `out` must not be the same; where `out` lies in a frame, `room` like `source` saves a pass.
    """
    if all(term.flags.c_contiguous and term.size == out.size for term in (source, out, *added, *late)):
        # One axis and no broadcasting: ufuncs then start in half the time.
        source, out, *added = (flat(array) for array in (source, out, *added))
        late, room = [flat(array) for array in late], None
    operations: list[Operation] = [partial(_add, term) for term in added]
    if activation == FLOOR:
        operations = [*operations[1:], partial(_floor, added[0])]
    elif activation == SWISH:
        operations.append(partial(_swish, room=room))
    elif activation:
        operations.append(ACTIVATIONS[activation])
    operations += [partial(_add, term) for term in late]
    if not operations:
        return [] if _same(source, out) else [copy(out, source)]
    before = [call for operation in operations[:-1] for call in operation(source, source)]
    return before + operations[-1](source, out)


def _floor(floor: Array, source: Array, out: Array) -> list[Call]:
    if floor.ndim and floor.shape[-1] == 1 != out.shape[-1]:  # one number for many in a row
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
    """`finish` for values (N, C, ...) in either layout: a bias for each channel, then a residual of the same shape.

    With `late` the residual comes after the activation. Channels last, the bias is a parameter: it may be copied when
    binding.
    """
    others = [] if residual is None else [residual]
    pixels, channels = out.shape[-1], out.shape[1]
    if out.strides[1] != out.itemsize or out.ndim < 3:
        added = [] if bias is None else [bias.reshape(-1, *(1,) * (out.ndim - 2))]
        return finish(source, out, added + others[late:], activation, others[:late], room)
    # Channels last: ufuncs run over the last axis, so take several pixels together, with a bias as long. Within a frame
    # a whole row: of two axes NumPy sees that their numbers lie apart, of three it copies all before it works in place.
    together = divisor(pixels, WIDE // channels) if last(source).flags.c_contiguous else pixels
    shape = (*out.shape[:1], *out.shape[2:-1], pixels // together, together * channels)
    source, out, *others = (last(array).reshape(shape) for array in (source, out, *others))
    added = [] if bias is None else [bias if together == 1 else np.tile(bias, together)]
    room = None if room is None else last(room).reshape(shape)
    return finish(source, out, added + others[late:], activation, others[:late], room)


def divisor(number: int, most: int) -> int:
    """The largest divisor of a number up to `most`, at least 1."""
    return next(size for size in range(max(1, min(number, most)), 0, -1) if number % size == 0)


def clipped(low: float, high: float, source: Array, out: Array) -> list[Call]:
    """out = min(max(source, low), high)."""
    return [partial(clip, source, scalar(low), scalar(high), out)]


def _swish(source: Array, out: Array, room: Array | None = None) -> list[Call]:
    """x * clip(x + 3, 0, 6) / 6 from source = (x + 3) * SWISH_SCALE, in three passes."""
    if _same(source, out):
        raise ValueError("Swish reads its source twice, it cannot work in place")
    room = out if room is None else room
    passes: list[Call] = [
        *clipped(0, 6 * SWISH_SCALE, source, room),
        partial(np.subtract, source, scalar(3 * SWISH_SCALE), source),
    ]
    if room.flags.c_contiguous:
        return [*passes, partial(np.multiply, source, room, out)]
    # A ufunc that writes over an operand within a frame copies it first, to be safe.
    return [*passes, partial(np.multiply, source, out, source), copy(out, source)]


ACTIVATIONS: Mapping[str, Operation] = {
    "Relu": partial(clipped, 0, np.inf),
    "Relu6": partial(clipped, 0, 6),
    "Unit": partial(clipped, 0, 1),
    SWISH: _swish,
}
"""What `compiler.fusion` may fuse into a node: prepared calls (source, out). Relu6 and Unit are Clips of ONNX."""


ALIGNMENT = 64  # bytes: a cache line, and more than any vector register


def aligned(array: Array) -> Array:
    """The array, or a copy if it begins within a cache line: then vectors read from it would each take two lines."""
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
