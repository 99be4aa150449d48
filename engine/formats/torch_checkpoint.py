"""Reads PyTorch's .pth, .pt, .ckpt and others as plain data, without PyTorch.

The zip archive that `torch.save` writes since 1.6 holds `NAME/data.pkl`, which describes tensors by storage, offset,
shape and strides, and each storage's bytes in `NAME/data/KEY`. Earlier files are five pickles (a magic number, the
protocol, the machine, the tensors and the storages' keys), then for each key a count of numbers and their bytes. All
is checked: see `engine.formats.pickles`, and `_bytes` below.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from engine.formats.content import (
    MAX_ARRAYS,
    MAX_AXES,
    MAX_BYTES,
    ZIP_DAMAGE,
    Content,
    check_entries,
    opened_archive,
    read_bytes,
    reading,
    widened,
)
from engine.formats.pickles import MAX_BYTES as PICKLE_BYTES
from engine.formats.pickles import Ignored, Named, UnknownName, read_first_pickle, read_pickle, shown
from engine.graph import Array, ModelError

STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Keys under which a checkpoint has its state_dict, the preferred first: an average over training steps is what others
# load, too.
NESTED = (
    *("params_ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema"),
    *("state_dict", "model_state_dict", "model", "net", "weights", "params", "module", "model_state", "network"),
    *("generator", "backbone", "state", "model_dict", "best_model"),
)
_IN_ARCHIVES = (".pth", ".pt", ".ckpt", ".bin", ".onnx", ".npz", ".safetensors")
MAX_DEPTH = 3  # of a state_dict within other dicts, lists and tuples
FOR_TRAINING = ("optim", "sched", "scaler", "callback", "loop")  # starts of keys that hold no weights of the net
EXTRA_STATE = "_extra_state"  # suffix of a module's state without tensors, for training
SMALL = 16 << 20
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number, pickled by protocol 2
LEGACY_PROTOCOL = 1001


@dataclass
class _Storage:
    """Holds a storage's bytes and the kind of its numbers; before 1.6 the bytes follow after the tensors."""

    data: bytes | memoryview
    kind: str

    @property
    def item(self) -> int:
        """Return the size of a number in bytes."""
        return np.dtype("u2" if self.kind == "bf16" else self.kind).itemsize


@dataclass(frozen=True)
class _Tensor:
    """Holds a tensor as the pickle describes it, not yet checked."""

    storage: _Storage
    offset: Any
    shape: Any
    strides: Any


def export_lines(load: str, channels: int = 3) -> str:
    """Return the three lines of Python that export a net as ONNX; `load` is the first of them."""
    image = f"torch.zeros(1, {channels}, 224, 224)"
    lines = (load, "model.eval()", f"torch.onnx.export(model, {image}, 'net.onnx')  # 224: the size that it takes")
    return "".join(f"\n    {line}" for line in lines)


def read_checkpoint(path: Path) -> Content:
    """Return the arrays of a checkpoint: a `state_dict`, or a dict that has one, under a name of `NESTED` or alone.

    Raises:
        ModelError: not readable, damaged, not of this form, or with a reference to code.
    """
    with reading(path):
        with path.open("rb") as file:
            start = file.read(len(LEGACY_START))
        if start == LEGACY_START:
            return Content(_read_legacy(read_bytes(path)))
        try:
            with opened_archive(path) as archive:
                return Content(_read(archive, path.stat().st_size))
        except zipfile.BadZipFile as error:
            if start and tarfile.is_tarfile(path):
                raise ModelError(_of_tar(path)) from error
            raise ModelError(f"not a PyTorch checkpoint, or cut off: {error}") from error
        except UnknownName as error:
            how = export_lines(f"model = torch.load('{path.name}', weights_only=False)  # runs its code")
            whole = "If it holds a whole model, export that in Python, and load net.onnx"
            raise ModelError(f"{error}. {whole}:{how}") from error
        except ZIP_DAMAGE as error:
            raise ModelError(f"not a PyTorch checkpoint, or damaged: {error}") from error


def _of_tar(path: Path) -> str:
    """Return what to do with a real tar archive: to unpack it, or one of PyTorch before 0.1.10."""
    try:
        with tarfile.open(path) as archive:
            names = [member.name for _, member in zip(range(MAX_ITEMS), archive, strict=False) if member.isfile()]
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        return f"a damaged tar archive: {error}"
    models = [name for name in names if Path(name).suffix.lower() in _IN_ARCHIVES]
    if models:
        return f"an archive that holds '{models[0]:.80}': unpack it with 'tar xf {path.name}', and load that file"
    return (
        "a checkpoint of PyTorch before 0.1.10 (legacy tar); "
        "load it with PyTorch and save it again with torch.save(model.state_dict(), ...)"
    )


def _read_legacy(data: bytes) -> dict[str, Array]:
    """Return the arrays of a checkpoint that `torch.save` wrote before 1.6."""
    storages: dict[str, tuple[_Storage, int]] = {}

    def find(identity: Any) -> _Storage:
        if not isinstance(identity, tuple) or len(identity) != 6 or identity[0] != "storage":
            raise ModelError(f"damaged pickle: {shown(identity)} is no storage")
        _, named, key, _, count, view = identity
        kind = STORAGES.get(named.name.removeprefix("torch.")) if isinstance(named, Named) else None
        if kind is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ModelError(f"storage {shown(key)} is of no known kind or size")
        if view is not None:
            raise ModelError(f"storage {shown(key)} is a view of another one; save the state_dict again")
        return storages.setdefault(key, (_Storage(b"", kind), count))[0]

    at = 0
    parts = []
    for _ in range(5):
        part, length = read_first_pickle(data[at : at + PICKLE_BYTES], _KNOWN, find)
        parts.append(part)
        at += length
    _, protocol, machine, found, keys = parts
    if protocol != LEGACY_PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ModelError(f"protocol {shown(protocol)}, or a byte order that is not read; save the state_dict again")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ModelError("damaged: the keys of its storages are not those of its tensors")
    rest = memoryview(data)
    for key in keys:
        storage, count = storages[key]
        size = int.from_bytes(rest[at : at + 8], "little")
        end = at + 8 + size * storage.item
        if size != count or end > len(data):
            raise ModelError(f"storage '{shown(key)}': {count} numbers of {storage.item} bytes expected; damaged")
        storage.data = rest[at + 8 : end]
        at = end
    return _arrays(_state_dict(found), len(data))


def _read(archive: zipfile.ZipFile, size: int) -> dict[str, Array]:
    check_entries(archive.infolist(), size)
    entries = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ModelError(f"not a PyTorch checkpoint: {len(roots)} entries 'data.pkl', expected one")
    if any(name.startswith(f"{roots[0]}code/") for name in entries):
        how = export_lines("model = torch.jit.load('net.pt')")
        raise ModelError(f"a TorchScript archive, which is a program; export it in Python, and load net.onnx:{how}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise ModelError("a compressed entry; PyTorch stores entries uncompressed")
    if sum(entry.file_size for entry in entries.values()) > min(size, MAX_BYTES):
        raise ModelError(f"entries of more bytes than the file's {size}, or than the {MAX_BYTES} allowed")
    order = archive.read(f"{roots[0]}byteorder") if f"{roots[0]}byteorder" in entries else b"little"
    if order != b"little":
        raise ModelError(f"byte order {order!r:.20}; only b'little' is read")
    storages: dict[str, bytes] = {}

    def find(identity: Any) -> _Storage:
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise ModelError(f"damaged pickle: {shown(identity)} is no storage")
        named, key, count = identity[1], identity[2], identity[4]
        kind = STORAGES.get(named.name.removeprefix("torch.")) if isinstance(named, Named) else None
        entry = f"{roots[0]}data/{key}" if isinstance(key, str) else ""
        if kind is None or entry not in entries:
            raise ModelError(f"storage {shown(key)} is of no known kind, or its entry is missing")
        if key not in storages:
            storages[key] = archive.read(entry)
        storage = _Storage(storages[key], kind)
        if type(count) is not int or count * storage.item != len(storage.data):
            raise ModelError(
                f"storage '{key}': {shown(count)} numbers of {storage.item} bytes, "
                f"its entry has {len(storage.data)} bytes"
            )
        return storage

    return _arrays(_state_dict(read_pickle(archive.read(f"{roots[0]}data.pkl"), _KNOWN, find)), size)


def _arrays(found: dict[str, _Tensor], size: int) -> dict[str, Array]:
    """Return the tensors of a file of `size` bytes as arrays."""
    if len(found) > MAX_ARRAYS:
        raise ModelError(f"{len(found)} arrays; allowed are {MAX_ARRAYS}")
    # Strides of 0 repeat numbers: a small file could request any amount of memory.
    total, allowed = 0, SMALL + 4 * size
    arrays = {}
    for name, tensor in found.items():
        total += _bytes(name, tensor)
        if total > allowed:
            raise ModelError(f"arrays of over {allowed} bytes from a file of {size}")
        arrays[name] = _array(name, tensor)
    return arrays


def _state_dict(found: Any) -> dict[str, _Tensor]:
    """Return the tensors by name, of the dict itself or of one within it."""
    if isinstance(found, _Tensor):
        raise ModelError("one tensor; expected a state_dict, tensors by name")
    held = list(_state_dicts(found, "", MAX_DEPTH))
    known = sorted((pair for pair in held if pair[0] in NESTED), key=lambda pair: NESTED.index(pair[0]))
    chosen = [pair for pair in held if not pair[0]][:1] or known[:1] or held
    if len(chosen) == 1:
        return chosen[0][1]
    if chosen:
        keys = ", ".join(shown(key) for key, _ in chosen)
        raise ModelError(f"several state_dicts in it ({keys}); save that of the net alone")
    keys = ", ".join(map(shown, list(found)[:5])) if isinstance(found, dict) else shown(found)
    raise ModelError(f"no state_dict in it (found {keys}); save model.state_dict()")


def _state_dicts(found: Any, key: str, depth: int) -> Iterator[tuple[str, dict[str, _Tensor]]]:
    """Yield the state_dicts within an object with their keys; that of the object itself, or of a list, is ''."""
    if isinstance(found, list | tuple) and depth:
        for item in found[:MAX_ITEMS]:
            yield from _state_dicts(item, key, depth - 1)
    if not isinstance(found, dict):
        return
    own = {name: value for name, value in found.items() if not str(name).endswith(EXTRA_STATE)}
    tensors = {name: value for name, value in own.items() if isinstance(value, _Tensor)}
    if tensors and len(tensors) == len(own) and all(isinstance(name, str) for name in tensors):
        yield key, tensors
    elif depth:
        for name, value in list(own.items())[:MAX_ITEMS]:
            if isinstance(name, str) and not name.lower().startswith(FOR_TRAINING):
                yield from _state_dicts(value, name, depth - 1)


MAX_ITEMS = 1000  # of an object that are searched


def _bytes(name: str, tensor: _Tensor) -> int:
    """Return the size of the tensor's numbers in bytes, after checking that all of them lie within its storage."""
    for each in (tensor.shape, tensor.strides):
        if not isinstance(each, tuple) or len(each) > MAX_AXES or not all(type(i) is int and i >= 0 for i in each):
            raise ModelError(f"tensor '{name}': {shown(each)} is no valid shape or strides")
    if len(tensor.shape) != len(tensor.strides) or type(tensor.offset) is not int or tensor.offset < 0:
        raise ModelError(f"tensor '{name}': its shape does not fit its strides, or offset {shown(tensor.offset)}")
    item = tensor.storage.item
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    held = len(tensor.storage.data) // item
    if prod(tensor.shape) and tensor.offset + reach >= held:
        raise ModelError(f"tensor '{name}': number {tensor.offset + reach} of a storage of {held}")
    return int(prod(tensor.shape)) * item


def _array(name: str, tensor: _Tensor) -> Array:
    kind = tensor.storage.kind
    dtype = np.dtype("<u2" if kind == "bf16" else kind).newbyteorder("<")
    if not prod(tensor.shape):
        return widened(np.zeros(tensor.shape, dtype), kind)
    flat = np.frombuffer(tensor.storage.data, dtype)[tensor.offset :]
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    array: Array = np.ascontiguousarray(as_strided(flat, tensor.shape, strides, writeable=False))
    return widened(array.reshape(tensor.shape), kind)  # reshape: ascontiguousarray gives a scalar an axis


def _ordered_dict() -> dict[Any, Any]:
    return {}  # later opcodes add its items


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any = None, hooks: Any = None, bits: Any = None
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ModelError("damaged pickle: a tensor without storage")
    if bits:  # a lazy negation
        raise ModelError(f"a tensor that is a lazy view ({', '.join(map(shown, bits))}); save tensor.resolve_neg()")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _no_call(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise ModelError(f"its pickle calls '{name}'; refused")

    return refuse


# Other content of a training checkpoint: accepted, but never constructed.
_BESIDE = (
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.dict",
    "builtins.frozenset",
    "builtins.list",
    "builtins.set",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "torch.Size",
    "torch.device",
)
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")

# Modules of which any name is ignored: paths, dates and optimizers beside the weights.
_BESIDE_MODULES = ("datetime.", "pathlib.", "torch.optim.")

_KNOWN: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(_BESIDE_MODULES, Ignored),
    **dict.fromkeys(_BESIDE, Ignored),
    **{name.replace("builtins", "__builtin__"): Ignored for name in _BESIDE},  # the name in protocols 0 to 2
    **{f"torch.{name}": _no_call(f"torch.{name}") for name in (*STORAGES, *_DTYPES)},
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
