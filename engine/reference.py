"""The plain loops: one function an operator, ONNX semantics, slow and obvious. The oracle of the tests, never the plan.

Every function takes the node and its input arrays and returns its one output. Sums run in float64, so that what is
left between a kernel and its reference is the kernel's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil, exp, floor, prod, sqrt
from typing import Any

import numpy as np

from engine.graph import Array, Graph, Node, Shape

Function = Callable[..., Array]


def run_graph(graph: Graph, *inputs: Array) -> tuple[Array, ...]:
    """All outputs of a graph, node by node."""
    values = dict(graph.initializers)
    values.update({value.name: array for value, array in zip(graph.inputs, inputs, strict=True)})
    for node in graph.nodes:
        values[node.outputs[0]] = run_node(node, *(values[name] for name in node.inputs))
    return tuple(values[value.name] for value in graph.outputs)


def run_node(node: Node, *inputs: Array) -> Array:
    """The output of one node, float32."""
    if node.attributes.get("activation") == "Floor":  # made by engine.passes.defer_biases
        at = 1 if node.op_type == "MaxPool" else 2
        plain = replace(node, attributes={**node.attributes, "activation": ""})
        out = run_node(plain, *inputs[:at], *inputs[at + 1 :])
        return np.maximum(out, inputs[at].reshape(-1, *(1,) * (out.ndim - 2)))
    out = FUNCTIONS[node.op_type](node, *inputs).astype(np.float32)
    return relu(node, out) if node.attributes.get("activation") == "Relu" else out


def conv(node: Node, x: Array, weight: Array, *more: Array) -> Array:
    """Every output number is the sum over channels of its group, and over taps that lie in the input.

    After the bias there may come a residual (`engine.passes.fuse_residuals`), added to the output. The padding is 0,
    or a number for each channel (`engine.passes.defer_biases`).
    """
    if node.attributes.get("padding"):
        begin, end = _pads(node, x.shape[2:], weight.shape[2:])
        framed = [size + b + e for size, b, e in zip(x.shape[2:], begin, end, strict=True)]
        inside = tuple(slice(b, b + size) for b, size in zip(begin, x.shape[2:], strict=True))
        values = np.reshape(node.attributes["padding"], (-1, *(1,) * len(framed)))
        wide = np.broadcast_to(values, (*x.shape[:2], *framed)).astype(np.float32)
        wide[(slice(None), slice(None), *inside)] = x
        bare = {**node.attributes, "padding": 0.0, "auto_pad": "VALID"}
        return conv(replace(node, attributes=bare), wide, weight, *more)
    residual = more[-1] if node.attributes.get("residual") else None
    bias = more[0] if len(more) > (residual is not None) else None
    group = node.attributes.get("group", 1)
    slides = _slides(node, x.shape[2:], weight.shape[2:])
    inputs, outputs = weight.shape[1], weight.shape[0] // group
    out = np.zeros((x.shape[0], weight.shape[0], *(len(starts) for starts, _ in slides)))
    for n, o, *place in np.ndindex(out.shape):
        total = 0.0 if bias is None else float(bias[o])
        for tap, at in _taps(slides, place, x.shape[2:]):
            for c in range(inputs):
                total += float(x[(n, o // outputs * inputs + c, *at)]) * float(weight[(o, c, *tap)])
        out[(n, o, *place)] = total
    return out if residual is None else out + residual


def max_pool(node: Node, x: Array, *bias: Array) -> Array:
    """The largest number of each window that lies in the input, and a bias (`engine.passes.delay_epilogues`)."""
    slides = _slides(node, x.shape[2:], node.attributes["kernel_shape"])
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    for n, c, *place in np.ndindex(out.shape):
        out[(n, c, *place)] = max(x[(n, c, *at)] for _, at in _taps(slides, place, x.shape[2:]))
        out[(n, c, *place)] += sum(float(added[c]) for added in bias)
    return out


def average_pool(node: Node, x: Array) -> Array:
    """The mean of each window; with `count_include_pad` zeros in the padding count too, beyond it never."""
    size, kernel = x.shape[2:], node.attributes["kernel_shape"]
    slides = _slides(node, size, kernel)
    begin, end = _pads(node, size, kernel)
    out = np.zeros((*x.shape[:2], *(len(starts) for starts, _ in slides)))
    for n, c, *place in np.ndindex(out.shape):
        numbers = [float(x[(n, c, *at)]) for _, at in _taps(slides, place, size)]
        count = len(numbers)
        if node.attributes.get("count_include_pad"):
            count = sum(1 for _ in _taps(slides, place, size, begin, end))
        out[(n, c, *place)] = sum(numbers) / count
    return out


def global_average_pool(node: Node, x: Array) -> Array:
    """The mean of each channel."""
    out = np.zeros((*x.shape[:2], *(1,) * (x.ndim - 2)))
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] = sum(float(number) for number in x[n, c].ravel()) / x[n, c].size
    return out


def batch_normalization(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Each channel less its mean, over its deviation, scaled and shifted."""
    out = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        deviation = sqrt(float(var[c]) + node.attributes.get("epsilon", 1e-5))
        out[n, c] = (x[n, c].astype(np.float64) - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
    return out


def relu(node: Node, x: Array) -> Array:
    """x where it is above 0, else 0; what is no number stays none."""
    out = x.copy()
    for place in np.ndindex(x.shape):
        if out[place] < 0:
            out[place] = 0
    return out


def add(node: Node, a: Array, b: Array) -> Array:
    """a + b, an axis of length 1 (or none) repeated as needed."""
    a, b = np.broadcast_arrays(a, b)
    out = np.zeros(a.shape)
    for place in np.ndindex(a.shape):
        out[place] = float(a[place]) + float(b[place])
    return out


def gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    """alpha * A' @ B' + beta * C."""
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    out = np.zeros((a.shape[0], b.shape[1]))
    added = np.zeros(out.shape) if c is None else np.broadcast_to(c, out.shape)
    for i, j in np.ndindex(out.shape):
        total = sum(float(a[i, k]) * float(b[k, j]) for k in range(a.shape[1]))
        out[i, j] = alpha * total + beta * float(added[i, j])
    return out


def flatten(node: Node, x: Array) -> Array:
    """Two axes: the product of those before `axis`, and of the rest."""
    axis = node.attributes.get("axis", 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def softmax(node: Node, x: Array) -> Array:
    """exp(x) over its sum along the axis; the largest is subtracted first, so that nothing overflows."""
    rows = np.moveaxis(x, node.attributes.get("axis", -1), -1)
    out = np.zeros(rows.shape)
    for place in np.ndindex(*rows.shape[:-1]):
        largest = float(max(rows[place]))
        powers = [exp(float(number) - largest) for number in rows[place]]
        out[place] = [power / sum(powers) for power in powers]
    return np.moveaxis(out, -1, node.attributes.get("axis", -1))


def identity(node: Node, x: Array, *_: Array) -> Array:
    """The input itself (Dropout, too, once training is over)."""
    return x


FUNCTIONS: Mapping[str, Function] = {
    "Add": add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Conv": conv,
    "Dropout": identity,
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "Identity": identity,
    "MaxPool": max_pool,
    "Relu": relu,
    "Softmax": softmax,
}

Slide = tuple[list[int], list[int]]  # along one axis: where windows start (below 0 in the padding), and their taps


def _slides(node: Node, size: Shape, kernel: Shape) -> list[Slide]:
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    rounding = ceil if node.attributes.get("ceil_mode") else floor
    slides = []
    for axis, (begin, end) in enumerate(zip(*_pads(node, size, kernel), strict=True)):
        taps = [tap * dilations[axis] for tap in range(kernel[axis])]
        last = rounding((size[axis] + begin + end - taps[-1] - 1) / strides[axis]) * strides[axis] - begin
        starts = list(range(-begin, last + 1, strides[axis]))
        # A window that ceil_mode adds may not start in the padding after the input.
        slides.append(([s for s in starts if s < size[axis]] if rounding is ceil else starts, taps))
    return slides


def _pads(node: Node, size: Shape, kernel: Shape) -> tuple[Shape, Shape]:
    mode, rank = node.attributes.get("auto_pad", "NOTSET"), len(size)
    if mode == "NOTSET":
        pads = tuple(node.attributes.get("pads") or (0,) * 2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    strides, dilations = _per_axis(node, "strides", size), _per_axis(node, "dilations", size)
    begin, end = [], []
    for axis in range(rank):
        windows = ceil(size[axis] / strides[axis])
        reach = (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(reach - size[axis], 0)
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begin.append(before)
        end.append(total - before)
    return tuple(begin), tuple(end)


def _taps(
    slides: list[Slide], place: list[int], size: Shape, begin: Shape | None = None, end: Shape | None = None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(tap, position) of each tap of a window that lies in the input, or in its padding where that is given."""
    begin, end = begin or (0,) * len(size), end or (0,) * len(size)
    for tap in np.ndindex(*(len(taps) for _, taps in slides)):
        at = tuple(slides[axis][0][place[axis]] + slides[axis][1][tap[axis]] for axis in range(len(size)))
        if all(-begin[axis] <= at[axis] < size[axis] + end[axis] for axis in range(len(size))):
            yield tap, at


def _per_axis(node: Node, name: str, size: Shape) -> Any:
    return node.attributes.get(name) or (1,) * len(size)
