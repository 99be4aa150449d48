"""Writes models in other formats: `save`, and `convert`, which reads the file back and compares the outputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import nets
from engine.formats import WRITABLE
from engine.formats.npz import digest, save_bundle
from engine.formats.onnx import write_onnx
from engine.formats.safetensors import write_safetensors
from engine.formats.text_dump import write_text_dump
from engine.graph import Array, ModelError
from engine.model import Model, load
from engine.model_card import ModelCard

TOLERANCE = 1e-4  # of the outputs' largest magnitude


def save(model: Model, path: Path) -> None:
    """Write the model as a bundle (.npz), .safetensors or .onnx, by the path's suffix: whole or not at all.

    A path without suffix becomes a folder of text dumps, only for a ResNet-50 and without a card.

    Raises:
        ModelError: another suffix; or a graph that is no net of the engine, which only .onnx can hold.
        OSError: the folder cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        write_onnx(path, model.graph, model.card)
        return
    if suffix and suffix not in WRITABLE:
        raise ModelError(
            f"{path}: cannot write '{suffix}' files; supported are {', '.join(WRITABLE)}, "
            "and without suffix a folder of text dumps"
        )
    try:
        arrays, card = _parameters(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if not suffix:
        write_text_dump(path, arrays, card.net)
    elif suffix == ".npz":
        save_bundle(path, arrays, card)
    else:
        write_safetensors(path, arrays, replace(card, sha256=digest(arrays)))


def convert(source: Path, target: Path, net: str | None = None) -> Model:
    """Read one file, write another and return the model read back, which must give the same outputs.

    Raises:
        ModelError: the source cannot be used, the target cannot hold it, or its outputs differ (it is removed).
        OSError: the target's folder cannot be written.
    """
    if target.exists() and source.resolve() == target.resolve():
        raise ModelError(f"{target}: source and target are the same file")
    model = load(source, net)
    save(model, target)
    written = load(target)
    found, expected = _outputs(written), _outputs(model)
    size = max((float(np.abs(array).max(initial=0)) for array in expected), default=0.0)
    for array, wanted in zip(found, expected, strict=True):
        if array.shape != wanted.shape or not np.allclose(array, wanted, rtol=0, atol=TOLERANCE * size):
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            raise ModelError(f"{target}: its outputs differ from those of {source}; it is removed")
    return written


def _parameters(model: Model) -> tuple[Mapping[str, Array], ModelCard]:
    """Return the arrays of a net that the engine can build by name, and a card that names it."""
    arrays = model.graph.initializers
    if model.graph.parameters:
        return arrays, model.card
    name = nets.recognise(arrays)
    if name is None:
        raise ModelError(f"graph '{model.graph.name}' is from a file, no net known by name; only .onnx can hold it")
    return arrays, replace(model.card, net=name)


def _outputs(model: Model) -> tuple[Array, ...]:
    state = np.random.RandomState(0)
    shapes, values = model.default_shapes, model.graph.inputs
    inputs = [state.uniform(-1, 1, shape).astype(value.dtype) for shape, value in zip(shapes, values, strict=True)]
    found = model.run(*inputs)
    return found if isinstance(found, tuple) else (found,)
