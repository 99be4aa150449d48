"""The registry of kernels: for each ONNX operator its candidates, best first; one file a family."""

from __future__ import annotations

from collections.abc import Mapping

from engine.kernels import conv, conv_last, depthwise, elementwise, linear, pool, views, winograd
from engine.kernels.step import Kernel

KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "Add": elementwise.ADD,
    "AveragePool": pool.AVERAGE,
    "BatchNormalization": elementwise.BATCH_NORMALIZATION,
    "Conv": (*depthwise.KERNELS, *winograd.KERNELS, *conv_last.KERNELS, *conv.KERNELS),
    "Dropout": views.DROPOUT,
    "Flatten": views.FLATTEN,
    "Gemm": linear.GEMM,
    "GlobalAveragePool": pool.GLOBAL_AVERAGE,
    "Identity": views.IDENTITY,
    "MaxPool": pool.MAX,
    "Relu": elementwise.RELU,
    "Softmax": linear.SOFTMAX,
}
