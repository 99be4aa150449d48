"""Writes a recording to files that never replace another, and finishes what a killed run has left."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from camapp.core.errors import SinkError
from camapp.core.files import create_new
from camapp.sinks import avi, mp4
from camapp.sinks.avi import AviWriter
from camapp.sinks.mp4 import Codec, Mp4Writer
from camapp.sinks.sink import refusals
from camapp.system.output_lock import OutputLock

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".avi")
# Seconds of images in a file, and bytes: MP4's offsets have 32 bits, as have the sizes of FAT, which sticks use.
_LONGEST_S = 3600.0
_MAX_BYTES = {".mp4": 2 << 30, ".avi": avi.MAX_BYTES}
# A power cut loses about this number of seconds at most.
_SYNC_S = 5.0


class AnyWriter(Protocol):
    """Writes encoded images to one file."""

    @property
    def bytes_written(self) -> int:
        """Number of bytes in the file so far."""

    def __len__(self) -> int:
        """Return the number of images."""

    def add(self, data: bytes) -> None:
        """Append an image. Raises OSError."""

    def finish(self) -> None:
        """Write the tables of the file. Raises OSError."""


def writer_for(file: IO[bytes], codec: Codec | None, size: tuple[int, int], fps: float, first: bytes) -> AnyWriter:
    """Return the writer for a stream that begins with the image `first`: MP4, or AVI for images without a codec.

    Raises:
        OSError: the file cannot be written.
        ValueError: the stream cannot be stored.
    """
    return AviWriter(file, size, fps) if codec is None else Mp4Writer(file, codec, size, fps, first)


class FilmFiles:
    """Writes encoded images to `film.mp4`; if that exists, to `film-2.mp4`, and so on.

    Codes of `strftime` in the path, such as `%Y-%m-%d`, become the time at which a file begins. After an hour, or
    before it is too large for a FAT file system, the film continues in a new file, at a key image.

    Args:
        path: ends in one of SUFFIXES.
        owner: name of the run, for another one that names the same path.
        longest_s: seconds of images in a file.

    Raises:
        SinkError: the path has another suffix.
    """

    def __init__(self, path: Path, owner: str = "camera", longest_s: float = _LONGEST_S) -> None:
        self._suffix = path.suffix.lower()
        if self._suffix not in SUFFIXES:
            raise SinkError(f"cannot record to '{path}': the name must end in {' or '.join(SUFFIXES)}")
        self._pattern = path
        self._longest_s = longest_s
        self._lock = OutputLock(_lock_target(path), owner)
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._writer: AnyWriter | None = None
        self._codec: Codec | None = None
        self._size, self._fps = (0, 0), 1.0
        self._sync_at = 0.0

    @property
    def path(self) -> Path:
        """Return the path of the present file, or the one that was given if there is none."""
        return self._path or self._pattern

    def start(self) -> None:
        """Lock the path, finish a file that a killed run has left, and create the first file. Raises SinkError."""
        what = f"cannot record to '{self._pattern}'"
        if self._pattern.is_dir():
            raise SinkError(f"{what}: it is a folder")
        with refusals(what, "; give --record another path", self._lock.release):
            _lock_target(self._pattern).parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if self._lock.left:
                _finish_left(Path(self._lock.left))
            self._create()

    def begin(self, codec: Codec | None, size: tuple[int, int], fps: float) -> None:
        """Expect images of another stream; they begin a new file, unless the present one has none yet."""
        if self._writer is not None:
            self.end()
        self._codec, self._size, self._fps = codec, size, fps

    def add(self, data: bytes) -> None:
        """Write an image.

        Raises:
            OSError: there is no space, or the folder is gone; the film up to here can be played.
            ValueError: the stream cannot be stored.
        """
        if self._is_full() and (self._codec is None or self._codec.is_key(data)):
            self.end()
        if self._writer is None:
            self._open(data)
        assert self._writer is not None
        assert self._file is not None
        self._writer.add(data)
        if (now := time.monotonic()) >= self._sync_at:
            self._sync_at = now + _SYNC_S
            os.fdatasync(self._file.fileno())

    def end(self) -> None:
        """Finish the present file. Without space for its tables, it stays playable as it is, with a warning."""
        if self._file is None:
            return
        frames = len(self._writer) if self._writer is not None else 0
        try:
            if self._writer is not None:
                self._writer.finish()
            self._file.close()
        except OSError as error:
            log.warning("'%s' can be played, but jumping to a time may not work: %s", self.path, error.strerror)
            with contextlib.suppress(OSError):
                self._file.close()
        if frames:
            log.info("recorded %d frames (%.1f s) to '%s'", frames, frames / self._fps, self.path)
        elif self._path is not None:
            self._path.unlink(missing_ok=True)
        self._path = self._file = self._writer = None
        self._lock.note("")

    def close(self) -> None:
        """Finish the present file and unlock the path."""
        self.end()
        self._lock.release()

    def _is_full(self) -> bool:
        writer = self._writer
        return writer is not None and (
            len(writer) >= self._longest_s * self._fps or writer.bytes_written >= _MAX_BYTES[self._suffix]
        )

    def _create(self) -> None:
        path = create_new(expanded(self._pattern))
        self._path = Path(os.path.realpath(path))
        self._lock.note(str(self._path))
        self._file = self._path.open("r+b", buffering=0)

    def _open(self, first: bytes) -> None:
        if self._file is None:
            self._create()
        assert self._file is not None
        self._writer = writer_for(self._file, self._codec, self._size, self._fps, first)
        self._sync_at = time.monotonic() + _SYNC_S


def expanded(path: Path) -> Path:
    """Return a path with the codes of `strftime` replaced by the present time; `%%` is a percent sign."""
    if "%" not in str(path):
        return path
    try:
        return Path(time.strftime(str(path)))
    except ValueError:
        return path


def _lock_target(path: Path) -> Path:
    """Return the path that stands for all files of a pattern: in the first folder whose name is fixed."""
    variable = next((number for number, part in enumerate(path.parts) if "%" in part), None)
    if variable is None:
        return path
    return Path(*path.parts[:variable], "_".join(path.parts[variable:]))


def _finish_left(path: Path) -> None:
    """Finish a file of a killed run; a film is never worth an error at the start."""
    finish: Callable[[Path], int | None] = (mp4 if path.suffix.lower() == ".mp4" else avi).finish_left_file
    try:
        frames = finish(path)
        if frames:
            log.info("finished '%s' with %d frames, which a killed run has left", path, frames)
        elif frames == 0 or not path.stat().st_size:
            path.unlink()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        log.warning("'%s', which a killed run has left, cannot be finished: %s", path, error)
