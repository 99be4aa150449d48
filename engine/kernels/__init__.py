"""The registry of kernels: for each ONNX operator its candidates, best first; one file a family.

How to add one. A kernel is a function (node, inputs) -> Step, or None where it does not suit the node; `inputs` are
`Operand`s: shapes, and the arrays of parameters. A Step says the output's shape and gives `bind`, which the planner
calls with the arrays of inputs, output and scratch and which returns prepared calls; nothing is computed before they
run, and they allocate nothing. Arrays always have the shapes of ONNX, (N, C, ...); only their strides tell how they
lie in memory, and the Step says what its `bind` can take:

- `layout=Layout.PLANAR` (the default): inputs and output are C-contiguous. A plain kernel needs to say no more; where
  the net around it runs channels last, the planner copies.
- `layout=Layout.ANY`: `bind` only uses ufuncs, slices and copies that take any strides, no reshape; all operands
  then lie alike, in whichever layout the net runs. Right for element by element operators, pools, concatenation.
- `layout=Layout.LAST`: `last(array)` is C-contiguous for the inputs with spatial axes and for the output.
- `strided=True`, `strided_out=True`: inputs, and the output, may be views within a larger frame (rows follow one
  another with a gap). Usual together with ANY.
- `border=Border(...)`: the first input comes with a frame of a number around it; nobody has to pad.
- `input_layout=...`: that of the first input, where it is another one.
- `packs={index: Pack(...)}`: a parameter comes rearranged, once for all plans and worker processes.
- `bind=None`: the output is the first input's memory under another shape; planar.

Operands without spatial axes (fewer than three axes) are always C-contiguous. Kernels of one operator are all compared
with `engine.reference`; the first one is what a plan takes without a clock.
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
"""Of nodes that only the planner makes; no file can ask for them. Their reference is that of the nodes before."""
