"""Runs Instance-, Group-, Layer- and RMSNormalization: each group of numbers minus its mean, over its deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod

import numpy as np

from engine.graph import Array, ModelError, Node, Shape
from engine.kernels.step import Call, Kernel, Operand, Scratch, Step, attributes, scalar
from engine.shapes import broadcasts, positive


def instance_normalization(node: Node, inputs: Sequence[Operand]) -> Step:
    """Normalise each channel of each item, then scale and shift by channel."""
    epsilon, shape = attributes(node, epsilon=1e-5)["epsilon"], inputs[0].shape
    if len(shape) < 3 or any(operand.shape != shape[1:2] for operand in inputs[1:]) or len(inputs) != 3:
        raise _misfit(node, inputs)
    return _step(shape, (prod(shape[:2]), prod(shape[2:])), epsilon, (shape[1], *(1,) * (len(shape) - 2)))


def group_normalization(node: Node, inputs: Sequence[Operand]) -> Step:
    """Normalise each group of channels of each item, then scale and shift by channel (by group before set 21)."""
    found, shape = attributes(node, epsilon=1e-5, num_groups=None, stash_type=1), inputs[0].shape
    groups = found["num_groups"]
    if len(shape) < 2 or not isinstance(groups, int) or groups < 1 or shape[1] % groups or len(inputs) != 3:
        raise _misfit(node, inputs)
    rows = shape[0] * groups, shape[1] // groups * prod(shape[2:])
    spatial = (1,) * (len(shape) - 2)
    if all(operand.shape == shape[1:2] for operand in inputs[1:]):
        return _step(shape, rows, found["epsilon"], (shape[1], *spatial))
    if any(operand.shape != (groups,) for operand in inputs[1:]):
        raise _misfit(node, inputs)
    by_group = (shape[0], groups, shape[1] // groups, *shape[2:])
    return _step(shape, rows, found["epsilon"], (groups, 1, *spatial), by_group)


def layer_normalization(node: Node, inputs: Sequence[Operand]) -> Step:
    """Normalise over all axes from `axis` on, then scale and shift."""
    found, shape = attributes(node, axis=-1, epsilon=1e-5, stash_type=1), inputs[0].shape
    axis = positive(node, found["axis"], len(shape))
    if len(inputs) < 2 or any(not broadcasts(operand.shape, shape) for operand in inputs[1:]):
        raise _misfit(node, inputs)
    centred = node.op_type == "LayerNormalization"
    return _step(shape, (prod(shape[:axis]), prod(shape[axis:])), found["epsilon"], None, centred=centred)


def _misfit(node: Node, inputs: Sequence[Operand]) -> ModelError:
    shapes = ", ".join(str(operand.shape) for operand in inputs)
    return ModelError(
        f"{node.op_type} '{node.name}': inputs of shapes {shapes} do not fit one another or {node.attributes}"
    )


def _step(
    shape: Shape,
    rows: tuple[int, int],
    epsilon: float,
    by: Shape | None,
    seen: Shape | None = None,
    *,
    centred: bool = True,
) -> Step:
    """Return a step that normalises the input seen as `rows`, then scales it by parameters seen in the shape `by`.

    The scaled output is seen in the shape `seen`; without `centred` the mean stays.
    """
    if not rows[1]:
        raise ModelError(f"a normalisation over no numbers of {shape}")

    def bind(arrays: Sequence[Array], out: Array, scratch: Sequence[Array]) -> list[Call]:
        (squares, mean, deviation), share = scratch, scalar(1 / rows[1])
        x, y, whole = arrays[0].reshape(rows), out.reshape(rows), out.reshape(shape if seen is None else seen)
        calls: list[Call] = []
        if centred:
            calls = [
                partial(np.add.reduce, x, 1, None, mean, True),
                partial(np.multiply, mean, share, out=mean),
                partial(np.subtract, x, mean, out=y),
            ]
            x = y
        calls += [
            partial(np.square, x, out=squares),
            partial(np.add.reduce, squares, 1, None, deviation, True),
            partial(np.multiply, deviation, share, out=deviation),
            partial(np.add, deviation, scalar(epsilon), out=deviation),
            partial(np.sqrt, deviation, out=deviation),
            partial(np.divide, x, deviation, out=y),
        ]
        for ufunc, parameter in zip((np.multiply, np.add), arrays[1:], strict=False):
            calls.append(partial(ufunc, whole, parameter if by is None else parameter.reshape(by), out=whole))
        return calls

    return Step(shape, bind, (Scratch(rows), Scratch((rows[0], 1)), Scratch((rows[0], 1))))


KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "GroupNormalization": (group_normalization,),
    "InstanceNormalization": (instance_normalization,),
    "LayerNormalization": (layer_normalization,),
    "RMSNormalization": (layer_normalization,),
}
