"""The nine light models of the onnx package with random weights in place of their constant ones, beside onnxruntime.

As published their weights are all 0.02 and their outputs one number over and over: a swapped axis would pass. Every
ConstantOfShape becomes seeded noise, scaled by fan-in; parameters of norms stay positive; the softmax at the end goes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", "1.23.2")
runtime = pytest.importorskip("onnxruntime")

from onnx import numpy_helper  # noqa: E402

import engine  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx"))


def twin(name: str) -> Any:
    """The model with seeded weights as initializers."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph, state = model.graph, np.random.default_rng(8)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    norms = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[1:]}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(shapes[node.input[0]].tolist())
        array = state.standard_normal(shape, np.float32)
        array *= np.float32((2 / max(1, np.prod(shape[1:]))) ** 0.5) if len(shape) > 1 else np.float32(0.1)
        if node.output[0] in norms:
            array = np.abs(array) + np.float32(0.5)
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    if kept[-1].op_type == "Softmax":  # which would make one of noisy logits 1 and all others 0, right or wrong
        graph.output[0].name = kept.pop().input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
    del graph.node[:]
    graph.node.extend(kept)
    return model


def test_there_are_nine() -> None:
    assert len(NAMES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_twin_with_random_weights_gives_what_onnxruntime_gives(tmp_path: Path, name: str) -> None:
    path = tmp_path / "twin.onnx"
    path.write_bytes(twin(name).SerializeToString())
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    data = session.get_inputs()[0]
    x = np.random.default_rng(1).uniform(-1, 1, data.shape).astype(np.float32)
    (expected,) = session.run(None, {data.name: x})
    found = np.asarray(engine.load(path).run(x))
    assert expected.std() > 0
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
