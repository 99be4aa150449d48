"""Readers and writers of model files, one file a format; a new one to read is a line in READERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from engine.formats.content import Content
from engine.formats.npz import read_bundle
from engine.formats.onnx import read_onnx
from engine.formats.safetensors import read_safetensors
from engine.formats.text_dump import read_text_dump
from engine.formats.torch_checkpoint import read_checkpoint
from engine.graph import ModelError

READERS: Mapping[str, Callable[[Path], Content]] = {
    ".npz": read_bundle,
    ".safetensors": read_safetensors,
    ".pth": read_checkpoint,
    ".pt": read_checkpoint,
    ".onnx": read_onnx,
}
WRITABLE = (".npz", ".safetensors", ".onnx")


def read(path: Path) -> Content:
    """What a model file holds, by its suffix; a folder without one is a text dump.

    Raises:
        ModelError: an unknown suffix, or a file that cannot be used.
    """
    if path.is_dir() and path.suffix.lower() not in READERS:
        return read_text_dump(path)
    if path.suffix.lower() not in READERS:
        raise ModelError(
            f"{path}: cannot load '{path.suffix or 'no suffix'}' files; "
            f"supported are {', '.join(READERS)} and folders of text dumps"
        )
    return READERS[path.suffix.lower()](path)
