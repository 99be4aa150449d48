"""Writes result files, one line for each image in order; a file is never overwritten, but can be continued."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from camapp.commands.classify.formats import COLUMNS, HEADERS
from camapp.core.errors import CamappError, ExitCode
from camapp.core.files import descriptor_of, write_all
from camapp.system.output_lock import OutputInUse, OutputLock

# Longest wait for the reader of a pipe, and between two looks for it, in seconds.
_READER_S, _LOOK_S = 10.0, 0.05


class ResultsError(CamappError):
    """A results file cannot be written or continued."""

    code = ExitCode.CONFIG


@dataclass(frozen=True)
class Target:
    """Names a file to write (None is stdout) and its format."""

    path: Path | None
    format: str


@dataclass
class Tally:
    """Counts the results so far: images with their line, those of them that could not be read, and the first of these.

    Attributes:
        predicted: (truth, predicted label) -> number of images; only images whose truth is known.
    """

    files: int = 0
    bad: int = 0
    first_bad: list[tuple[str, str]] = field(default_factory=list)
    predicted: Counter[tuple[str, str]] = field(default_factory=Counter)


class Results:
    """Writes the lines of a run to all targets.

    Args:
        model: name of the model; a file with lines of another model is not continued.
    """

    def __init__(self, targets: Sequence[Target], model: str, resume: bool) -> None:
        self._targets = targets
        self._model = model
        self._resume = resume
        self._files: list[IO[bytes]] = []
        self._locks: list[OutputLock] = []

    def open(self) -> tuple[set[str], Tally]:
        """Open the files; with `resume`, cut them to the images that are in all of them, and return those.

        Raises:
            ResultsError: a file exists (without `resume`), cannot be written, or does not hold results.
        """
        try:
            return self._opened()
        except BaseException:
            self.close()
            raise

    def write(self, lines: dict[str, bytes]) -> None:
        """Append to each file the lines in its format.

        Raises:
            BrokenPipeError: the reader of stdout has ended.
            ResultsError: a disk is full or absent.
        """
        for target, file in zip(self._targets, self._files, strict=True):
            try:
                write_all(file, lines[target.format])
            except BrokenPipeError:
                raise
            except OSError as error:
                where = target.path or "stdout"
                raise ResultsError(
                    f"cannot write {where}: {error.strerror}; free some space, then continue with --resume"
                ) from error

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        for lock in self._locks:
            lock.release()
        self._files, self._locks = [], []

    def _opened(self) -> tuple[set[str], Tally]:
        done: set[str] = set()
        tally = Tally()
        paths = [target.path for target in self._targets if target.path]
        if self._resume and len(paths) < len(self._targets):
            raise ResultsError("--resume needs a file to continue: give --csv or --jsonl a name")
        for path in paths:
            self._lock(path)
        if self._resume and any(path.exists() for path in paths):
            self._resume_from(done, tally)
        for target in self._targets:
            try:
                self._files.append(self._open_target(target, fresh=not done))
            except FileExistsError as error:
                raise ResultsError(
                    f"{target.path} exists: add --resume to continue it, or remove it to start again"
                ) from error
            except OSError as error:
                raise ResultsError(f"cannot write {target.path}: {error.strerror}; choose another place") from error
        tally.files = len(done)
        return done, tally

    def _lock(self, path: Path) -> None:
        """Lock a plain file, which two runs would spoil. Raises ResultsError."""
        if (path.exists() and not path.is_file()) or descriptor_of(str(path)) is not None:
            return
        lock = OutputLock(path, "classify")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OutputInUse as error:
            raise ResultsError(f"cannot write {path}: {error} writes it; choose another name") from error
        except OSError as error:
            raise ResultsError(f"cannot write {path}: {error.strerror}; choose another place") from error
        self._locks.append(lock)

    def _open_target(self, target: Target, fresh: bool) -> IO[bytes]:
        number = None if target.path is None else descriptor_of(str(target.path))
        if target.path is None or number is not None:
            file: IO[bytes] = os.fdopen(os.dup(sys.stdout.fileno() if number is None else number), "wb", buffering=0)
        else:
            if fresh and not self._resume and target.path.is_file():
                raise FileExistsError
            # Only regular files are protected: a device or a pipe is always written to.
            with _reader_of(target.path):
                file = open(target.path, "wb" if fresh else "ab", buffering=0)  # noqa: SIM115 - closed by close()
        if fresh:
            write_all(file, HEADERS[target.format].encode())
        return file

    def _resume_from(self, done: set[str], tally: Tally) -> None:
        ends = [0] * len(self._targets)
        columns = [_records(target) for target in self._targets]
        for records in zip(*columns, strict=False):
            rows = [row for _, row in records]
            first = rows[0]
            if any(row["file"] != first["file"] for row in rows):
                raise ResultsError(f"{self._names()} have different images: remove them to start again")
            if any(row["model"] != self._model for row in rows):
                raise ResultsError(
                    f"{self._names()} has results of model '{first['model']}', not '{self._model}': "
                    "remove it to start again, or use that model"
                )
            done.add(first["file"])
            tally.bad += bool(first["error"])
            if first["truth"] and not first["error"]:
                tally.predicted[first["truth"], first["label"]] += 1
            ends = [end for end, _ in records]
        for target, end in zip(self._targets, ends, strict=True):
            if target.path and target.path.exists():
                os.truncate(target.path, end)

    def _names(self) -> str:
        return " and ".join(str(target.path) for target in self._targets)


def _records(target: Target) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (position of its end, values) of each complete record of a file."""
    assert target.path is not None
    try:
        with target.path.open("rb") as file:
            lines = _Lines(file)
            if target.path.stat().st_size and not file.readline().endswith(b"\n"):
                raise ValueError("not one complete line")
            file.seek(0)
            yield from (_csv_records if target.format == "csv" else _jsonl_records)(lines)
    except OSError as error:
        raise ResultsError(f"cannot read {target.path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ResultsError(f"{target.path} does not hold results: remove it to start again") from error


class _Lines:
    """Iterates over the complete lines of a file as text, and counts the bytes read."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._file = iter(file)
        self.end = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            if not line.endswith(b"\n"):
                # The run was killed while it wrote this line.
                return
            self.end += len(line)
            yield line.decode()


def _csv_records(lines: _Lines) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines)
    if (header := next(reader, None)) is not None and tuple(header) != COLUMNS:
        raise ValueError("other columns")
    for values in reader:
        if len(values) < len(COLUMNS):
            # Likewise, in a name with a line end.
            return
        yield lines.end, dict(zip(COLUMNS, values, strict=True))


def _jsonl_records(lines: _Lines) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in lines:
        found = json.loads(line)
        yield lines.end, {name: found[name] for name in COLUMNS}


@contextmanager
def _reader_of(path: Path) -> Iterator[None]:
    """Wait until a pipe has a reader, and keep it while the pipe is opened, which would wait for ever without one.

    Raises:
        OSError: no reader comes.
    """
    give_up = time.monotonic() + _READER_S
    while path.is_fifo():
        try:
            # Closed too early, it would be the end of the file for the reader.
            held = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > give_up:
                raise OSError(error.errno, "no program reads this pipe") from error
        time.sleep(_LOOK_S)
    else:
        yield
        return
    try:
        yield
    finally:
        os.close(held)
