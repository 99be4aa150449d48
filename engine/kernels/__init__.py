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
    pool,
    reductions,
    resize,
    winograd,
    winograd_rows,
)
from engine.kernels.step import Kernel

KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "Add": elementwise.ADD,
    "AveragePool": pool.AVERAGE,
    "BatchNormalization": elementwise.BATCH_NORMALIZATION,
    "Clip": activations.CLIP,
    "Concat": movement.CONCAT,
    "Conv": (*depthwise.KERNELS, *winograd.KERNELS, *winograd_rows.KERNELS, *conv_last.KERNELS, *conv.KERNELS),
    "ConvTranspose": conv_transpose.KERNELS,
    "Div": elementwise.DIV,
    "Dropout": movement.DROPOUT,
    "Flatten": movement.FLATTEN,
    "Gather": movement.GATHER,
    "Gemm": linear.GEMM,
    "GlobalAveragePool": pool.GLOBAL_AVERAGE,
    "GlobalMaxPool": reductions.GLOBAL_MAX,
    "HardSigmoid": activations.HARD_SIGMOID,
    "HardSwish": activations.HARD_SWISH,
    "Identity": movement.IDENTITY,
    "LRN": reductions.LRN,
    "LeakyRelu": activations.LEAKY_RELU,
    "LogSoftmax": reductions.LOG_SOFTMAX,
    "MatMul": linear.MATMUL,
    "MaxPool": pool.MAX,
    "Mul": elementwise.MUL,
    "PRelu": activations.PRELU,
    "Pad": movement.PAD,
    "ReduceMean": reductions.REDUCE_MEAN,
    "Relu": elementwise.RELU,
    "Reshape": movement.RESHAPE,
    "Resize": resize.KERNELS,
    "Sigmoid": activations.SIGMOID,
    "Slice": movement.SLICE,
    "Softmax": linear.SOFTMAX,
    "Squeeze": movement.RESHAPE,
    "Sub": elementwise.SUB,
    "Tanh": activations.TANH,
    "Transpose": movement.TRANSPOSE,
    "Unsqueeze": movement.RESHAPE,
}

FUSED: Mapping[str, tuple[Kernel, ...]] = {
    block.PAIR: block.KERNELS,
    block.BLOCK: block.KERNELS,
    conv_pool.CONV_POOL: (*conv_pool.KERNELS, *winograd_rows.POOLED),
    winograd.BESIDE: winograd.TOGETHER,
}
"""Kernels of fused nodes, which only the planner makes, never a file; their reference is that of the separate nodes."""
