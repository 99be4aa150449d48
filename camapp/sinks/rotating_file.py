"""A log of lines: a plain file, which is rotated by size and holds whole lines only, or a pipe or device."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import IO

from camapp.core.files import descriptor_of, write_all

log = logging.getLogger(__name__)


def is_plain_file(target: str) -> bool:
    """Return whether `--log TARGET` writes a plain file, which exists or will be created."""
    if target == "-" or descriptor_of(target) is not None:
        return False
    path = Path(target)
    return path.is_file() or not path.exists()


class RotatingFile:
    """Appends lines to a file, a pipe, a device or an open descriptor such as stdout; only a plain file is rotated.

    Links are followed: the file that they lead to is rotated, in its own folder. A file that was moved or deleted
    meanwhile is created again.

    Args:
        target: a path, or '-' for stdout.
        max_bytes: size at which `target` becomes `target.1`, `target.1` becomes `target.2`, and so on.
        files: number of files to keep.
        header: first line of each file, and of what is written to a pipe.

    Attributes:
        path: of the plain file; None for anything else, once it is open.
    """

    def __init__(self, target: str, max_bytes: int = 10_000_000, files: int = 5, header: bytes = b"") -> None:
        self._target = target
        self._descriptor = None if target == "-" else descriptor_of(target)
        self._is_path = target != "-" and self._descriptor is None
        self.path = Path(os.path.realpath(target)) if self._is_path else None
        self._max_bytes: float = max_bytes
        self._files = files
        self._header = header
        self._file: IO[bytes] | None = None

    def __str__(self) -> str:
        return self._target if self._target != "-" else "stdout"

    @property
    def waits_for_reader(self) -> bool:
        """Whether the target is a pipe that has no reader now, so that it cannot be opened."""
        return self._file is None and self._is_fifo()

    def open(self) -> None:
        """Open the target, and create a file's folder if needed. Raises OSError; ENXIO if a pipe has no reader."""
        if not self._is_path:
            # The same open file: it has the position of everything else that is written there.
            descriptor = sys.stdout.fileno() if self._descriptor is None else self._descriptor
            self._file = os.fdopen(os.dup(descriptor), "wb", buffering=0)
            return
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        target = self.path or self._target
        # O_NONBLOCK: the kernel would wait for the reader of a pipe, perhaps for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(target, flags, 0o644)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISBLK(mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is a disk")
        if not stat.S_ISREG(mode):
            self.path = None
        os.set_blocking(descriptor, True)
        # Unbuffered, so that a write that fails leaves nothing behind that could fail again on close.
        self._file = os.fdopen(descriptor, "ab" if self.path else "wb", buffering=0)
        if self._header and not (self.path and self._file.tell()):
            self._write(self._header)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, line: bytes) -> None:
        """Write a line that ends with a newline, to a file completely or not at all.

        Raises:
            BrokenPipeError: the reader of the pipe has ended.
            OSError: no space, or the folder is gone; the file is closed, and opened again by the next call.
        """
        try:
            if not self._is_current():
                self.close()
                self.open()
            if self.path and self._file and self._file.tell() >= self._max_bytes:
                self._rotate(self.path)
            self._write(line)
        except OSError:
            self.close()
            raise

    def _is_fifo(self) -> bool:
        try:
            return self._is_path and stat.S_ISFIFO(os.stat(self.path or self._target).st_mode)
        except OSError:
            return False

    def _is_current(self) -> bool:
        """Whether the file is open, and the path still names it."""
        if self._file is None or self.path is None:
            return self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        if self.path is None:
            write_all(self._file, line)
            return
        written = self._file.write(line)
        if written != len(line):
            # Half a line would spoil the file for its readers.
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self, path: Path) -> None:
        self.close()
        try:
            self._rename(path)
        except OSError as error:
            # Such as a file that a container has mounted by itself, or a folder that this user may not write to.
            log.warning("the log %s cannot be rotated and grows on: %s", self, error.strerror)
            self._max_bytes = float("inf")
        self.open()

    def _rename(self, path: Path) -> None:
        for number in range(self._files - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.rename(path.with_name(f"{path.name}.{number + 1}"))
        if self._files > 1:
            path.rename(path.with_name(f"{path.name}.1"))
        else:
            path.unlink()
        path.with_name(f"{path.name}.{self._files}").unlink(missing_ok=True)
