"""Keeps two runs, or two cameras of one run, from writing the same output."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from pathlib import Path

# Longest file name of Linux's file systems, in bytes.
_MAX_NAME = 255
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class OutputInUse(Exception):
    """Another run writes this output; the message names it."""


class OutputLock:
    """Locks a file or a folder by a hidden file: `.NAME.lock` beside a file, `.lock` in a folder.

    The kernel releases the lock with the process that holds it, however that process ends. A hidden file that a killed
    run has left therefore locks nothing. It is removed by `release`.

    Args:
        output: path of the output; several names of the same file are one output.
        owner: name of the run for the error message of another one.

    Attributes:
        left: what a run that was killed has noted last; "" if none was.
    """

    def __init__(self, output: Path, owner: str) -> None:
        self._output = Path(os.path.realpath(output))
        in_folder = self._output.is_dir()
        self._file = self._output / ".lock" if in_folder else self._output.with_name(_lock_name(self._output.name))
        self._owner = f"camapp '{owner}' (process {os.getpid()})"
        self._descriptor: int | None = None
        self.left = ""

    def acquire(self) -> None:
        """Lock the output; on a file system without locks, do nothing.

        Raises:
            OutputInUse: another run holds the lock.
            OSError: there is neither the hidden file nor the output, and this user may not create them.
        """
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hidden = self._file != self._output
                holder = _lines(descriptor)[0] if hidden else ""
                os.close(descriptor)
                raise OutputInUse(holder or "another program") from None
            except OSError as error:
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    return
                raise
            # The holder before may have removed the file between the two steps.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._file.stat()):
                    break
            os.close(descriptor)
        self._descriptor = descriptor
        if self._file == self._output:
            return
        # Without a release the file is still there.
        self.left = _lines(descriptor)[1]
        self.note("")

    def note(self, text: str) -> None:
        """Note a line for the next run that acquires this lock, in case this run is killed."""
        # Another user's file can be locked, but not written.
        with contextlib.suppress(OSError):
            if self._descriptor is not None and self._file != self._output:
                content = f"{self._owner}\n{text}\n".encode(errors="surrogateescape")
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, content, 0)
                os.fsync(self._descriptor)

    def release(self) -> None:
        """Unlock the output; does nothing if it is not locked."""
        if self._descriptor is not None:
            if self._file != self._output:
                with contextlib.suppress(OSError):
                    self._file.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._file, os.O_RDWR | os.O_CREAT | flags, 0o644)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        with contextlib.suppress(OSError):
            return os.open(self._file, os.O_RDONLY | flags)
        self._file = self._output
        return os.open(self._file, os.O_RDONLY | flags)


def _lines(descriptor: int) -> tuple[str, str]:
    """Return the name of the holder, and what it has noted."""
    owner, _, noted = os.pread(descriptor, 1 << 16, 0).decode(errors="surrogateescape").partition("\n")
    return owner, noted.removesuffix("\n")


def _lock_name(name: str) -> str:
    hidden = f".{name}.lock"
    if len(os.fsencode(hidden)) > _MAX_NAME:
        hidden = f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.lock"
    return hidden
