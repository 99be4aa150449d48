"""Builds runs of other runtimes: each function converts a graph and an input to a call on one thread."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.formats.onnx import serialise_onnx
from engine.graph import Array, Graph, Node
from tests.benchmarks.detector_nets import card_of

Run = Callable[[], Array]


def onnxruntime_run(graph: Graph, x: Array) -> Run:
    """Return a run of ONNX Runtime's CPU provider, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = serialise_onnx(graph, card_of(graph))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed = {graph.inputs[0].name: x}
    return lambda: session.run(None, feed)[0]


def reference_run(graph: Graph, x: Array) -> Run:
    """Return a run of the onnx package's evaluator: plain NumPy, one operator at a time, as a baseline."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(serialise_onnx(graph, card_of(graph)))
    evaluator = ReferenceEvaluator(model)
    feed = {graph.inputs[0].name: x}
    return lambda: np.asarray(evaluator.run(None, feed)[0])


def opencv_run(graph: Graph, x: Array) -> Run:
    """Return a run of OpenCV's DNN module, one thread."""
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(serialise_onnx(graph, card_of(graph)), np.uint8))

    def run() -> Array:
        net.setInput(x)
        return net.forward()

    return run


def ncnn_run(graph: Graph, x: Array) -> Run:
    """Return a run of ncnn, one thread, nothing in 16 bits; pnnx converts the ONNX file. One item only."""
    import ncnn
    import pnnx

    if len(x) != 1:
        raise ValueError("ncnn runs one item at a time")
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        file.write_bytes(serialise_onnx(graph, card_of(graph)))
        shape = ",".join(map(str, x.shape))
        command = [pnnx.EXEC_PATH, file.name, f"inputshape=[{shape}]", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        param, weights = (file.with_suffix(f".ncnn.{suffix}") for suffix in ("param", "bin"))
        if not param.exists():
            raise RuntimeError(f"pnnx converted nothing: {done.stderr[-200:]}")
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise RuntimeError("ncnn cannot load what pnnx converted")
    given = ncnn.Mat(x[0]).clone()

    def run() -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", given)
        status, found = extractor.extract("out0")
        if status:
            raise RuntimeError(f"ncnn failed with {status}")
        return np.asarray(found)[None]

    return run


def torch_run(graph: Graph, x: Array) -> Run:
    """Return a run of PyTorch, traced and frozen (batch norms folded), one thread."""
    import torch

    torch.set_num_threads(1)
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in graph.initializers.items()}

    class Net(torch.nn.Module):
        def forward(self, data: Any) -> Any:
            values = {**arrays, graph.inputs[0].name: data}
            for node in graph.nodes:
                values[node.outputs[0]] = _TORCH[node.op_type](node, *(values[name] for name in node.inputs))
            return values[graph.outputs[0].name]

    source = torch.from_numpy(x)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(Net().eval(), source))

    def run() -> Array:
        with torch.no_grad():
            found: Array = traced(source).numpy()
            return found

    return run


def _torch_conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import torch.nn.functional as F

    pads = node.attributes.get("pads", (0,) * 2 * (x.ndim - 2))
    rank = x.ndim - 2
    assert pads[:rank] == pads[rank:], "PyTorch pads evenly"
    function = F.conv1d if rank == 1 else F.conv2d
    strides, dilations = node.attributes.get("strides", 1), node.attributes.get("dilations", 1)
    return function(x, weight, bias, strides, pads[:rank], dilations, node.attributes.get("group", 1))


def _torch_max_pool(node: Node, x: Any) -> Any:
    import torch.nn.functional as F

    has = node.attributes
    pads = has.get("pads", (0, 0, 0, 0))[:2]
    return F.max_pool2d(x, has["kernel_shape"], has.get("strides", 1), pads, 1, bool(has.get("ceil_mode")))


def _torch_clip(node: Node, x: Any, *limits: Any) -> Any:
    low, high = limits or (node.attributes["min"], node.attributes["max"])
    return x.clamp(low, high)


def _functional(name: str, *arguments: Any) -> Callable[..., Any]:
    def run(node: Node, *inputs: Any) -> Any:
        import torch.nn.functional as F

        return getattr(F, name)(*inputs, *arguments)

    return run


_TORCH: Mapping[str, Callable[..., Any]] = {
    "Add": lambda node, a, b: a + b,
    "Mul": lambda node, a, b: a * b,
    "BatchNormalization": lambda node, x, scale, bias, mean, var: _functional("batch_norm")(
        node, x, mean, var, scale, bias, False, 0.1, node.attributes.get("epsilon", 1e-5)
    ),
    "Clip": _torch_clip,
    "Concat": lambda node, *parts: __import__("torch").cat(parts, node.attributes["axis"]),
    "Conv": _torch_conv,
    "Dropout": lambda node, x, *_: x,
    "Flatten": lambda node, x: x.flatten(1),
    "Gemm": lambda node, a, b, c: _functional("linear")(node, a, b, c),
    "GlobalAveragePool": lambda node, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": _functional("hardsigmoid"),
    "HardSwish": _functional("hardswish"),
    "MaxPool": _torch_max_pool,
    "Relu": _functional("relu"),
}

PEERS: Mapping[str, Callable[[Graph, Array], Run]] = {
    "onnxruntime": onnxruntime_run,
    "ncnn": ncnn_run,
    "opencv": opencv_run,
    "torch": torch_run,
    "reference": reference_run,
}
# The last takes seconds per run.
USUAL = ("onnxruntime", "ncnn", "opencv", "torch")
