"""safetensors against its own library, and what its reader refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from engine import ModelError, nets
from engine.formats import read
from engine.formats.safetensors import write_safetensors
from tests.engine.formats.assertions import assert_same


def safetensors_bytes(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_safetensors_of_the_library_loads_with_every_dtype(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f4", "f8", "i8", "i4", "i2", "i1", "u1", "?")}
    arrays |= {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 4), np.float32)}
    library.save_file(arrays, tmp_path / "a.safetensors")
    assert_same(read(tmp_path / "a.safetensors").arrays, arrays)


def test_safetensors_halves_widen(tmp_path: Path) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    plain = torch.tensor([[1.5, -2.25], [3e-5, 1000.0]])
    halves = {"half": plain.half(), "brain": plain.bfloat16()}
    library.save_file(halves, tmp_path / "a.safetensors")
    expected = {name: tensor.float().numpy() for name, tensor in halves.items()}
    assert_same(read(tmp_path / "a.safetensors").arrays, expected)


def test_safetensors_that_we_write_is_read_by_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"w": np.ones((2, 3), np.float32), "n": np.array([7]), "b": np.array([True])}
    write_safetensors(tmp_path / "a.safetensors", arrays, nets.default_card("mnist"))
    assert_same(library.load_file(tmp_path / "a.safetensors"), arrays)
    content = read(tmp_path / "a.safetensors")
    assert_same(content.arrays, arrays)
    assert content.card == nets.default_card("mnist")


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"short", "only 5 bytes"),
        (struct.pack("<Q", 1 << 60) + b"{}", "a header of 1152921504606846976 bytes"),
        (safetensors_bytes(b"[1]"), "not a JSON object"),
        (safetensors_bytes(b" {}"), "not a JSON object"),
        (safetensors_bytes(b"{" * 99_999), "not JSON"),
        (safetensors_bytes(b'{"a": {}, "a": {}}'), "appears twice"),
        (safetensors_bytes({"__metadata__": {"a": 1}}), "should hold strings"),
        (safetensors_bytes({"w": 3}), "expected dtype, shape and data_offsets"),
        (safetensors_bytes({"w": {**ONE, "dtype": "F8"}}, bytes(4)), "dtype 'F8'; allowed are BOOL"),
        (safetensors_bytes({"w": {**ONE, "shape": [-1]}}, bytes(4)), "at .* is invalid"),
        (safetensors_bytes({"w": {**ONE, "shape": [True]}}, bytes(4)), "at .* is invalid"),
        (safetensors_bytes({"w": {**ONE, "shape": [1] * 99}}, bytes(4)), "is not a shape"),
        (safetensors_bytes({"w": {**ONE, "shape": [1 << 40, 1 << 40]}}, bytes(4)), "needs .* bytes, found 4"),
        (safetensors_bytes({"w": ONE}, bytes(8)), "the arrays take 4 bytes, the file has 8"),
        (safetensors_bytes({"w": ONE}, bytes(2)), "the arrays take 4 bytes, the file has 2"),
        (safetensors_bytes({"w": ONE, "v": ONE}, bytes(8)), "lies at 0..4, expected it to start at 4"),
        (safetensors_bytes({"w": {**ONE, "data_offsets": [4, 8]}}, bytes(8)), "expected it to start at 0"),
        (safetensors_bytes({"w": {**ONE, "data_offsets": [0, 0]}}), "needs 4 bytes, found 0"),
    ],
)
def test_safetensors_that_break_a_rule_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=rf"a\.safetensors: .*{message}"):
        read(tmp_path / "a.safetensors")
