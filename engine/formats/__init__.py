"""Reads and writes model files, one module for each format; a new format to read is a line in READERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from engine.graph import ModelError

if TYPE_CHECKING:
    from engine.formats.content import Content

# 'module:function', imported at first use: a worker, which attaches to a shared model, needs none of them.
READERS: Mapping[str, str] = {
    ".npz": "npz:read_bundle",
    ".safetensors": "safetensors:read_safetensors",
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".th", ".tar", ".pkl"), "torch_checkpoint:read_checkpoint"),
    ".onnx": "onnx:read_onnx",
}
FOLDER = "text_dump:read_text_dump"
WRITABLE = (".npz", ".safetensors", ".onnx")


def read(path: Path) -> Content:
    """Read a file by its suffix (a folder without one is a text dump); raises ModelError if it cannot be used."""
    suffix = path.suffix.lower()
    if suffix not in READERS and not path.is_dir():
        raise ModelError(
            f"{path}: cannot load '{path.suffix or 'no suffix'}' files; "
            f"supported are {', '.join(READERS)} and folders of text dumps"
        )
    module, _, name = READERS.get(suffix, FOLDER).partition(":")
    reader: Callable[[Path], Content] = getattr(import_module(f"engine.formats.{module}"), name)
    return reader(path)
