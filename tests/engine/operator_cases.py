"""One line a case: an operator, its shapes and attributes; and the tools to run it in the engine and in PyTorch."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from engine.compiler.kernel_selection import KernelSelector
from engine.compiler.planner import make_plan
from engine.graph import Array, Graph, Node, Shape, Value
from tests.engine.case import Case
from tests.engine.more_operator_cases import MORE_CASES


def conv(name: str, x: Shape, weight: Shape, *, bias: bool = True, in_torch: bool = True, **attributes: Any) -> Case:
    shapes = (x, weight, weight[:1]) if bias else (x, weight)
    return Case(f"conv_{name}", "Conv", shapes, attributes, in_torch)


def pool(op: str, name: str, x: Shape, kernel: Shape, *, in_torch: bool = True, **attributes: Any) -> Case:
    return Case(f"{op}_{name}".lower(), op, (x,), {"kernel_shape": kernel, **attributes}, in_torch)


def gemm(name: str, *shapes: Shape, **attributes: Any) -> Case:
    return Case(f"gemm_{name}", "Gemm", shapes, attributes)


CASES = [
    conv("plain", (1, 2, 6, 7), (3, 2, 3, 3)),
    conv("no_bias", (1, 2, 6, 7), (3, 2, 3, 3), bias=False),
    conv("batch", (3, 2, 6, 7), (4, 2, 3, 3), pads=(1, 1, 1, 1)),
    conv("kernel_2x3", (1, 2, 6, 7), (3, 2, 2, 3)),
    conv("kernel_covers_all", (2, 3, 4, 5), (6, 3, 4, 5)),
    conv("stride_2", (1, 2, 7, 8), (3, 2, 3, 3), strides=(2, 2)),
    conv("stride_2x3_pad", (2, 2, 7, 8), (3, 2, 3, 3), strides=(2, 3), pads=(1, 1, 1, 1)),
    conv("stride_over_kernel", (1, 2, 9, 9), (3, 2, 2, 2), strides=(3, 3)),
    conv("pad_uneven", (1, 2, 6, 7), (3, 2, 3, 3), pads=(0, 1, 2, 3)),
    conv("pad_wider_than_kernel", (1, 1, 3, 3), (2, 1, 2, 2), pads=(3, 3, 3, 3)),
    conv("dilation_2", (1, 2, 8, 9), (3, 2, 3, 3), dilations=(2, 2)),
    conv("dilation_2x1_stride_pad", (2, 2, 8, 9), (3, 2, 3, 3), dilations=(2, 1), strides=(1, 2), pads=(2, 1, 2, 1)),
    conv("pointwise", (1, 4, 5, 6), (3, 4, 1, 1)),
    conv("pointwise_batch", (3, 4, 5, 6), (3, 4, 1, 1)),
    conv("pointwise_stride", (1, 4, 5, 6), (3, 4, 1, 1), strides=(2, 2)),
    conv("pointwise_pad", (1, 4, 5, 6), (3, 4, 1, 1), pads=(1, 1, 1, 1)),
    conv("pointwise_groups", (2, 4, 5, 6), (6, 2, 1, 1), group=2),
    conv("one_pixel", (1, 4, 1, 1), (3, 4, 1, 1)),
    conv("one_channel_out", (1, 3, 5, 5), (1, 3, 3, 3)),
    conv("groups_2", (1, 4, 6, 7), (6, 2, 3, 3), group=2),
    conv("groups_2_batch_pad", (2, 4, 6, 7), (6, 2, 3, 3), group=2, pads=(1, 1, 1, 1)),
    conv("depthwise", (1, 5, 6, 7), (5, 1, 3, 3), group=5, pads=(1, 1, 1, 1)),
    conv("depthwise_times_2", (2, 3, 6, 7), (6, 1, 3, 3), group=3),
    conv("one_dimension", (2, 3, 9), (4, 3, 3), strides=(2,), pads=(1, 1)),
    conv("three_dimensions", (1, 2, 4, 5, 4), (2, 2, 2, 3, 2), pads=(1, 1, 0, 0, 1, 1)),
    conv("valid", (1, 2, 6, 7), (3, 2, 3, 3), auto_pad="VALID"),
    conv("same_upper", (1, 2, 6, 7), (3, 2, 3, 2), auto_pad="SAME_UPPER", strides=(2, 2), in_torch=False),
    conv("same_lower", (1, 2, 6, 7), (3, 2, 3, 2), auto_pad="SAME_LOWER", strides=(2, 2), in_torch=False),
    pool("MaxPool", "2x2", (1, 2, 6, 8), (2, 2), strides=(2, 2)),
    pool("MaxPool", "batch", (3, 2, 6, 8), (2, 2), strides=(2, 2)),
    pool("MaxPool", "stride_1", (1, 2, 5, 6), (2, 3)),
    pool("MaxPool", "odd_size", (1, 2, 7, 9), (2, 2), strides=(2, 2)),
    pool("MaxPool", "odd_size_ceil", (1, 2, 7, 9), (2, 2), strides=(2, 2), ceil_mode=1),
    pool("MaxPool", "resnet_stem", (1, 2, 8, 9), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    pool("MaxPool", "ceil_drops_window_in_pad", (1, 1, 5, 5), (2, 2), strides=(3, 3), pads=(1, 1, 1, 1), ceil_mode=1),
    pool("MaxPool", "uneven_pads", (1, 2, 6, 7), (3, 2), pads=(1, 0, 2, 1), in_torch=False),
    pool("MaxPool", "dilated", (1, 2, 8, 9), (3, 2), dilations=(2, 3)),
    pool("MaxPool", "one_tap_stride", (1, 2, 6, 7), (1, 1), strides=(2, 3)),
    pool("MaxPool", "same_upper", (1, 2, 7, 7), (3, 3), strides=(2, 2), auto_pad="SAME_UPPER", in_torch=False),
    pool("MaxPool", "one_dimension", (2, 2, 9), (3,), strides=(2,)),
    pool("MaxPool", "three_dimensions", (1, 2, 4, 5, 6), (2, 2, 3), strides=(1, 2, 2)),
    pool("AveragePool", "2x2", (1, 2, 6, 8), (2, 2), strides=(2, 2)),
    pool("AveragePool", "batch", (3, 2, 6, 8), (3, 2)),
    pool("AveragePool", "pad_excluded", (1, 2, 6, 7), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    pool("AveragePool", "pad_included", (1, 2, 6, 7), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1), count_include_pad=1),
    pool("AveragePool", "ceil", (1, 2, 6, 7), (3, 3), strides=(2, 2), ceil_mode=1),
    pool(
        "AveragePool",
        "ceil_pad_included",
        (1, 2, 6, 7),
        (3, 3),
        strides=(2, 2),
        pads=(1, 1, 1, 1),
        ceil_mode=1,
        count_include_pad=1,
    ),
    pool("AveragePool", "dilated", (1, 2, 8, 9), (2, 3), dilations=(2, 2), in_torch=False),
    pool("AveragePool", "same_lower", (1, 2, 7, 7), (2, 2), auto_pad="SAME_LOWER", in_torch=False),
    pool("AveragePool", "one_dimension", (2, 2, 9), (3,), strides=(2,), pads=(1, 1)),
    Case("global_average_pool", "GlobalAveragePool", ((2, 3, 5, 6),)),
    Case("global_average_pool_one_dimension", "GlobalAveragePool", ((1, 3, 7),)),
    Case("batch_norm", "BatchNormalization", ((2, 3, 4, 5), (3,), (3,), (3,), (3,))),
    Case("batch_norm_epsilon", "BatchNormalization", ((2, 3, 4, 5), (3,), (3,), (3,), (3,)), {"epsilon": 0.1}),
    Case("batch_norm_one_dimension", "BatchNormalization", ((2, 3, 7), (3,), (3,), (3,), (3,))),
    Case("batch_norm_flat", "BatchNormalization", ((4, 3), (3,), (3,), (3,), (3,))),
    Case("relu", "Relu", ((2, 3, 4, 5),)),
    Case("relu_flat", "Relu", ((2, 7),)),
    Case("add", "Add", ((2, 3, 4, 5), (2, 3, 4, 5))),
    Case("add_channel", "Add", ((2, 3, 4, 5), (3, 1, 1))),
    Case("add_both_ways", "Add", ((2, 1, 4, 1), (3, 1, 5))),
    gemm("plain", (2, 5), (5, 3)),
    gemm("linear", (1, 5), (3, 5), (3,), transB=1),
    gemm("linear_batch", (4, 5), (3, 5), (3,), transB=1),
    gemm("both_transposed", (5, 2), (3, 5), (2, 3), transA=1, transB=1),
    gemm("alpha_beta", (2, 5), (5, 3), (3,), alpha=0.5, beta=2.0),
    gemm("beta_0", (2, 5), (5, 3), (3,), beta=0.0),
    gemm("bias_column", (2, 5), (5, 3), (2, 1)),
    gemm("bias_scalar", (2, 5), (5, 3), ()),
    gemm("one_by_one", (1, 1), (1, 1), (1,)),
    gemm("one_column", (4, 5), (5, 1)),
    Case("flatten", "Flatten", ((2, 3, 4, 5),)),
    Case("flatten_axis_0", "Flatten", ((2, 3, 4),), {"axis": 0}),
    Case("flatten_axis_2", "Flatten", ((2, 3, 4, 5),), {"axis": 2}),
    Case("flatten_axis_end", "Flatten", ((2, 3),), {"axis": 2}),
    Case("flatten_axis_from_end", "Flatten", ((2, 3, 4, 5),), {"axis": -1}),
    Case("softmax", "Softmax", ((2, 7),)),
    Case("softmax_axis_1", "Softmax", ((2, 3, 4, 5),), {"axis": 1}),
    Case("softmax_axis_from_end", "Softmax", ((2, 3, 4),), {"axis": -2}),
    Case("dropout", "Dropout", ((2, 7),), {"ratio": 0.3}),
    Case("identity", "Identity", ((2, 7),)),
    *MORE_CASES,
]


def run_in_plan(node: Node, inputs: list[Array], *, constants: bool, selector: KernelSelector | None = None) -> Array:
    """The node alone in a plan; all inputs but the first are parameters (`constants`) or given at run time too."""
    fed = 1 if constants or node.op_type in ("BatchNormalization", "Gather") else len(inputs)
    graph = Graph(
        name="single",
        inputs=tuple(Value(name, array.shape) for name, array in zip(node.inputs[:fed], inputs[:fed], strict=True)),
        outputs=(Value("out", ()),),
        nodes=(node,),
        initializers=dict(zip(node.inputs[fed:], inputs[fed:], strict=True)),
    )
    plan = make_plan(graph, [array.shape for array in inputs[:fed]], selector)
    found = plan.run(*inputs[:fed])
    assert isinstance(found, np.ndarray)
    again = found.copy()
    assert np.array_equal(plan.run(*inputs[:fed]), again), "a second run of the same plan differs"
    return again


def assert_close(found: Array, expected: Array, tolerance: float = 1e-5) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def run_in_torch(case: Case, inputs: list[Array]) -> Array:
    """The same operator by PyTorch (needs torch); uneven padding is put on by hand."""
    import torch
    import torch.nn.functional as F

    x, *rest = (torch.from_numpy(array) for array in inputs)
    has = case.attributes
    rank = x.ndim - 2
    strides, dilations = has.get("strides", (1,) * rank), has.get("dilations", (1,) * rank)
    pads = has.get("pads", (0,) * (2 * rank))
    if case.op_type == "Conv":
        order = [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)]
        function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        bias = rest[1] if len(rest) > 1 else None
        out = function(F.pad(x, order), rest[0], bias, strides, 0, dilations, has.get("group", 1))
    elif case.op_type == "MaxPool":
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
        out = function(x, has["kernel_shape"], strides, pads[:rank], dilations, bool(has.get("ceil_mode")))
    elif case.op_type == "AveragePool":
        function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
        ceil, include = bool(has.get("ceil_mode")), bool(has.get("count_include_pad"))
        out = function(x, has["kernel_shape"], strides, pads[:rank], ceil, include)
    elif case.op_type == "GlobalAveragePool":
        out = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    elif case.op_type == "BatchNormalization":
        scale, bias, mean, var = rest
        out = F.batch_norm(x, mean, var, scale, bias, eps=has.get("epsilon", 1e-5))
    elif case.op_type == "Relu":
        out = F.relu(x)
    elif case.op_type == "Add":
        out = x + rest[0]
    elif case.op_type == "Gemm":
        a, b = (x.T if has.get("transA") else x), (rest[0].T if has.get("transB") else rest[0])
        out = has.get("alpha", 1.0) * (a @ b)
        out = out + has.get("beta", 1.0) * rest[1] if len(rest) > 1 else out
    elif case.op_type == "Flatten":
        axis = has.get("axis", 1) % (x.ndim + 1) if has.get("axis", 1) >= 0 else has["axis"] + x.ndim
        out = x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))
    elif case.op_type == "Softmax":
        out = torch.softmax(x, dim=has.get("axis", -1))
    elif case.op_type in ("Dropout", "Identity"):
        out = F.dropout(x, training=False)
    else:
        raise ValueError(f"no PyTorch counterpart of {case.op_type} is written down here")
    return np.ascontiguousarray(out.numpy())
