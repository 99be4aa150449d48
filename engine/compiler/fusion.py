"""Fuses nodes: batch norms into convolutions, activations and sums into the layers before, blocks into one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from engine.compiler.cleanup import drop_identities, drop_unused, sole_followers
from engine.graph import Array, Graph, Node, Shape
from engine.kernels.block import BLOCK, PAIR, read_block
from engine.kernels.conv import LATE, read
from engine.kernels.conv_pool import CONV_POOL, read_conv_pool
from engine.kernels.elementwise import fold_batch_norm
from engine.kernels.movement import SHUFFLE
from engine.kernels.step import LEAKY, SILU, SWISH, SWISH_SCALE, Operand, reads_twice
from engine.kernels.winograd import BESIDE
from engine.shapes import slices

_CARRIES_ACTIVATION = ("Conv", "Gemm", "Add", "BatchNormalization")


def optimise(graph: Graph) -> Graph:
    """Run the passes that need no shapes; inputs and outputs keep names and values. A second run changes nothing."""
    for each in (drop_identities, fold_batch_norms, fuse_activations, delay_epilogues, drop_unused):
        graph = each(graph)
    return graph


def fold_batch_norms(graph: Graph) -> Graph:
    """Fold a BatchNormalization that alone follows a Conv into its weight and bias (computed in float64)."""
    arrays = dict(graph.initializers)
    nodes = list(graph.nodes)
    for conv, norm in sole_followers(graph, ("Conv",), "BatchNormalization"):
        if not all(name in arrays for name in (*conv.inputs[1:], *norm.inputs[1:])) or "activation" in conv.attributes:
            continue
        factor, offset = fold_batch_norm(
            [arrays[name] for name in norm.inputs[1:5]], norm.attributes.get("epsilon", 1e-5)
        )
        weight = arrays[conv.inputs[1]]
        bias = arrays[conv.inputs[2]].astype(np.float64) if len(conv.inputs) > 2 else np.zeros(len(weight))
        names = (f"{norm.outputs[0]}/weight", f"{norm.outputs[0]}/bias")
        scaled = np.empty(weight.shape, np.float32)
        # A ufunc widens and rounds piece by piece: no temporary array of twice the weight's size.
        np.multiply(weight, factor.reshape(-1, *(1,) * (weight.ndim - 1)), out=scaled, casting="same_kind")
        arrays[names[0]] = scaled
        arrays[names[1]] = (bias * factor + offset).astype(np.float32)
        nodes[nodes.index(conv)] = replace(conv, inputs=(conv.inputs[0], *names), outputs=norm.outputs)
        nodes.remove(norm)
    return replace(graph, nodes=tuple(nodes), initializers=arrays)


def fuse_activations(graph: Graph) -> Graph:
    """Turn an activation that alone follows a node into the node's attribute `activation`, if it can have one.

    The factor and the offset of HardSigmoid and HardSwish become part of the weight and the bias, and the half of SiLU,
    x * sigmoid(x), which exporters write as two nodes.
    """
    arrays = dict(graph.initializers)
    nodes = list(graph.nodes)
    for op_type in ("Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"):
        for node, after in sole_followers(replace(graph, nodes=tuple(nodes)), _CARRIES_ACTIVATION, op_type):
            fused = None if "activation" in node.attributes else _with_activation(node, after, arrays)
            if fused is not None:
                nodes[nodes.index(node)] = replace(fused, outputs=after.outputs)
                nodes.remove(after)
    for node, sigmoid, product in _silus(replace(graph, nodes=tuple(nodes))):
        if "activation" not in node.attributes and _is_scalable(node, arrays):
            fused = _activated(_scaled(node, 0.5, 0.0, arrays), SILU)
            nodes[nodes.index(node)] = replace(fused, outputs=product.outputs)
            nodes.remove(sigmoid)
            nodes.remove(product)
    return replace(graph, nodes=tuple(nodes), initializers=arrays)


def _silus(graph: Graph) -> list[tuple[Node, Node, Node]]:
    """Return nodes with the Sigmoid of their output and the Mul of both, if nothing else reads the two values."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(value.name for value in graph.outputs)
    makers = {node.outputs[0]: node for node in graph.nodes if len(node.outputs) == 1}
    found = []
    for product in graph.nodes:
        pair = [makers.get(name) for name in product.inputs] if product.op_type == "Mul" else []
        for sigmoid, node in (pair, pair[::-1]) if len(pair) == 2 else ():
            if sigmoid is None or node is None or sigmoid.op_type != "Sigmoid" or sigmoid.inputs != node.outputs:
                continue
            if readers[sigmoid.outputs[0]] == 1 and readers[node.outputs[0]] == 2:
                found.append((node, sigmoid, product))
    return found


def _is_scalable(node: Node, arrays: Mapping[str, Array]) -> bool:
    """Return whether a factor and an offset of the output can become part of the node's parameters."""
    plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0
    return node.op_type in ("Conv", "Gemm") and plain and all(name in arrays for name in node.inputs[1:])


def _with_activation(node: Node, after: Node, arrays: dict[str, Array]) -> Node | None:
    """Return the node with `after` as its activation, None if impossible; scaled parameters are added to `arrays`."""
    has = after.attributes
    if after.op_type == "Relu":
        return _activated(node, "Relu")
    if after.op_type == "LeakyRelu":
        slope = float(has.get("alpha", 0.01))
        return _activated(node, f"{LEAKY}:{slope!r}") if 0 < slope <= 1 else None
    if after.op_type == "Clip":
        limits: dict[tuple[object, object], str] = {(0, 6): "Relu6", (0, 1): "Unit"}
        name = limits.get((has.get("min"), has.get("max"))) if len(after.inputs) == 1 else None
        return _activated(node, name) if name else None
    if not _is_scalable(node, arrays):
        return None
    if after.op_type == "HardSwish":
        return _activated(_scaled(node, SWISH_SCALE, 3 * SWISH_SCALE, arrays), SWISH)
    return _activated(_scaled(node, has.get("alpha", 0.2), has.get("beta", 0.5), arrays), "Unit")


def _activated(node: Node, name: str) -> Node:
    return replace(node, attributes={**node.attributes, "activation": name})


def _scaled(node: Node, factor: float, offset: float, arrays: dict[str, Array]) -> Node:
    """Return the node with its output multiplied and shifted, by new parameters."""
    weight = arrays[node.inputs[1]].astype(np.float64)
    outputs = weight.shape[0 if node.op_type == "Conv" or node.attributes.get("transB") else 1]
    bias = arrays[node.inputs[2]].astype(np.float64) if len(node.inputs) > 2 else np.zeros(outputs)
    names = tuple(f"{node.outputs[0]}/scaled {what}" for what in ("weight", "bias"))
    for name, array in zip(names, (weight * factor, bias * factor + offset), strict=True):
        arrays[name] = array.astype(np.float32)
    return replace(node, inputs=(node.inputs[0], *names))


def delay_epilogues(graph: Graph) -> Graph:
    """Move a Conv's bias and activation to the MaxPool that alone follows it, if that makes its output smaller.

    Adding a constant and Relu are monotonic, rounding included: the result is the same to the bit, with a quarter of
    the additions.
    """
    nodes = list(graph.nodes)
    for conv, pool in sole_followers(graph, ("Conv",), "MaxPool"):
        shrinks = prod(pool.attributes.get("strides") or (1,)) > 1
        fixed = all(name in graph.initializers for name in conv.inputs[2:])
        if (
            not shrinks
            or not fixed
            or "residual" in conv.attributes
            or len(pool.inputs) > 1
            or "activation" in pool.attributes
            or reads_twice(conv.attributes.get("activation", ""))  # perhaps not monotonic
        ):
            continue
        moved = {name: conv.attributes[name] for name in ("activation",) if name in conv.attributes}
        kept = {name: value for name, value in conv.attributes.items() if name not in moved}
        nodes[nodes.index(conv)] = replace(conv, inputs=conv.inputs[:2], attributes=kept)
        nodes[nodes.index(pool)] = replace(
            pool, inputs=(*pool.inputs, *conv.inputs[2:]), attributes={**pool.attributes, **moved}
        )
    return replace(graph, nodes=tuple(nodes))


def fuse_residuals(graph: Graph, shapes: Mapping[str, Shape], *, late: bool = False) -> Graph:
    """Make an Add that alone follows a Conv part of it: the other addend becomes the Conv's last input (`residual`).

    With `late` it is added after the Conv's activation; run that after `defer_biases`, which does not support it. The
    pass needs the values' shapes, because an Add that broadcasts stays a node; so the planner runs it.
    """
    nodes = list(graph.nodes)
    fused: set[str] = set()
    for conv, add in [*sole_followers(graph, ("Conv",), "Add", at=1), *sole_followers(graph, ("Conv",), "Add")]:
        other = add.inputs[1] if add.inputs[0] == conv.outputs[0] else add.inputs[0]
        fits = shapes.get(other) == shapes[conv.outputs[0]] == shapes[add.outputs[0]]
        if not fits or add.outputs[0] in fused or _cannot_add(conv, add, late):
            continue
        fused.add(add.outputs[0])
        nodes[nodes.index(add)] = replace(
            conv,
            inputs=(*conv.inputs, other),
            outputs=add.outputs,
            attributes={**conv.attributes, **add.attributes, "residual": LATE if late else 1},
        )
        nodes.remove(conv)
    return replace(graph, nodes=tuple(nodes))


def _cannot_add(conv: Node, add: Node, late: bool) -> bool:
    has = conv.attributes
    if late:
        # Some activations cannot work in place, and kernels of depthwise convolutions have no late residual.
        return (
            "residual" in has
            or bool(add.attributes)
            or reads_twice(has.get("activation", ""))
            or has.get("group", 1) > 1
        )
    return bool({"activation", "residual"} & has.keys())


# Attributes of a pool that have no effect with these values.
_PLAIN_POOL: Mapping[str, tuple[object, ...]] = {
    "pads": ((0, 0, 0, 0),),
    "dilations": ((1, 1),),
    "ceil_mode": (0,),
    "storage_order": (0,),
    "auto_pad": ("NOTSET", "VALID"),
}
Reading = tuple[Node, Sequence[Operand]]  # a node and its inputs


def fuse_blocks(
    graph: Graph, shapes: Mapping[str, Shape], wanted: Callable[[Reading, Sequence[Reading]], bool]
) -> Graph:
    """Fuse a Conv, the depthwise Conv that alone follows it and the pointwise Conv that alone follows that.

    Or only the first two, if a kernel runs them and is faster so. The pass needs the values' shapes, so the planner
    runs it; `wanted(fused, separate)` decides.
    """
    arrays, nodes = dict(graph.initializers), list(graph.nodes)
    found = sole_followers(graph, ("Conv",), "Conv")
    after = {before.outputs[0]: follower for before, follower in found}
    fused: set[str] = set()
    for first, second in found:
        if first.outputs[0] in fused:
            continue
        third = after.get(second.outputs[0])
        for separate in ([first, second, third], [first, second]) if third else ([first, second],):
            block = _as_block(separate, arrays)
            if block is None:
                continue
            node, made = block
            readings = [(each, _operands(each, shapes, arrays | made)) for each in (node, *separate)]
            if read_block(*readings[0]) is None or not wanted(readings[0], readings[1:]):
                continue
            arrays |= made
            nodes[nodes.index(separate[-1])] = node
            for each in separate[:-1]:
                nodes.remove(each)
            fused |= {each.outputs[0] for each in separate}
            break
    return drop_unused(replace(graph, nodes=tuple(nodes), initializers=arrays))


def _as_block(convs: Sequence[Node], arrays: Mapping[str, Array]) -> tuple[Node, dict[str, Array]] | None:
    """Return the node that replaces two or three Convs, the second of them depthwise, and its matrices."""
    residual = convs[-1].inputs[-1:] if len(convs) == 3 and convs[-1].attributes.get("residual") else ()
    parameters = [name for conv in convs for name in conv.inputs[1:]]
    known = all(name in arrays for name in parameters[: len(parameters) - len(residual)])
    plain = not any(conv.attributes.get("residual") for conv in convs[:2])
    if not known or not plain or any("padding" in conv.attributes for conv in convs):
        return None
    pairs = [_weight_and_bias(conv, arrays) for conv in convs]
    second, groups = pairs[1][0], [conv.attributes.get("group", 1) for conv in convs]
    if second.shape[:2] != (groups[1], 1) or groups[::2] != [1] * len(groups[::2]):
        return None
    names = tuple(f"{conv.outputs[0]}/matrix" for conv in convs)
    matrices = [np.column_stack([weight.reshape(len(weight), -1), bias]) for weight, bias in pairs]
    attributes: dict[str, object] = {}
    for prefix, conv, (weight, _) in zip(("first_", "", "third_"), convs, pairs, strict=False):
        own = {"kernel_shape": weight.shape[2:], **conv.attributes}
        attributes |= {f"{prefix}{name}": value for name, value in own.items()}
    op_type = BLOCK if len(convs) == 3 else PAIR
    node = Node(op_type, (convs[0].inputs[0], *names, *residual), convs[-1].outputs, attributes, convs[1].name)
    return node, dict(zip(names, matrices, strict=True))


def fuse_pools(
    graph: Graph, shapes: Mapping[str, Shape], wanted: Callable[[Reading, Sequence[Reading]], bool]
) -> Graph:
    """Fuse a Conv and the 2x2 MaxPool that alone follows it; arguments as for `fuse_blocks`."""
    nodes = list(graph.nodes)
    for conv, pool in sole_followers(graph, ("Conv",), "MaxPool"):
        bare = {name: value for name, value in pool.attributes.items() if value not in _PLAIN_POOL.get(name, ())}
        windows = bare.pop("kernel_shape", None), bare.pop("strides", None)
        activation = {name: bare.pop(name) for name in ("activation",) if name in bare}
        taken = {"activation", "residual"} & conv.attributes.keys()
        if windows != ((2, 2), (2, 2)) or bare or taken:
            continue
        node = Node(CONV_POOL, (*conv.inputs, *pool.inputs[1:]), pool.outputs, {**conv.attributes, **activation})
        node = replace(node, name=conv.name)
        inputs, *separate = (_operands(each, shapes, graph.initializers) for each in (node, conv, pool))
        if read_conv_pool(node, inputs) is None:
            continue
        if wanted((node, inputs), [(conv, separate[0]), (pool, separate[1])]):
            nodes[nodes.index(pool)] = node
            nodes.remove(conv)
    return replace(graph, nodes=tuple(nodes))


def fuse_focus(graph: Graph, shapes: Mapping[str, Shape]) -> Graph:
    """Turn four images of every second pixel, their Concat and the Conv that alone reads it into one Conv of the image.

    This is the first layer of YOLOX and YOLOv5: Slices with step 2 make the four images. Each tap of the Conv belongs
    to one of them, so it has twice as many taps in each direction, and the stride 2. The pass needs the values' shapes.
    """
    arrays, nodes = dict(graph.initializers), list(graph.nodes)
    slicing = {node.outputs[0]: node for node in graph.nodes if node.op_type == "Slice" and len(node.inputs) == 1}
    for concat, conv in sole_followers(graph, ("Concat",), "Conv"):
        found = [_every_second(name, slicing, shapes) for name in concat.inputs]
        sources = {each[0] for each in found if each is not None}
        has = conv.attributes
        plain = has.get("group", 1) == 1 and not {"auto_pad", "residual", "padding"} & has.keys()
        ones = all(set(has.get(name) or (1,)) == {1} for name in ("strides", "dilations"))
        if len(found) != 4 or None in found or len(sources) != 1 or concat.attributes.get("axis") != 1 or not ones:
            continue
        weight = arrays.get(conv.inputs[1])
        if weight is None or weight.ndim != 4 or not plain or _kernel_differs(conv, weight):
            continue
        outputs, channels, height, width = weight.shape[0], weight.shape[1] // 4, *weight.shape[2:]
        wide = np.zeros((outputs, channels, 2 * height, 2 * width), np.float32)
        for part, each in enumerate(found):
            assert each is not None
            wide[:, :, each[1] :: 2, each[2] :: 2] += weight[:, part * channels : (part + 1) * channels]
        name = f"{concat.outputs[0]}/weight"
        arrays[name] = wide
        pads = tuple(2 * pad for pad in has.get("pads") or (0,) * 4)
        attributes = {**has, "kernel_shape": wide.shape[2:], "strides": (2, 2), "pads": pads}
        made = replace(conv, inputs=(*sources, name, *conv.inputs[2:]), attributes=attributes)
        nodes[nodes.index(conv)] = made
        nodes.remove(concat)
    return _drop_unread(drop_unused(replace(graph, nodes=tuple(nodes), initializers=arrays)))


def _kernel_differs(conv: Node, weight: Array) -> bool:
    return bool(conv.attributes.get("kernel_shape", weight.shape[2:]) != weight.shape[2:])


def _every_second(name: str, slicing: Mapping[str, Node], shapes: Mapping[str, Shape]) -> tuple[str, int, int] | None:
    """Return the image, and the row and column at which a value starts to take every second of each; else None."""
    starts = [0, 0]
    taken = [False, False]
    while name in slicing:
        node = slicing[name]
        name = node.inputs[0]
        shape = shapes.get(name, ())
        if len(shape) != 4:
            return None
        for axis, (part, size) in enumerate(zip(slices(node, shape), shape, strict=True)):
            start, stop, step = part.indices(size)
            if (start, step) == (0, 1) and stop == size:
                continue
            if axis < 2 or step != 2 or start > 1 or size % 2 or stop <= size - 2 + start or taken[axis - 2]:
                return None
            starts[axis - 2], taken[axis - 2] = start, True
    return (name, starts[0], starts[1]) if all(taken) else None


def _drop_unread(graph: Graph) -> Graph:
    """Return the graph without Slices that nothing reads."""
    nodes = list(graph.nodes)
    while True:
        read = {name for node in nodes for name in node.inputs} | {value.name for value in graph.outputs}
        kept = [node for node in nodes if node.op_type != "Slice" or node.outputs[0] in read]
        if len(kept) == len(nodes):
            return replace(graph, nodes=tuple(nodes))
        nodes = kept


def fuse_shuffles(graph: Graph, shapes: Mapping[str, Shape]) -> Graph:
    """Turn Reshape, Transpose and Reshape that shuffle channels into one node that copies in any layout.

    A Concat of as many equal parts, which it alone reads, becomes part of it. The pass needs the values' shapes.
    """
    nodes = list(graph.nodes)
    after = {first.outputs[0]: second for first, second in sole_followers(graph, ("Reshape",), "Transpose")}
    last = {first.outputs[0]: second for first, second in sole_followers(graph, ("Transpose",), "Reshape")}
    joins = {second.outputs[0]: first for first, second in sole_followers(graph, ("Concat",), "Reshape")}
    for first in graph.nodes:
        turn = after.get(first.outputs[0])
        end = last.get(turn.outputs[0]) if turn is not None else None
        if turn is None or end is None:
            continue
        before, split, whole = (shapes[name] for name in (first.inputs[0], first.outputs[0], end.outputs[0]))
        group = split[1] if len(split) == len(before) + 1 else 0
        parts = (before[0], group, before[1] // max(group, 1), *before[2:])
        swap = (0, 2, 1, *range(3, len(split)))
        if len(before) < 3 or before != whole or split != parts or turn.attributes.get("perm") != swap:
            continue
        joined, inputs = joins.get(first.outputs[0]), first.inputs[:1]
        sides = {shapes[name][1] for name in joined.inputs} if joined is not None else set()
        if joined is not None and joined.attributes.get("axis") == 1 and sides == {before[1] // group}:
            inputs = joined.inputs
            nodes.remove(joined)
        nodes[nodes.index(end)] = Node(SHUFFLE, inputs, end.outputs, {"group": group}, end.name)
        nodes.remove(first)
        nodes.remove(turn)
    return drop_unused(replace(graph, nodes=tuple(nodes)))


def fuse_beside(
    graph: Graph, shapes: Mapping[str, Shape], wanted: Callable[[Reading, Sequence[Reading]], bool]
) -> Graph:
    """Fuse a 1x1 and a 3x3 Conv of one value and the Concat that alone reads both; arguments as for `fuse_blocks`.

    Run it after `defer_biases`, which does not support such nodes.
    """
    arrays, nodes = dict(graph.initializers), list(graph.nodes)
    second = {concat.outputs[0]: wide for wide, concat in sole_followers(graph, ("Conv",), "Concat", at=1)}
    for narrow, concat in sole_followers(graph, ("Conv",), "Concat"):
        wide = second.get(concat.outputs[0])
        if wide is None or len(concat.inputs) > 2 or concat.attributes.get("axis") != 1 or not _alike(narrow, wide):
            continue
        separate = [(each, _operands(each, shapes, arrays)) for each in (narrow, wide, concat)]
        fixed = all(name in arrays for name in (*narrow.inputs[1:], *wide.inputs[1:]))
        first = read(*separate[0])
        if not fixed or not first.is_pointwise or first.group > 1:
            continue
        name = f"{concat.outputs[0]}/bias"
        biased = len(wide.inputs) > 2
        made = {name: np.concatenate([arrays[narrow.inputs[2]], arrays[wide.inputs[2]]])} if biased else {}
        node = replace(wide, op_type=BESIDE, inputs=(*wide.inputs[:2], narrow.inputs[1], *made), outputs=concat.outputs)
        if wanted((node, _operands(node, shapes, {**arrays, **made})), separate):
            arrays |= made
            nodes[nodes.index(concat)] = node
            nodes.remove(narrow)
            nodes.remove(wide)
    return drop_unused(replace(graph, nodes=tuple(nodes), initializers=arrays))


def _alike(a: Node, b: Node) -> bool:
    """Return whether two Convs read the same value and have the same last steps, so that one pass can do both."""
    same = a.inputs[0] == b.inputs[0] and a.attributes.get("activation") == b.attributes.get("activation")
    return same and len(a.inputs) == len(b.inputs) and not any(each.attributes.get("residual") for each in (a, b))


def _operands(node: Node, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]) -> list[Operand]:
    return [
        Operand(arrays[name].shape, arrays[name], True) if name in arrays else Operand(shapes[name])
        for name in node.inputs
    ]


def _weight_and_bias(conv: Node, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    weight, has_bias = arrays[conv.inputs[1]], len(conv.inputs) - bool(conv.attributes.get("residual")) > 2
    return weight, arrays[conv.inputs[2]] if has_bias else np.zeros(len(weight), np.float32)
