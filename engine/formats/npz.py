"""Reads NumPy's .npz as plain data (no pickles, no zip bombs), and reads and writes bundles: .npz with a model card."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from engine.formats.content import (
    MAX_ARRAYS,
    MAX_BYTES,
    ZIP_DAMAGE,
    Content,
    check_entries,
    opened_archive,
    reading,
    write_whole,
)
from engine.graph import Array, ModelError
from engine.model_card import ModelCard

CARD = "__card__"
# Largest compression ratio: weights deflate by about 1.1, rounded ones by 8; a higher one of a big file is a zip bomb.
MAX_RATIO = 16
# Unpacked bytes below which any ratio is harmless.
SMALL = 16 << 20


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Return all arrays of a .npz file by name.

    Raises:
        ModelError: not readable, damaged, too big, or holding Python objects.
    """
    path = Path(path)
    with reading(path):
        try:
            with warnings.catch_warnings(), opened_archive(path) as archive:
                warnings.simplefilter("ignore")  # NumPy warns of headers written by Python 2, which it reads correctly
                entries = archive.infolist()
                _check_size(path, entries)
                return {_name(entry): _read_entry(archive, entry) for entry in entries}
        except ZIP_DAMAGE as error:
            raise ModelError(f"not a .npz file, or damaged: {error}") from error


def read_bundle(path: str | Path) -> Content:
    """Return the arrays, and the card if there is one; its checksum is verified where it states one.

    Raises:
        ModelError: as `read_arrays`; also an invalid card, or one of other arrays.
    """
    arrays = read_arrays(path)
    text = arrays.pop(CARD, None)
    for name, array in arrays.items():
        if array.dtype.kind == "U":
            raise ModelError(f"{path}: array '{name}': expected numbers, found text")
    if text is None:
        return Content(arrays)
    if text.dtype.kind != "U" or text.shape != ():
        raise ModelError(f"{path}: '{CARD}': expected one string, found {text.dtype} of shape {text.shape}")
    try:
        card = ModelCard.from_json(str(text))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    found = digest(arrays)
    if card.sha256 not in ("", found):
        raise ModelError(
            f"{path}: arrays are not those of the card: expected sha256 {card.sha256:.16}, found {found:.16}"
        )
    return Content(arrays, card)


def save_bundle(path: str | Path, arrays: Mapping[str, Array], card: ModelCard) -> ModelCard:
    """Write arrays and card as one .npz: whole or not at all. Returns the card with its sha256; raises OSError."""
    path = Path(path)
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    card = replace(card, sha256=digest(plain))
    write_whole(path, lambda file: np.savez(file, **plain, **{CARD: np.array(card.to_json())}))  # type: ignore[arg-type]
    return card


def digest(arrays: Mapping[str, Array]) -> str:
    """Return the sha256 in hex of names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        total.update(array.data)
    return total.hexdigest()


def _check_size(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ARRAYS or total > MAX_BYTES:
        raise ModelError(f"{len(entries)} arrays of {total} bytes; allowed are {MAX_ARRAYS} arrays, {MAX_BYTES} bytes")
    size = path.stat().st_size
    if total > SMALL and total > MAX_RATIO * size:
        raise ModelError(f"{size} bytes that unpack to {total}: a zip bomb, not weights")
    check_entries(entries, size)


def _name(entry: zipfile.ZipInfo) -> str:
    if not entry.filename.endswith(".npy"):
        raise ModelError(f"entry '{entry.filename}' is not an array (.npy)")
    return entry.filename.removesuffix(".npy")


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    name = _name(entry)
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ModelError(f"array '{name}': .npy version {version}; allowed are (1, 0) and (2, 0)")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "biufU" or dtype.itemsize == 0:
            raise ModelError(f"array '{name}': expected numbers, found dtype {dtype} (pickles are never loaded)")
        # The header is compared with the actual bytes before memory of its size is allocated.
        data = file.read()
    expected = prod(shape) * dtype.itemsize
    if expected != len(data):
        raise ModelError(f"array '{name}': shape {shape} of {dtype} needs {expected} bytes, found {len(data)}")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
