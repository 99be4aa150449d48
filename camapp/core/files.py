"""Sorts file names in natural order, and writes files completely or not at all."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBERS = re.compile(r"(\d+)")


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key under which 'img2' comes before 'img10'."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(text) if part]


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file, in a folder that exists, completely or not at all, also across a power cut.

    Raises:
        OSError: the folder cannot be written, or the disk is full; an earlier file stays as it was.
    """
    # Imported late because it loads NumPy, which --help does not need.
    from engine.formats.content import write_whole

    write_whole(path, lambda file: file.write(data), mode)
