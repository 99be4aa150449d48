"""Reads and writes a ResNet-50 as a folder of text files with one number on each line (a legacy format, S2's).

A file is named `resnet50_<layer>_<what>.txt`, such as `resnet50_layer1_bottleneck0_conv1_weight.txt`. Weights of
convolutions have the order (out, row, column, in); `param` holds `in, out, kernel, stride, pad` of a convolution or
`eps, momentum` of a batch norm, and must agree with the net.
"""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine import nets
from engine.formats.content import MAX_ARRAYS, MAX_BYTES, Content, reading
from engine.graph import Array, Graph, ModelError

NET = "resnet50"
WHAT = ("weight", "bias", "running_mean", "running_var", "param")
_FILE = re.compile(rf"{NET}_(?P<layer>\w+?)_(?P<what>{'|'.join(WHAT)})\.txt")
_BLOCK = re.compile(r"(layer\d)_bottleneck(\d)_(\w+)")
_DOWNSAMPLE = {"downsample_conv2d": "downsample.0", "downsample_batchnorm": "downsample.1"}
_SPELT = {module: spelt for spelt, module in _DOWNSAMPLE.items()}
MOMENTUM = 0.1  # PyTorch's default for batch norms
LINES = 65_536  # written at a time


def read_text_dump(path: Path) -> Content:
    """Return the arrays under torchvision's names.

    Raises:
        ModelError: a file that is missing, no regular file, too big, not numeric, or inconsistent with the net.
    """
    with reading(path):
        return Content(_arrays(path, nets.build(NET)))


def write_text_dump(folder: Path, arrays: Mapping[str, Array], net: str) -> None:
    """Write the files of a ResNet-50 into a new folder: all of them or none.

    Raises:
        ModelError: another net, or the folder exists.
        OSError: it cannot be written.
    """
    if net != NET:
        raise ModelError(f"{folder}: text dumps can only hold {NET}, this is {net}")
    if folder.exists():
        raise ModelError(f"{folder}: it exists already; name a new folder")
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        graph = nets.build(NET)
        for name in graph.parameters:
            module, _, what = name.rpartition(".")
            array = np.asarray(arrays[name])
            _write(partial, module, what, array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
        for module, numbers in _settings(graph).items():
            is_norm = len(numbers) == 1
            _write(partial, module, "param", np.array([*numbers, MOMENTUM] if is_norm else numbers))
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, module: str, what: str, numbers: Array) -> None:
    found = re.fullmatch(r"(layer\d)\.(\d)\.(.+)", module)
    layer = f"{found[1]}_bottleneck{found[2]}_{_SPELT.get(found[3], found[3])}" if found else module
    with (folder / f"{NET}_{layer}_{what}.txt").open("w") as file:
        for start in range(0, numbers.size, LINES):  # in parts: a list of all numbers would take too much memory
            file.writelines(f"{number:.9e}\n" for number in numbers.reshape(-1)[start : start + LINES].tolist())


def _arrays(folder: Path, graph: Graph) -> dict[str, Array]:
    files = sorted(file for file in folder.iterdir() if file.suffix == ".txt")
    if not files or len(files) > MAX_ARRAYS:
        raise ModelError(f"{len(files)} text files; expected those of {NET}, '{NET}_conv1_weight.txt' and so on")
    if sum(file.lstat().st_size for file in files) > 2 * MAX_BYTES:
        raise ModelError(f"text files of more than {2 * MAX_BYTES} bytes")
    settings = _settings(graph)
    arrays = {}
    for file in files:
        found = _FILE.fullmatch(file.name)
        if not found:
            raise ModelError(f"'{file.name}': expected a name such as '{NET}_layer1_bottleneck0_conv1_weight.txt'")
        layer, what = _module(found["layer"]), found["what"]
        numbers = _numbers(file)
        if what == "param":
            _check(file.name, numbers, settings.get(layer))
        else:
            arrays[f"{layer}.{what}"] = _shaped(file.name, numbers, graph.parameters.get(f"{layer}.{what}"))
    return arrays


def _module(layer: str) -> str:
    """Return torchvision's name: 'layer1_bottleneck0_downsample_conv2d' -> 'layer1.0.downsample.0'."""
    found = _BLOCK.fullmatch(layer)
    return f"{found[1]}.{found[2]}.{_DOWNSAMPLE.get(found[3], found[3])}" if found else layer


def _numbers(file: Path) -> Array:
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ModelError(f"'{file.name}' is a link or no regular file; the numbers must lie in the folder itself")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy only warns of an empty file
            return np.loadtxt(file, np.float64, comments=None, ndmin=1)
    except (ValueError, UserWarning) as error:
        # The message does not quote the content, which could be anything.
        raise ModelError(f"'{file.name}' does not hold one number a line") from error


def _shaped(name: str, numbers: Array, shape: tuple[int, ...] | None) -> Array:
    if shape is None:
        raise ModelError(f"'{name}' belongs to no layer of {NET}")
    if numbers.shape != (int(np.prod(shape)),):
        raise ModelError(f"'{name}': expected {np.prod(shape)} numbers, one per line, found shape {numbers.shape}")
    numbers = numbers.astype(np.float32)
    if len(shape) != 4:
        return numbers.reshape(shape)
    out, into, rows, columns = shape
    return np.ascontiguousarray(numbers.reshape(out, rows, columns, into).transpose(0, 3, 1, 2))


def _settings(graph: Graph) -> dict[str, tuple[float, ...]]:
    """Return the values that `param` must have by layer; of a batch norm only eps, as momentum is for training."""
    found: dict[str, tuple[float, ...]] = {}
    for node in graph.nodes:
        if node.op_type == "Conv":
            out, into, kernel, _ = graph.parameters[node.inputs[1]]
            attributes: Mapping[str, tuple[int, ...]] = node.attributes
            found[node.name] = (into, out, kernel, attributes["strides"][0], attributes["pads"][0])
        elif node.op_type == "BatchNormalization":
            found[node.name] = (node.attributes["epsilon"],)
    return found


def _check(name: str, numbers: Array, expected: tuple[float, ...] | None) -> None:
    if expected is not None and not np.allclose(numbers[: len(expected)], expected, rtol=1e-6, atol=0):
        raise ModelError(f"'{name}' has {numbers[:5].tolist()}, but {NET} has {list(expected)}")
