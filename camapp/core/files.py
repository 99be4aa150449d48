"""Sorts file names in natural order, finds open descriptors, and writes files completely or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import IO

_NUMBERS = re.compile(r"(\d+)")
_OWN_DESCRIPTOR = re.compile(r"/proc/(\d+)/(?:task/\d+/)?fd/(\d+)")
# As many links as the kernel follows.
_MAX_LINKS = 40


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key under which 'img2' comes before 'img10'."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(text) if part]


def descriptor_of(path: str) -> int | None:
    """Return the number of the descriptor of this process that a path such as /dev/stdout names; None if none."""
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(path)
        path = os.path.join(os.path.realpath(folder), name)
        if (found := _OWN_DESCRIPTOR.fullmatch(path)) and int(found[1]) == os.getpid():
            return int(found[2])
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return None
    return None


def create_new(path: Path) -> Path:
    """Create an empty file under the first free name of x.mp4, x-2.mp4, x-3.mp4, ...; no existing file changes.

    Missing folders are created too.

    Raises:
        OSError: the file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            os.close(os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        except FileExistsError:
            continue
        return candidate
    raise AssertionError


def try_to_write(path: Path) -> None:
    """Prove that a file can be written or created, and leave everything as it was. Raises OSError if not."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        try_to_create_in(path.parent)
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def try_to_create_in(folder: Path) -> None:
    """Prove that a file can be created in a folder, which may have to be created itself. Raises OSError if not."""
    while not folder.exists():
        folder = folder.parent
    # It has no name, so no other program sees it.
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file: a disk that is nearly full accepts a part, and refuses the next.

    Raises:
        OSError: of the part that is refused.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file, in a folder that exists, completely or not at all, also across a power cut.

    Raises:
        OSError: the folder cannot be written, or the disk is full; an earlier file stays as it was.
    """
    # Imported late because it loads NumPy, which --help does not need.
    from engine.formats.content import write_whole

    write_whole(path, lambda file: file.write(data))
