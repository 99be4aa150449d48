"""Content: what any model file comes to once it is read; the limits of all readers, and how files are written."""

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
MAX_DIRECTORY = 4 << 20  # of an archive: names and places of 10,000 entries take 1.3 MB

# What zipfile (and NumPy, over a .npy header) raises over damaged bytes; RuntimeError is an encrypted entry.
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
    """What a model file holds.

    Attributes:
        arrays: numbers by name; of float kinds only float32 and float64.
        card: where the file has one.
        graph: where the file has one; its initializers are `arrays`.
    """

    arrays: Mapping[str, Array]
    card: ModelCard | None = None
    graph: Graph | None = None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Puts the path before the message of whatever goes wrong, and turns what the system says into a ModelError."""
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
    """The archive, if its directory is no longer than MAX_DIRECTORY: zipfile makes an object of each entry at once.

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
    """A file of which nobody reads more than `limit` bytes at a time: zipfile reads the directory in one go."""

    limit = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ModelError(f"an archive with a directory or an entry of {size} bytes; allowed are {self.limit}")
        return super().read(size)


def check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse what an archive says of itself and cannot be so, before memory is taken by what it says.

    Args:
        entries: of the archive.
        size: of its file, bytes.

    Raises:
        ModelError: an entry twice, or one whose bytes would not fit into the file.
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
    """A file's bytes.

    Raises:
        ModelError: there are more than `limit`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ModelError(f"a file of {size} bytes; allowed are {limit}")
        return file.read(size)  # never `limit`: so much memory would be taken beforehand


def array_of(name: str, data: bytes | memoryview, kind: str, shape: tuple[int, ...]) -> Array:
    """The array whose little-endian numbers are `data`; float16 and bfloat16 come out as float32.

    Args:
        name: for messages.
        data: just the array's bytes, in C order; the array may be a read-only view of them.
        kind: a NumPy dtype such as 'f4', or 'bf16'.
        shape: of the array.

    Raises:
        ModelError: the shape is none, or the bytes are not as many as it needs.
    """
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise ModelError(f"array '{name}': {shape!r:.60} is not a shape")
    dtype = np.dtype("<u2" if kind == "bf16" else kind).newbyteorder("<")
    expected = prod(shape) * dtype.itemsize
    if expected != len(data):
        raise ModelError(f"array '{name}': shape {shape!r:.60} of {kind} needs {expected} bytes, found {len(data)}")
    return widened(np.frombuffer(data, dtype).reshape(shape), kind)


def widened(array: Array, kind: str) -> Array:
    """The numbers of a file's array as the engine keeps them: half precision becomes float32."""
    if kind == "bf16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs of damaged files; whoever binds the array refuses them
        return array.astype(np.float32) if kind == "f2" else array


def write_whole(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o644) -> None:
    """Write a file completely or not at all: `write` fills a temporary file, which then takes the place of `path`.

    Raises:
        OSError: the folder cannot be written.
    """
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
