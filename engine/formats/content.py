"""Defines Content, the result of every reader, the limits of all readers, and the atomic write of files."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.graph import Array, Graph, ModelError
from engine.model_card import ModelCard

MAX_BYTES = 1 << 30
MAX_ARRAYS = 10_000
MAX_AXES = 32
MAX_DIRECTORY = 4 << 20  # bytes of an archive's directory: that of 10,000 entries takes 1.3 MB

# Raised by zipfile (and by NumPy, for a .npy header) for damaged bytes; RuntimeError for an encrypted entry.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    SyntaxError,
    RuntimeError,
    NotImplementedError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class Content:
    """Holds the content of a model file.

    Attributes:
        arrays: by name; of float kinds only float32 and float64.
        card: None if the file has none.
        graph: None if the file has none; its initializers are `arrays`.
    """

    arrays: Mapping[str, Array]
    card: ModelCard | None = None
    graph: Graph | None = None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Prefix error messages with the path, and turn errors of the operating system into ModelError."""
    try:
        yield
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror or error}") from error
    except MemoryError as error:
        raise ModelError(f"{path}: there is not enough memory to read it") from error


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory is at most MAX_DIRECTORY bytes: zipfile makes an object of each entry at once.

    Raises:
        ModelError: a longer directory.
        Those of ZIP_DAMAGE: no archive, or damaged.
    """
    with path.open("rb", buffering=0) as raw:
        file = _Guarded(raw)
        with zipfile.ZipFile(file) as archive:
            file.limit = MAX_BYTES
            yield archive


class _Guarded(io.BufferedReader):
    """Limits each read to `limit` bytes: zipfile reads the whole directory at once."""

    limit = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ModelError(f"an archive with a directory or an entry of {size} bytes; allowed are {self.limit}")
        return super().read(size)


def check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Raise ModelError if an archive of `size` bytes has an entry twice, or one whose bytes would not fit into it.

    This runs before memory is allocated by the directory.
    """
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise ModelError("the same entry twice")
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if entry.compress_size > size or (stored and entry.file_size != entry.compress_size):
            raise ModelError(
                f"damaged: entry '{entry.filename:.60}' of {entry.compress_size} bytes ({entry.file_size} unpacked) "
                f"in a file of {size}"
            )


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return a file's bytes.

    Raises:
        ModelError: the file has more than `limit` bytes.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ModelError(f"a file of {size} bytes; allowed are {limit}")
        return file.read(size)  # never `limit`: read() allocates that much memory at once


def array_of(name: str, data: bytes | memoryview, kind: str, shape: tuple[int, ...]) -> Array:
    """Return the array with the little-endian numbers `data` in C order; float16 and bfloat16 become float32.

    `kind` is a NumPy dtype such as 'f4', or 'bf16'. The array may be a read-only view of the data.

    Raises:
        ModelError: an invalid shape, or a number of bytes that does not fit it; the message has the name.
    """
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise ModelError(f"array '{name}': {shape!r:.60} is not a shape")
    dtype = np.dtype("<u2" if kind == "bf16" else kind).newbyteorder("<")
    expected = prod(shape) * dtype.itemsize
    if expected != len(data):
        raise ModelError(f"array '{name}': shape {shape!r:.60} of {kind} needs {expected} bytes, found {len(data)}")
    return widened(np.frombuffer(data, dtype).reshape(shape), kind)


def widened(array: Array, kind: str) -> Array:
    """Return the array with half precision widened to float32."""
    if kind == "bf16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs of damaged files; `load` refuses them
        return array.astype(np.float32) if kind == "f2" else array


def write_whole(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o644) -> None:
    """Write a file completely or not at all: `write` fills a temporary file that replaces `path`; raises OSError.

    A link stays, and the file that it leads to is replaced. A pipe or a device is written to as it is, so that root
    does not replace /dev/stdout.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("wb") as file:
            write(file)
        return
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
