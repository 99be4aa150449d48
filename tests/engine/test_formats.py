"""Every format of model files against the library that made it popular, with what each must refuse, and fuzzed."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelCard, ModelError, UnsupportedOperator, nets
from engine.formats import read
from engine.formats.onnx import serialise_onnx
from engine.formats.protobuf import bytes_field, int_field
from engine.formats.safetensors import write_safetensors
from engine.formats.text_dump import write_text_dump
from engine.graph import Array
from engine.runtime.convert import convert, save
from tests.engine import fuzzing, net_cases
from tests.engine.nets.test_nets import model


def assert_same(found: Any, expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype


# safetensors


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


# PyTorch


def test_checkpoint_tensors_come_out_as_torch_has_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = OrderedDict(
        whole=base,
        transposed=base.T,
        column=base[:, 2],
        later=base[2:, 1:4],
        expanded=torch.ones(3, 1).expand(3, 5),
        parameter=torch.nn.Parameter(torch.ones(2)),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        half=base.half(),
        brain=base.bfloat16(),
        double=base.double(),
        long=base.long(),
        flags=base > 3,
        bytes=base.byte(),
    )
    torch.save(tensors, tmp_path / "a.pth")
    wide = {name: t.float() if t.dtype in (torch.half, torch.bfloat16) else t for name, t in tensors.items()}
    assert_same(read(tmp_path / "a.pth").arrays, {name: t.detach().numpy() for name, t in wide.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7, "loss": [0.5, {"best": None}], "done": (True, -(10**12))},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
    ],
    ids=["plain", "state_dict", "model", "module"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoints_of_a_net_load_as_the_bundle_does(
    tmp_path: Path, wrap: Callable[[dict[str, Any]], Any], suffix: str
) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in net_cases.weights("lenet").items()}
    torch.save(wrap(state), tmp_path / f"net{suffix}")
    images = net_cases.images("lenet")
    found = engine.load(tmp_path / f"net{suffix}")
    assert found.card == nets.default_card("lenet")
    np.testing.assert_array_equal(found.run(images), model("lenet").run(images))


def test_state_dict_of_a_module_has_metadata_that_do_no_harm(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    assert_same(read(tmp_path / "a.pt").arrays, {name: t.numpy() for name, t in module.state_dict().items()})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2, 3), "ä": torch.zeros(1)}, tmp_path / "a.pth", pickle_protocol=protocol)
    assert_same(read(tmp_path / "a.pth").arrays, {"w": np.ones((2, 3), "f4"), "ä": np.zeros(1, "f4")})


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> Any:
        return self.what


def checkpoint(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"a/data/{key}", data)
    return path


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_call_anything_are_refused_by_name_and_call_nothing(tmp_path: Path, protocol: int) -> None:
    import os

    for call, name in [
        (Calls(os.system, f"touch {tmp_path}/harm"), r"\.system"),
        (Calls(eval, f"open('{tmp_path}/harm', 'w')"), r"\.eval"),
        (Calls(getattr, os, "system"), r"\.getattr"),
        (Calls(open, f"{tmp_path}/harm", "w"), r"\.open"),
    ]:
        if "getattr" in name:  # a module cannot be pickled; its name is enough
            data = b"\x80\x02c__builtin__\ngetattr\n."
        else:
            data = pickle.dumps({"w": call}, protocol)
        with pytest.raises(ModelError, match=rf"names '\w+{name}', which is not allowed in a file of weights"):
            read(checkpoint(tmp_path / "a.pth", data))
    assert not (tmp_path / "harm").exists()


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor(*geometry: object) -> bytes:
    """A pickle of {'w': a tensor of storage 0, four floats, with this offset, shape and strides}."""
    plain = pickle.dumps((*geometry, False, None), 2)[2:-1]
    # The tuple of arguments: the storage, then what the plain tuple holds.
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
    for item in (*geometry, False, {}):
        call += pickle.dumps(item, 2)[2:-1]
    assert plain
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"tRs."


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ((0, (5,), (1,)), "number 4 of a storage of 4"),
        ((1, (2, 2), (2, 1)), "number 4 of a storage of 4"),
        ((1 << 60, (1,), (1,)), "of a storage of 4"),
        ((-1, (1,), (1,)), "offset -1"),
        ((0, (-2,), (1,)), "is no valid shape or strides"),
        ((0, (2,), (-1,)), "is no valid shape or strides"),
        ((0, (2,), ("x",)), "is no valid shape or strides"),
        ((0, (2, 2), (1,)), "does not fit its strides"),
        ((0, (1 << 62, 1 << 62), (0, 0)), "arrays of over"),
        ((0, (1 << 29,), (0,)), "arrays of over"),
        ((0, (1,) * 40, (1,) * 40), "is no valid shape or strides"),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(
    tmp_path: Path, geometry: tuple[object, ...], message: str
) -> None:
    assert_same(
        read(checkpoint(tmp_path / "a.pth", tensor(0, (2, 2), (2, 1)), {"0": bytes(16)})).arrays,
        {"w": np.zeros((2, 2), "f4")},
    )
    with pytest.raises(ModelError, match=message):
        read(checkpoint(tmp_path / "a.pth", tensor(*geometry), {"0": bytes(16)}))


def laughs(key: bool) -> bytes:
    """Tuples of two of the same tuple, forty deep: as a dict's key, or as a shape."""
    nested = b")q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(40))
    if key:
        return b"\x80\x02" + nested + b"}h\x28Ns."
    call = b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
    return b"\x80\x02" + nested + call + b"K\x00h\x28h\x28tRs."


@pytest.mark.parametrize(
    ("data", "storages", "message"),
    [
        (b"\x80\x02}.", {}, "no state_dict in it"),
        (b"\x80\x02K\x07.", {}, "no state_dict in it .found 7."),
        (b"\x80\x02", {}, "it ends too early"),
        (b"\x80\x02\xff.", {}, r"opcode b'\\xff' is not allowed"),
        (b"\x80\x02.", {}, "damaged pickle: IndexError"),
        (b"\x80\x02h\x05.", {}, "damaged pickle: KeyError"),
        (b"\x80\x02}}R.", {}, "calls an object that is no name"),
        (b"\x80\x02]}b.", {}, "sets the state of an object"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", {}, "calls 'torch.FloatStorage'"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.", {}, "damaged pickle: TypeError"),
        (laughs(True), {}, "keys are neither text nor numbers"),
        (laughs(False), {"0": bytes(16)}, "is no valid shape or strides"),
        (tensor(0, (1,), (1,)), {}, "its entry is missing"),
        (tensor(0, (1,), (1,)), {"0": bytes(15)}, "4 numbers of 4 bytes, its entry has 15 bytes"),
        (b"\x80\x02" + b"N" * 1_000_001 + b".", {}, "more than 1000000 opcodes"),
    ],
)
def test_strange_pickles_are_refused_at_once(
    tmp_path: Path, data: bytes, storages: dict[str, bytes], message: str
) -> None:
    start = time.process_time()
    with pytest.raises(ModelError, match=message):
        read(checkpoint(tmp_path / "a.pth", data, storages))
    assert time.process_time() - start < 5


def test_old_and_other_archives_are_refused_by_what_they_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"before 1\.6 \(legacy pickle\); load it with PyTorch and save it again"):
        read(path)
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    with pytest.raises(ModelError, match=r"before 0\.1\.10 \(legacy tar\)"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not a PyTorch checkpoint, or cut off"):
        read(path)
    checkpoint(path, b"\x80\x02}." * 100, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="a compressed entry"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/code/x.py", b"")
    with pytest.raises(ModelError, match="a TorchScript archive, which is a program"):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
@pytest.mark.parametrize("field", [20, 24], ids=["packed", "unpacked"])
def test_an_entry_larger_than_its_file_is_refused_before_memory_is_taken(
    tmp_path: Path, suffix: str, field: int
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, w=np.zeros(4, np.float32))
    else:
        checkpoint(path, tensor(0, (2, 2), (2, 1)), {"0": bytes(16)})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + field
    data[place : place + 4] = struct.pack("<I", 800 << 20)
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"damaged: entry|entries of more bytes|a zip bomb"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_lies_beside_the_weights_of_a_training_run_does_no_harm(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {**net.state_dict(), "head._extra_state": {"calls": 3}}
    beside = {
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "best": np.float64(0.5),
        "curve": np.arange(3.0),
        "shapes": {"size": torch.Size([1, 2]), "dtype": torch.float32, "device": torch.device("cpu")},
        "seen": {1, 2},
        "counted": Counter("aab"),
        "lists": defaultdict(list, {"a": [1]}),
        "complex": 1j,
        "bytes": b"abc",
    }
    for protocol in (2, 4):
        whole = {"state_dict": state, "optimizer": optimizer.state_dict(), **beside}
        torch.save(whole, tmp_path / "a.pth", pickle_protocol=protocol)
        assert_same(read(tmp_path / "a.pth").arrays, {name: t.numpy() for name, t in net.state_dict().items()})


def test_a_tensor_that_is_a_view_with_another_sign_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch._neg_view(torch.ones(2))}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"a lazy view \('neg'\)"):
        read(tmp_path / "a.pth")


def test_a_torchscript_file_is_refused_as_the_program_that_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(ModelError, match="a TorchScript archive, which is a program"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_an_archive_of_too_many_entries_is_refused_before_they_become_objects(tmp_path: Path, suffix: str) -> None:
    names = [b"%08d.npy" % index for index in range(100_000)]
    fixed = (b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0)
    entries = [struct.pack("<4s4B4HL2L5H2L", *fixed, len(name), *(0,) * 6) + name for name in names]
    directory = b"".join(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 0, 0)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(directory + end)
    tracemalloc.start()
    with pytest.raises(ModelError, match="an archive with a directory"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors", ".onnx"])
def test_running_out_of_memory_is_said_as_such(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    for name in ("npz.zipfile.ZipFile", "safetensors.parse_safetensors", "onnx.parse_onnx"):
        monkeypatch.setattr(f"engine.formats.{name}", no_memory)
    (tmp_path / f"a{suffix}").write_bytes(bytes(100))
    with pytest.raises(ModelError, match="not enough memory"):
        read(tmp_path / f"a{suffix}")


# Text dumps


def write_dump(folder: Path, arrays: dict[str, Array]) -> None:
    """As S2 wrote its files, by nested names and one number a line."""
    folder.mkdir()
    spelt = {"downsample.0": "downsample_conv2d", "downsample.1": "downsample_batchnorm"}
    for name, array in arrays.items():
        *module, what = name.split(".")
        if module[0].startswith("layer"):
            rest = ".".join(module[2:])
            module = [module[0], f"bottleneck{module[1]}", spelt.get(rest, rest)]
        order = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        lines = "\n".join(f"{number:.9e}" for number in order.ravel().tolist())
        (folder / f"resnet50_{'_'.join(module)}_{what}.txt").write_text(lines + "\n")


SOME = ("conv1.weight", "bn1.bias", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight", "layer4.2.bn3.running_var")


@pytest.fixture
def dump(tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    shapes, state = nets.build("resnet50").parameters, np.random.RandomState(4)
    arrays = {name: state.uniform(-1, 1, shapes[name]).astype(np.float32) for name in SOME}
    arrays["layer3.0.downsample.1.running_mean"] = np.arange(1024, dtype=np.float32)
    write_dump(tmp_path / "dump", arrays)
    return tmp_path / "dump", arrays


def test_text_dump_comes_out_under_torchvisions_names_and_axes(dump: tuple[Path, dict[str, Array]]) -> None:
    folder, arrays = dump
    (folder / "resnet50_layer2_bottleneck0_conv2_param.txt").write_text("128\n128\n3\n2\n1\n")
    (folder / "resnet50_bn1_param.txt").write_text("1e-5\n0.1\n")
    assert_same(read(folder).arrays, arrays)
    with pytest.raises(ModelError, match=r"dump: parameters do not fit net 'resnet50': missing bn1\.weight"):
        engine.load(folder, net="resnet50")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("resnet50_conv1_bias.txt", "1\n", "'resnet50_conv1_bias.txt' belongs to no layer of resnet50"),
        ("notes.txt", "hello", "'notes.txt': expected a name such as"),
        ("resnet50_fc_bias.txt", "__import__('os')\n", "'resnet50_fc_bias.txt' does not hold one number a line"),
        ("resnet50_fc_bias.txt", "", "does not hold one number a line"),
        ("resnet50_fc_bias.txt", "1\n2\n", "expected 1000 numbers, one per line, found shape .2,."),
        ("resnet50_fc_bias.txt", "1 2\n" * 500, "found shape .500, 2."),
        (
            "resnet50_layer2_bottleneck0_conv2_param.txt",
            "128\n128\n3\n1\n1\n",
            "but resnet50 has .128, 128, 3, 2, 1.",
        ),
        ("resnet50_bn1_param.txt", "1e-3\n0.1\n", "but resnet50 has .1e-05."),
    ],
)
def test_text_dump_with_a_strange_file_is_refused(
    dump: tuple[Path, dict[str, Array]], name: str, text: str, message: str
) -> None:
    (dump[0] / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        read(dump[0])


def test_text_dump_does_not_follow_links_and_tells_nothing_of_what_lies_there(
    dump: tuple[Path, dict[str, Array]], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (dump[0] / "resnet50_fc_bias.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"'resnet50_fc_bias\.txt' is a link") as caught:
        read(dump[0])
    assert "hunter2" not in str(caught.value)


def test_text_dump_that_we_write_is_read_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, state = nets.build("resnet50"), np.random.RandomState(5)
    kept = {n: s for n, s in whole.parameters.items() if n.startswith(("conv1", "bn1", "layer1.0", "layer2.0.down"))}
    nodes = tuple(n for n in whole.nodes if n.op_type == "Relu" or set(n.inputs[1:]) & set(kept))
    monkeypatch.setattr(nets, "build", lambda name: replace(whole, parameters=kept, nodes=nodes))
    arrays = {name: state.standard_normal(shape).astype(np.float32) for name, shape in kept.items()}
    write_text_dump(tmp_path / "dump", arrays, "resnet50")
    assert_same(read(tmp_path / "dump").arrays, arrays)
    # Line by line as S2 has them: output, row, column, input; and what the layer is.
    lines = (tmp_path / "dump" / "resnet50_layer1_bottleneck0_conv2_weight.txt").read_text().splitlines()
    assert [np.float32(line) for line in lines[64:66]] == arrays["layer1.0.conv2.weight"][0, :2, 0, 1].tolist()
    said = {name: (tmp_path / "dump" / f"resnet50_{name}_param.txt").read_text().split() for name in ("conv1", "bn1")}
    assert [float(number) for number in said["conv1"]] == [3, 64, 7, 2, 3]
    assert [float(number) for number in said["bn1"]] == [1e-5, 0.1]
    assert (tmp_path / "dump" / "resnet50_layer2_bottleneck0_downsample_conv2d_weight.txt").exists()
    with pytest.raises(ModelError, match="dump: it exists already; name a new folder"):
        write_text_dump(tmp_path / "dump", arrays, "resnet50")


def test_text_dump_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="text dumps can only hold resnet50, this is mnist"):
        save(model("mnist"), tmp_path / "dump")
    with pytest.raises(KeyError):
        write_text_dump(tmp_path / "dump", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, "resnet50")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="0 text files; expected those of resnet50"):
        read(tmp_path)


# ONNX


def test_onnx_that_we_write_passes_the_checker_and_runs_in_onnxruntime(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    for name in net_cases.NETS:
        path = tmp_path / f"{name}.onnx"
        save(model(name), path)
        onnx.checker.check_model(str(path), full_check=True)
        images = net_cases.images(name)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: images})[0]
        np.testing.assert_allclose(found, model(name).run(images), rtol=1e-5, atol=1e-5)


def test_onnx_that_we_write_loads_with_card_graph_and_numbers(tmp_path: Path) -> None:
    save(model("cifar10"), tmp_path / "a.onnx")
    found, images = engine.load(tmp_path / "a.onnx"), net_cases.images("cifar10")
    assert found.card == nets.default_card("cifar10")
    np.testing.assert_array_equal(found.run(images), model("cifar10").run(images))


def onnx_model(nodes: list[Any], inputs: dict[str, list[Any]], initializers: dict[str, Array], **more: Any) -> bytes:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opset = more.get("opset", 17)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=more.get("ir", 8))
    assert onnx
    return bytes(made.SerializeToString())


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    pytest.importorskip("onnx")
    from onnx import helper

    return helper.make_node(op_type, inputs, outputs, **attributes)


def test_every_kind_of_tensor_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    kinds = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "INT32", "INT8", "UINT8", "UINT64", "BOOL")
    tensors = []
    for kind in kinds:
        code = getattr(onnx.TensorProto, kind)
        tensors.append(
            helper.make_tensor(f"{kind}_typed", code, [2, 2], [1, 0, 1, 3] if kind != "BOOL" else [1, 0, 1, 1])
        )
        raw = numpy_helper.to_array(tensors[-1])
        tensors.append(helper.make_tensor(f"{kind}_raw", code, [2, 2], raw.tobytes(), raw=True))
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        tensors,
    )
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    found = read(tmp_path / "a.onnx").arrays
    for tensor_ in tensors:
        expected = numpy_helper.to_array(tensor_)
        halves = ("FLOAT16_typed", "FLOAT16_raw", "BFLOAT16_typed", "BFLOAT16_raw")
        expected = expected.astype(np.float32) if tensor_.name in halves else expected
        np.testing.assert_array_equal(found[tensor_.name], expected, err_msg=tensor_.name)
        assert found[tensor_.name].dtype == expected.dtype


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 3), np.float32)}
    data = onnx_model([node("Gemm", ["x", "w"], ["y"])], {"x": [1, 2], "w": [2, 3]}, weights, ir=3, opset=9)
    (tmp_path / "a.onnx").write_bytes(data)
    found = engine.load(tmp_path / "a.onnx")
    assert [value.name for value in found.graph.inputs] == ["x"]
    np.testing.assert_array_equal(found.run(np.array([[1, 2]], np.float32)), [[3, 3, 3]])


def test_external_data_are_refused_whatever_they_name(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    made = onnx.load_from_string(
        onnx_model([node("Add", ["x", "w"], ["y"])], {"x": [1, 2]}, {"w": np.ones(2, np.float32)})
    )
    tensor_ = made.graph.initializer[0]
    tensor_.ClearField("raw_data")
    tensor_.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor_.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="weight 'w' lies in another file; external data is never read"):
        read(tmp_path / "a.onnx")


W = {"w": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no graph with outputs"),
        (b"\x0a\xff", "cut off or damaged"),
        (b"\xff" * 20, "a number that does not end"),
        (b"\x0b\x01", "wire type 3"),
        (int_field(7, 1), "field 'graph' has wire type 0"),
        (bytes_field(7, bytes_field(12, bytes_field(1, b"\xff"))), "is not UTF-8 text"),
        (lambda: onnx_model([node("Relu", ["z"], ["y"])], {"x": [1]}, {}), r"Relu 'y' reads 'z', which does not exist"),
        (lambda: onnx_model([node("Add", ["x", "y"], ["y"])], {"x": [1]}, {}), "made only later .a cycle"),
        (lambda: onnx_model([node("Relu", ["x"], ["x"])], {"x": [1]}, {}), "Relu 'x' makes 'x' a second time"),
        (lambda: onnx_model([node("Relu", ["x"], ["z"])], {"x": [1]}, {}), "no node makes the output 'y'"),
        (lambda: onnx_model([node("Relu", ["x"], ["y"])], {"x": [-3, 2]}, {}), "is not a shape"),
        (
            lambda: onnx_model([node("Relu", ["x"], ["y"], domain="own")], {"x": [1]}, {}),
            "of domain 'own' is not supported",
        ),
        (lambda: onnx_model([node("Relu", ["x"], ["y"])], {"x": [1]}, {}, opset=99), "operator set 99; known are 1 to"),
        (
            lambda: onnx_model([node("Add", ["x", "w"], ["y"])], {"x": [1, 2]}, {"w": np.array([[np.nan, 1]], "f4")}),
            "holds NaN",
        ),
    ],
)
def test_onnx_that_cannot_be_used_is_refused(tmp_path: Path, data: bytes | Callable[[], bytes], message: str) -> None:
    (tmp_path / "a.onnx").write_bytes(data if isinstance(data, bytes) else data())
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{message}"):
        engine.load(tmp_path / "a.onnx")


def test_a_subgraph_is_refused_as_not_supported(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from onnx import helper

    branch = helper.make_graph([], "b", [], [])
    data = onnx_model([node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)], {"x": [1]}, {})
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(UnsupportedOperator, match=r"If 'y': attribute (else|then)_branch is a subgraph"):
        engine.load(tmp_path / "a.onnx")


@pytest.mark.slow
def test_a_small_file_of_many_fields_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(bytes_field(7, bytes_field(1, b"\x0a\x00" * 3_000_000)))
    tracemalloc.start()
    with pytest.raises(ModelError, match="more than 300000 fields"):
        read(tmp_path / "a.onnx")
    assert tracemalloc.get_traced_memory()[1] < 150 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "nodes",
    [
        [("Split", ["x"], ["y", "z"], {"axis": 1})],
        [("Cast", ["x"], ["h"], {"to": 10}), ("Add", ["h", "half"], ["s"], {}), ("Cast", ["s"], ["y"], {"to": 1})],
        [("Clip", ["x", "low", "high"], ["y"], {})],
    ],
    ids=["split without sizes", "half precision within", "infinite bounds"],
)
def test_what_older_files_say_otherwise_is_written_so_that_onnxruntime_runs_it(
    tmp_path: Path, nodes: list[tuple[str, list[str], list[str], dict[str, Any]]]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = [node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes]
    half, low, high = np.full((1, 4), 0.5, np.float16), np.float32(-np.inf), np.float32(1.5)
    constants = {"half": half, "low": np.asarray(low), "high": np.asarray(high)}
    used = {name: array for name, array in constants.items() if any(name in each[1] for each in nodes)}
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    old.write_bytes(onnx_model(made, {"x": [1, 4]}, used, opset=13))
    x = np.array([[-1, 0.5, 1, 2]], np.float32)
    convert(old, new)
    expected = onnxruntime.InferenceSession(old).run(["y"], {"x": x})[0]
    np.testing.assert_array_equal(engine.load(old).run(x), expected)
    np.testing.assert_array_equal(onnxruntime.InferenceSession(new).run(["y"], {"x": x})[0], expected)


def test_an_input_of_one_number_keeps_its_shape(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_model([node("Relu", ["x"], ["y"])], {"x": []}, {}))
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert engine.load(tmp_path / "b.onnx").run(np.array(-2, np.float32)) == 0


@pytest.mark.parametrize(("op_type", "value"), [("Add", np.inf), ("Clip", np.nan)])
def test_weights_must_be_finite_and_settings_numbers(tmp_path: Path, op_type: str, value: float) -> None:
    data = onnx_model([node(op_type, ["x", "w"], ["y"])], {"x": [2]}, {"w": np.array(value, np.float32)})
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="parameter 'w' holds NaN or infinity"):
        engine.load(tmp_path / "a.onnx")


def test_an_attribute_of_half_a_number_is_refused(tmp_path: Path) -> None:
    scales = bytes_field(1, "scales") + bytes_field(7, bytes(6)) + int_field(20, 6)
    upsample = bytes_field(1, "x") + bytes_field(2, "y") + bytes_field(4, "Upsample") + bytes_field(5, scales)
    graph = bytes_field(1, upsample) + bytes_field(12, bytes_field(1, "y"))
    (tmp_path / "a.onnx").write_bytes(bytes_field(7, graph) + bytes_field(8, int_field(2, 7)))
    with pytest.raises(ModelError, match=r"Upsample 'y': attribute scales: 6 bytes are no whole number of float32"):
        read(tmp_path / "a.onnx")


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


def test_a_graph_of_its_own_goes_to_onnx_only(tmp_path: Path) -> None:
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


# Damage


def fuzz(folder: Path, count: int, seed: int) -> None:
    """Damage a small file of each format `count` times in all, in a process that must not take more than 200 MB."""
    torch = pytest.importorskip("torch")
    original = model("mnist")
    card = ModelCard("mnist", "digits", (1, 28, 28), colour="GRAY")
    for suffix in (".npz", ".safetensors", ".onnx"):
        save(type(original)(card, original.graph), folder / fuzzing.FILES[suffix])
    state = {name: torch.from_numpy(array) for name, array in net_cases.weights("mnist").items()}
    torch.save(state, folder / fuzzing.FILES[".pth"])
    lines = "\n".join(f"{number:.18e}" for number in np.random.RandomState(0).uniform(0, 2, 2048))
    (folder / fuzzing.DUMP).write_text(f"{lines}\n")
    command = [sys.executable, "-W", "ignore", "-m", "tests.engine.fuzzing", str(folder), str(count), str(seed)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    for each in found.values():
        assert each["loaded"] + each["refused"] == count // len(found)
        assert each["refused"] > count / len(found) / 8
        assert each["slowest"] < 1


def test_damaged_files_load_or_give_a_model_error_and_stay_within_bounds(tmp_path: Path) -> None:
    fuzz(tmp_path, 500, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_damaged_files_by_the_thousand(tmp_path: Path) -> None:
    fuzz(tmp_path, 20_000, 2)


def test_the_fuzzer_finds_a_reader_that_takes_too_much_memory(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from tests.engine import fuzzing\n"
        "fuzzing.fuzz = lambda *_: np.ones(60 << 20, np.float32)\n"
        "fuzzing.main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "1", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
