"""PyTorch checkpoints against PyTorch, and what their reader refuses."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelError, nets
from engine.formats import read
from engine.runtime.convert import save
from tests.engine import net_cases
from tests.engine.formats.assertions import assert_same
from tests.engine.nets.test_nets import model

# PyTorch


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_tensors_come_out_as_torch_has_them(tmp_path: Path, zipped: bool) -> None:
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
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
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
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".pth.tar", ".bin", ".th"])
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


def lenet_state() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(array) for name, array in net_cases.weights("lenet").items()}


def same_as_lenet(path: Path) -> bool:
    images = net_cases.images("lenet")
    return np.array_equal(engine.load(path, "lenet").run(images), model("lenet").run(images))


KEYS = "params_ema ema state_dict_ema model_ema module generator network backbone student anything".split()  # noqa: SIM905


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_state_dict_is_found_under_any_name(tmp_path: Path, key: str, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    content = {key: lenet_state(), "epoch": 3, "best": torch.tensor(0.9), "optimizer": {"state": {0: lenet_state()}}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same_as_lenet(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "wrap", [lambda s: [s], lambda s: (s, 3), lambda s: {"a": {"net": s}}], ids=["list", "tuple", "dict"]
)
def test_a_state_dict_is_found_within_others(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    pytest.importorskip("torch").save(wrap(lenet_state()), tmp_path / "a.pth")
    assert same_as_lenet(tmp_path / "a.pth")


def test_of_two_state_dicts_the_average_is_taken_and_of_two_unknown_ones_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in lenet_state().items()}
    torch.save({"state_dict": zeros, "state_dict_ema": lenet_state()}, tmp_path / "a.pth")
    assert same_as_lenet(tmp_path / "a.pth")
    torch.save({"G": zeros, "D": lenet_state()}, tmp_path / "b.pth")
    with pytest.raises(ModelError, match=r"several state_dicts in it \('G', 'D'\); save that of the net alone"):
        engine.load(tmp_path / "b.pth")


@pytest.mark.parametrize(
    "prefix", ["model.", "_orig_mod.", "net.", "backbone.", "module.model.", "_orig_mod.module.", "0."]
)
def test_prefixes_that_wrappers_add_are_dropped(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in lenet_state().items()}
    pytest.importorskip("torch").save(state, tmp_path / "a.pth")
    assert same_as_lenet(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_lies_beside_the_weights_is_ignored(tmp_path: Path, legacy: bool) -> None:
    import datetime
    import pathlib

    torch = pytest.importorskip("torch")
    state = lenet_state()
    optimizer = torch.optim.SGD([torch.nn.Parameter(tensor) for tensor in state.values()], 0.1, momentum=0.9)
    beside = {"optimizer": optimizer, "out": pathlib.PurePosixPath("/x"), "at": datetime.datetime(2020, 1, 2, 3)}
    state |= {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}
    torch.save({"state_dict": state, **beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same_as_lenet(tmp_path / "a.pth")


def test_a_net_that_others_look_like_is_named_once_unless_it_was_requested(tmp_path: Path) -> None:
    pytest.importorskip("torch").save(lenet_state(), tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="taken for net 'lenet' by the names and shapes .* ReLU and 2x2 max pooling"):
        engine.load(tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.load(tmp_path / "a.pth", "lenet")
        save(model("lenet"), tmp_path / "card.npz")
        engine.load(tmp_path / "card.npz")


def test_residual_nets_for_cifar_with_padded_shortcuts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(width)
            self.conv2 = torch.nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(width)
            self.added = width - inputs

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            half = self.added // 2
            short = torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half)) if self.added else x
            return torch.relu(y + short)

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(16)
            for stage, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
                blocks = [
                    Block(inputs if not index else width, width, 1 + (inputs != width and not index))
                    for index in range(3)
                ]
                setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
            self.linear = torch.nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    net = Net().eval()
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 92.6}, tmp_path / "a.th")
    found, x = engine.load(tmp_path / "a.th"), torch.randn(2, 3, 32, 32)
    assert (found.card.net, found.card.mean[0]) == ("resnet20", 0.485)
    np.testing.assert_allclose(found.run(x.numpy()), net(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_the_metadata_of_a_state_dict_are_ignored(tmp_path: Path) -> None:
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
def test_invalid_pickles_are_refused_at_once(
    tmp_path: Path, data: bytes, storages: dict[str, bytes], message: str
) -> None:
    start = time.process_time()
    with pytest.raises(ModelError, match=message):
        read(checkpoint(tmp_path / "a.pth", data, storages))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "8 numbers of 4 bytes expected; damaged"),
        (lambda data: data.replace(struct.pack("<q", 8), struct.pack("<q", 1 << 60)), "8 numbers of 4 bytes expected"),
        (lambda data: data.replace(b"little_endian", b"little_xndian"), "a byte order that is not read"),
        (lambda data: data.replace(b"FloatStorage", b"SheepStorage"), "names 'torch.SheepStorage'"),
        (lambda data: data[:30], "ends too early"),
        (lambda data: data.replace(b"cpuq", b"cpuqq"), "damaged|not allowed|no storage"),
    ],
)
def test_damaged_files_of_before_1_6_are_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert change(data) != data
    path.write_bytes(change(data))
    with pytest.raises(ModelError, match=message):
        read(path)


def test_old_and_other_archives_are_refused_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    with pytest.raises(ModelError, match=r"before 0\.1\.10 \(legacy tar\)"):
        read(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("net/best.ckpt"), io.BytesIO(b""))
    with pytest.raises(ModelError, match=r"an archive that holds 'net/best\.ckpt': unpack it with 'tar xf a\.pth'"):
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
    with pytest.raises(ModelError, match="a TorchScript archive, which is a program") as refused:
        read(path)
    assert export_steps(str(refused.value)) == ["model = torch.jit.load('net.pt')", *EXPORT]


EXPORT = ["model.eval()", "torch.onnx.export(model, torch.zeros(1, 3, 224, 224), 'net.onnx')"]


def export_steps(message: str) -> list[str]:
    return [line.partition("  #")[0].strip() for line in message.splitlines()[1:]]


def test_a_whole_model_and_an_unknown_net_name_the_three_lines_that_export_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    checkpoint(path, b"\x80\x02cmy.nets\nNet\n.")
    with pytest.raises(ModelError, match=r"its pickle names 'my\.nets\.Net'") as refused:
        read(path)
    assert export_steps(str(refused.value)) == ["model = torch.load('a.pth', weights_only=False)", *EXPORT]
    np.savez(tmp_path / "a.npz", **{"conv.weight": np.ones((4, 1, 3, 3), np.float32)})
    with pytest.raises(ModelError, match="its arrays fit no net by names and shapes") as refused:
        engine.load(tmp_path / "a.npz")
    assert export_steps(str(refused.value)) == [
        "model.load_state_dict(torch.load('net.pth'))", EXPORT[0], EXPORT[1].replace("1, 3", "1, 1")
    ]  # fmt: skip


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


def test_other_content_of_a_training_checkpoint_is_ignored(tmp_path: Path) -> None:
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
