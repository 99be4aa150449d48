"""Conformance: the test suite of the onnx package, run through `Model.run`. For passed / in scope, and what failed why:

    python -m tests.engine.onnx_backend_test            # single nodes and nets converted from PyTorch
    python -m tests.engine.onnx_backend_test --light    # the light models as well

In scope is every single-node case of an operator of OPERATORS whose inputs and outputs are of DTYPES and whose name
does not speak of training, and every case from PyTorch that uses these operators alone. Nothing in scope is
left out but EXCLUDED; a case out of scope is skipped (`unittest.SkipTest`: the suite counts its own
BackendIsNotSupposedToImplementIt as passed).
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", "1.23.2")

from onnx import TensorProto  # noqa: E402
from onnx.backend.base import Backend, BackendRep  # noqa: E402
from onnx.backend.test import BackendTest  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402

from engine.compiler.kernel_selection import KernelSelector  # noqa: E402
from engine.formats.onnx import parse_onnx  # noqa: E402
from engine.kernels.step import Layout  # noqa: E402
from engine.model import Model  # noqa: E402

OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh DepthToSpace DequantizeLinear Div
    Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand MatMulInteger QLinearConv QLinearMatMul QuantizeLinear
    Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LRN LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg NonMaxSuppression NonZero Not
    Or PRelu Pad Pow RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Sinh
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
    Transpose Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 - as a list it would fill a page
)
WHOLE_NET = 20  # nodes
DTYPES = {
    getattr(TensorProto, name)
    for name in "BOOL DOUBLE FLOAT FLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()  # noqa: SIM905
}
SINGLE_NODES, FROM_PYTORCH = 743, 117  # of onnx 1.23.2


def in_scope(case: Any) -> bool:
    graph = case.model.graph
    if len(graph.node) != 1 or {node.op_type for node in graph.node} - OPERATORS or "train" in case.name:
        return False
    if graph.node[0].domain not in ("", "ai.onnx"):
        return False
    values = [*graph.input, *graph.output]
    return all(v.type.HasField("tensor_type") and v.type.tensor_type.elem_type in DTYPES for v in values)


# The light SqueezeNet's 1000 logits are all 9.5e9, where float32 goes in steps of 1024: its softmax is 0.001 only if
# all of them round alike, which depends on the BLAS's core (it does with AVX-512, and does not on Haswell). The same
# net with seeded weights is compared with ONNX Runtime in test_light_models.py.
# These two Resizes divide by the exact length 1.2 - 1 or 3.2 - 1 for align_corners; ONNX Runtime and PyTorch by the
# whole one that the output has, and so does the engine (ONNX Runtime excludes the first as well).
EXCLUDED = {
    "test_squeezenet",
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
    # Scales for blocks of an axis (set 21) are for language models.
    "test_dequantizelinear_blocked",
    "test_quantizelinear_blocked_asymmetric",
    "test_quantizelinear_blocked_symmetric",
}


class Prepared(BackendRep):  # type: ignore[misc]
    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        arrays = [*map(np.asarray, inputs)]
        if len(self.model.graph.nodes) < WHOLE_NET:
            found = self.model.run(*arrays)
        else:
            # The plain matrix products of the planar layout, as the other runtimes have them.
            found = self.model.plan(
                *(array.shape for array in arrays), selector=KernelSelector(layout=Layout.PLANAR)
            ).run(*arrays)
        return found if isinstance(found, tuple) else (found,)


class EngineBackend(Backend):  # type: ignore[misc]
    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **_: Any) -> Prepared:
        missing = {node.op_type for node in model.graph.node} - OPERATORS
        if missing:
            raise unittest.SkipTest(f"operators out of scope: {', '.join(sorted(missing))}")
        return Prepared(loaded(model.SerializeToString()))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


def loaded(data: bytes) -> Model:
    content = parse_onnx(data)
    assert content.card is not None
    assert content.graph is not None
    return Model(content.card, content.graph)


def cases(kind: str) -> Iterator[Any]:
    with np.errstate(all="ignore"):
        yield from load_model_tests(kind=kind)


def _from_pytorch(kind: str) -> Iterator[str]:
    for case in cases(kind):
        model = onnx.load(Path(case.model_dir) / "model.onnx")
        if not {node.op_type for node in model.graph.node} - OPERATORS:
            yield case.name


single_nodes = [case.name for case in cases("node") if in_scope(case) and case.name not in EXCLUDED]
from_pytorch = [*_from_pytorch("pytorch-converted"), *_from_pytorch("pytorch-operator")]
real = [case.name for case in cases("real") if case.name not in EXCLUDED]

wanted = {f"{name}_cpu" for name in (*single_nodes, *from_pytorch, *real)}
suite = BackendTest(EngineBackend, __name__)
for name in wanted:
    suite.include(f"^{name}$")
for title, methods in suite.test_cases.items():
    # The suite has a method for every case; most of them are skipped.
    for unwanted in [name for name in dir(methods) if name.startswith("test_") and name not in wanted]:
        delattr(methods, unwanted)
    globals()[title] = pytest.mark.slow(methods) if "Real" in title else methods
del methods


def test_the_scope_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nonnx {onnx.__version__}: {len(single_nodes)} single nodes, {len(from_pytorch)} from PyTorch in scope")
    assert len(single_nodes) == SINGLE_NODES
    assert len(from_pytorch) == FROM_PYTORCH


def report(light: bool) -> bool:
    """Run everything in scope, print passed / in scope and a line for each that did not; whether all passed."""
    groups = {"single nodes": single_nodes, "from PyTorch": from_pytorch, **({"light models": real} if light else {})}
    every = {f"{name}_cpu": group for group, names in groups.items() for name in names}
    result = unittest.TestResult()
    loader = unittest.TestLoader()
    for case in suite.test_cases.values():
        for test in loader.loadTestsFromTestCase(case):
            if test.id().rpartition(".")[2] in every:
                test.run(result)
    missed = {test.id().rpartition(".")[2]: text for test, text in [*result.failures, *result.errors, *result.skipped]}
    print(f"onnx {onnx.__version__}, numpy {np.__version__}: passed / in scope")
    for group, names in groups.items():
        lost = [f"{name}_cpu" for name in names if f"{name}_cpu" in missed]
        print(f"{group}: {len(names) - len(lost)} / {len(names)}")
        for name in lost:
            print(f"  {name}: {missed[name].strip().splitlines()[-1]}")
    print(f"{result.testsRun} run, {len(missed)} did not pass")
    return result.testsRun == len(every) and not missed


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        sys.exit(0 if report("--light" in sys.argv[1:]) else 1)
