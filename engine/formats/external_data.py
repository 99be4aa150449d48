"""Reads ONNX external data: weights in a file beside the model, as PyTorch writes them by default (NAME.onnx.data).

A model file is data and may not make the program read any other file: only a plain file name in the model's own folder
is accepted, and only a regular file that is no link of any kind.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from engine.formats.content import MAX_AXES, MAX_BYTES, array_of
from engine.graph import Array, ModelError, Shape

# An entry of the map `external_data`: the key "location", then the length of its value, which a file name limits.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])", re.DOTALL)
CURE = "keep it beside the model, under the name that it was saved with; or save all in one file"


def names_in(model: bytes) -> set[str]:
    """Return the names of the files that an ONNX model's weights lie in, as far as they are plain names."""
    found = set()
    for match in _LOCATION.finditer(model):
        name = model[match.end() : match.end() + match[1][0]].decode(errors="surrogateescape")
        if name and not {"/", "\\", "\0"} & set(name):
            found.add(name)
    return found


class ExternalData:
    """Reads weights from files in one folder, of at most MAX_BYTES in all.

    Args:
        folder: of the model; None: external data are refused.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left = MAX_BYTES

    def array(self, name: str, described: Mapping[str, str], kind: str, shape: Shape) -> Array:
        """Return the weight that `location`, `offset` and `length` describe.

        Raises:
            ModelError: a location outside the folder, a link, a missing or short file, or a length that does not fit.
        """
        location = described.get("location", "")
        if self._folder is None or location in ("", ".", "..") or {"/", "\\", "\0"} & set(location):
            raise ModelError(
                f"weight '{name}' lies in another file, '{location:.60}', which is no plain name in the folder: "
                f"external data are read only from there; {CURE}"
            )
        if len(shape) > MAX_AXES or any(size < 0 for size in shape):
            raise ModelError(f"weight '{name}': {shape!r:.60} is not a shape")
        expected = prod(shape) * np.dtype("u2" if kind == "bf16" else kind).itemsize
        offset, length = (
            _whole(name, described.get(key, ""), plain) for key, plain in (("offset", 0), ("length", expected))
        )
        if length != expected:
            raise ModelError(f"weight '{name}': {length} bytes of external data; shape {shape!r:.60} needs {expected}")
        self._left -= length
        if self._left < 0:
            raise ModelError(f"weights of more than {MAX_BYTES} bytes in all")
        return array_of(name, self._read(name, location, offset, length), kind, shape)

    def _read(self, name: str, location: str, offset: int, length: int) -> bytes:
        assert self._folder is not None
        try:
            # O_NONBLOCK: opening a pipe would wait for a writer.
            descriptor = os.open(self._folder / location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ModelError(f"weight '{name}' lies in '{location:.60}': {error.strerror}; {CURE}") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise ModelError(f"weight '{name}' lies in '{location:.60}', a link or no regular file; copy it there")
            if offset > found.st_size - length:
                raise ModelError(
                    f"weight '{name}': {length} bytes from {offset} on of '{location:.60}', which has {found.st_size}"
                )
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise ModelError(f"weight '{name}': '{location:.60}' is cut off")
        return data


def _whole(name: str, text: str, plain: int) -> int:
    """Return a number of bytes from its text."""
    if not text:
        return plain
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelError(f"weight '{name}': '{text:.20}' is no number of bytes")
    return int(text)
