"""A file of lines that is rotated by size, and holds whole lines only."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO


class RotatingFile:
    """Appends lines to a file or to stdout.

    A file that was moved or deleted meanwhile is created again.

    Args:
        target: a path, or '-' for stdout, which is not rotated.
        max_bytes: size at which `target` becomes `target.1`, `target.1` becomes `target.2`, and so on.
        files: number of files to keep.
    """

    def __init__(self, target: str, max_bytes: int = 10_000_000, files: int = 5) -> None:
        self.path = None if target == "-" else Path(target)
        self._max_bytes = max_bytes
        self._files = files
        self._file: IO[bytes] | None = None

    def __str__(self) -> str:
        return str(self.path or "stdout")

    def open(self) -> None:
        """Open the file, and create its folder if needed. Raises OSError."""
        if self.path is None:
            self._file = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a write that fails leaves nothing behind that could fail again on close.
            self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, line: bytes) -> None:
        """Write a line that ends with a newline, completely or not at all.

        Raises:
            BrokenPipeError: stdout has no reader any more.
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
        written = self._file.write(line)
        if written != len(line):
            if self.path:
                # Half a line would spoil the file for its readers.
                self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self, path: Path) -> None:
        self.close()
        for number in range(self._files - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.rename(path.with_name(f"{path.name}.{number + 1}"))
        if self._files > 1:
            path.rename(path.with_name(f"{path.name}.1"))
        else:
            path.unlink()
        path.with_name(f"{path.name}.{self._files}").unlink(missing_ok=True)
        self.open()
