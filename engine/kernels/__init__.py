"""Registers kernels: for each ONNX operator its candidates, the best first; one file for each family.

How to add one. A kernel is a function (node, inputs) -> Step, or None if it does not suit the node; `inputs` are
`Operand`s: shapes, and the arrays of parameters. A Step has the output's shape and `bind`, which the planner calls with
the arrays of inputs, output and scratch and which returns prepared calls; these compute all, and allocate nothing.
Arrays always have the shapes of ONNX, (N, C, ...); their strides show how they lie in memory. The Step declares what
its `bind` accepts:

- `layout=Layout.PLANAR` (the default): inputs and output are C-contiguous. A plain kernel declares nothing else; if
  the net around it runs channels last, the planner copies.
- `layout=Layout.ANY`: `bind` only uses ufuncs, slices and copies, which take any strides, and no reshape; all operands
  then have the same layout, that of the net. Suits element-wise operators, pools and concatenation.
- `layout=Layout.LAST`: `last(array)` is C-contiguous for the inputs with spatial axes and for the output.
- `strided=True`, `strided_out=True`: inputs, and the output, may be views within a larger frame (with a gap after each
  row). Usual together with ANY.
- `border=Border(...)`: the first input has a frame of a constant around it; the kernel need not pad.
- `input_layout=...`: the layout of the first input, if it is another one.
- `packs={index: Pack(...)}`: a parameter comes rearranged, once for all plans and worker processes.
- `bind=None`: the output is the first input's memory under another shape; planar.

Operands without spatial axes (fewer than three axes) are always C-contiguous. All kernels of an operator are compared
with `engine.reference`; without timing, a plan takes the first one.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.kernels import (
    activations,
    block,
    conv,
    conv_last,
    conv_pool,
    conv_transpose,
    depthwise,
    elementwise,
    linear,
    movement,
    normalization,
    pool,
    quantization,
    rearrange,
    reductions,
    resize,
    selection,
    ufuncs,
    winograd,
    winograd_rows,
)
from engine.kernels.step import Kernel

KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "Add": (elementwise.add,),
    "AveragePool": (pool.average_pool,),
    "BatchNormalization": (elementwise.batch_normalization,),
    "Clip": (activations.clip,),
    "Concat": (movement.concat,),
    "Conv": (
        depthwise.depthwise_sorted,
        depthwise.depthwise,
        winograd.winograd6,
        winograd.winograd5,
        winograd.winograd4,
        winograd.winograd2,
        winograd_rows.winograd_rows,
        conv_last.rows_from_planes,
        conv_last.rows_in_panels,
        conv_last.rows_whole,
        conv.pointwise,
        conv.im2col,
    ),
    "ConvTranspose": (conv_transpose.conv_transpose,),
    "Div": (elementwise.divide,),
    "Dropout": (movement.dropout,),
    "Flatten": (movement.flatten,),
    "Gather": (movement.gather,),
    "Gemm": (linear.gemm_node,),
    "GlobalAveragePool": (pool.global_average_pool, pool.global_average_pool_last),
    "GlobalMaxPool": (reductions.global_max_pool,),
    "HardSigmoid": (activations.hard_sigmoid,),
    "HardSwish": (activations.hard_swish,),
    "Identity": (movement.identity,),
    "LRN": (reductions.lrn,),
    "LeakyRelu": (activations.leaky_relu,),
    "LogSoftmax": (reductions.log_softmax,),
    "MatMul": (linear.matmul,),
    "MaxPool": (pool.max_pool,),
    "Mul": (elementwise.multiply,),
    "PRelu": (activations.prelu,),
    "Pad": (movement.pad,),
    "Relu": (elementwise.relu,),
    "Reshape": (movement.reshape,),
    "Resize": (resize.resize,),
    "Sigmoid": (activations.sigmoid,),
    "Slice": (movement.slice_,),
    "Softmax": (linear.softmax,),
    "Squeeze": (movement.reshape,),
    "Sub": (elementwise.subtract,),
    "Tanh": (activations.tanh,),
    "Transpose": (movement.transpose,),
    "Unsqueeze": (movement.reshape,),
    **elementwise.OTHERS,
    **normalization.KERNELS,
    **quantization.KERNELS,
    **rearrange.KERNELS,
    **reductions.KERNELS,
    **selection.KERNELS,
    **ufuncs.KERNELS,
}

_ANY = (
    "Cast Concat DepthToSpace Equal Expand Flatten Gather GatherElements Identity Pad Reshape Slice SpaceToDepth "
    "ReduceMax ReduceMin Squeeze Tile Transpose Unsqueeze Where"
)
_NUMBERS = (
    "Abs Add ArgMax ArgMin Div Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Pow ReduceL1 "
    "ReduceProd ReduceSum ReduceSumSquare Sign Sub"
)
_FLOATS = (
    "Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Exp Floor IsInf IsNaN Log Mean Mish Reciprocal "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean Round Selu Sin Sinh Softplus Softsign Sqrt Tan ThresholdedRelu"
)
KINDS: Mapping[str, str] = {
    **dict.fromkeys(_ANY.split(), "fiub"),
    **dict.fromkeys([*_NUMBERS.split(), *quantization.KERNELS, selection.INDICES], "fiu"),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), "b"),
    "Neg": "fi",
    **dict.fromkeys(_FLOATS.split(), "f"),
}
"""The kinds (`numpy.dtype.kind`) of numbers that an operator's kernels take, if not float32 alone."""

FUSED: Mapping[str, tuple[Kernel, ...]] = {
    block.PAIR: (block.tiled,),
    block.BLOCK: (block.tiled,),
    movement.SHUFFLE: (movement.shuffle,),
    selection.INDICES: (selection.top_k_indices,),
    conv_pool.CONV_POOL: (conv_pool.planes, conv_pool.parities, conv_pool.bands, winograd_rows.winograd_rows_pool),
    winograd.BESIDE: (winograd.winograd5_beside, winograd.winograd4_beside),
}
"""Kernels of fused nodes, which only the planner makes, never a file; their reference is that of the separate nodes."""
