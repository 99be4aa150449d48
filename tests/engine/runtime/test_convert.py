"""Converting models between formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import ModelError, nets
from engine.formats.onnx import serialise_onnx
from engine.runtime.convert import convert, save
from tests.engine import net_cases
from tests.engine.nets.test_nets import model

# From one to the other


@pytest.mark.parametrize("target", [".npz", ".safetensors", ".onnx"])
@pytest.mark.parametrize("source", [".npz", ".safetensors", ".onnx", ".pth"])
def test_convert_keeps_outputs_and_card(tmp_path: Path, source: str, target: str) -> None:
    path = tmp_path / f"source{source}"
    original = model("lenet")
    if source == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in net_cases.weights("lenet").items()}, path)
    else:
        save(original, path)
    converted = convert(path, tmp_path / f"target{target}")
    images = net_cases.images("lenet")
    np.testing.assert_array_equal(converted.run(images), original.run(images))
    assert {**vars(converted.card), "sha256": ""} == {**vars(original.card), "sha256": ""}


def test_a_graph_that_is_no_known_net_is_written_to_onnx_only(tmp_path: Path) -> None:
    save(model("residual"), tmp_path / "a.onnx")
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"graph 'residual' is from a file.*only \.onnx can hold it"):
        convert(tmp_path / "a.onnx", tmp_path / "b.npz")
    with pytest.raises(ModelError, match=r"cannot write '\.pth' files; supported are \.npz, \.safetensors, \.onnx"):
        convert(tmp_path / "a.onnx", tmp_path / "b.pth")
    with pytest.raises(ModelError, match="source and target are the same file"):
        convert(tmp_path / "a.onnx", tmp_path / "a.onnx")


def test_a_graph_that_computes_otherwise_than_its_net_is_not_written_as_that_net(tmp_path: Path) -> None:
    graph = model("mnist").graph
    nodes = tuple(n for n in graph.nodes if n.op_type != "Relu")
    renamed = tuple(
        type(n)(n.op_type, tuple("conv1" if i == "relu_1" else i for i in n.inputs), n.outputs, n.attributes, n.name)
        for n in nodes
    )
    (tmp_path / "a.onnx").write_bytes(serialise_onnx(replace(graph, nodes=renamed), nets.default_card("mnist")))
    with pytest.raises(ModelError, match="its outputs differ"):
        convert(tmp_path / "a.onnx", tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()
