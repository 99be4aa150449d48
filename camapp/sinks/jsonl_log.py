"""The prediction log: JSON Lines, rotated by size, written by its own thread: a slow card delays nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import prediction_record
from camapp.core.predictions import Prediction
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

# Seconds a line may wait in memory; lines kept while the disk does not answer.
_FLUSH_FILE, _FLUSH_STDOUT = 1.0, 0.1
_KEEP = 2000
_RETRY = 1.0
_TICK = 0.05
# The longest that a patient writer of lines waits for room.
_PATIENCE = 10.0


class LogSink(PredictionSink):
    """Writes one JSON object a prediction.

    A full disk or a vanished folder costs lines, which are counted, never the run: writing is tried again every
    second, and what fits into memory meanwhile is written then.

    Args:
        target: a path, or '-' for stdout.
        source: gives the source's URI, for the records.
        rate: gives the inference rate.
        max_bytes: size at which `target` becomes `target.1`, and so on.
        files: how many of these to keep.
        on_broken_pipe: called when stdout's reader went away.
        patient: wait for the writer instead of losing lines (for files, whose frames can wait).
        heartbeat: None writes every prediction; else only those that change the label, and one after so many seconds
            without any.
        camera: its name, for the records.
    """

    def __init__(
        self,
        target: str,
        source: Callable[[], str],
        rate: Callable[[], float],
        max_bytes: int = 10_000_000,
        files: int = 5,
        on_broken_pipe: Callable[[], None] = lambda: None,
        patient: bool = False,
        heartbeat: float | None = None,
        camera: str = "camera",
    ) -> None:
        self.lost = 0
        self._path = None if target == "-" else Path(target)
        self._source = source
        self._rate = rate
        self._max_bytes = max_bytes
        self._files = files
        self._on_broken_pipe = on_broken_pipe
        self._patient = patient
        self._heartbeat = heartbeat
        self._camera = camera
        self._label: str | None = None
        self._beat_at = 0.0
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._file: IO[bytes] | None = None
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def start(self) -> None:
        """Open the file. Raises SinkError."""
        if self._path is None and sys.stdout is None:
            raise SinkError("--log -: standard output is closed; name a file")
        try:
            self._open()
        except OSError as error:
            raise SinkError(
                f"cannot write the log {self._path}: {error.strerror}; give --log another place",
                denied=error.errno in (errno.EACCES, errno.EPERM, errno.EROFS),
            ) from error
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue one line, if this prediction is to have one."""
        if self._heartbeat is not None and not self._is_news(prediction, trace, self._heartbeat):
            return
        line = json.dumps(self._record(prediction, frame, trace), ensure_ascii=False, separators=(",", ":"))
        with self._changed:
            if self._patient and not self._failing:
                self._changed.wait_for(lambda: len(self._lines) < _KEEP or self._failing or self._stopping, _PATIENCE)
            if len(self._lines) >= _KEEP:
                self._lines.popleft()
                self.lost += 1
            self._lines.append(line)
            if len(self._lines) == _KEEP // 2:
                self._changed.notify_all()

    def stop(self) -> None:
        """Write what is queued and close."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self.lost += len(self._lines)
        if self.lost:
            log.warning("the log lost %d lines that could not be written", self.lost)

    def _is_news(self, prediction: Prediction, trace: Trace, heartbeat: float) -> bool:
        now = trace.captured / 1e9
        if prediction.label == self._label and now < self._beat_at:
            return False
        self._label, self._beat_at = prediction.label, now + heartbeat
        return True

    def _record(self, prediction: Prediction, frame: Frame, trace: Trace) -> dict[str, Any]:
        own = {"camera": self._camera, "source": self._source(), "fps": round(self._rate(), 2)}
        return prediction_record(prediction, frame, trace) | own

    def _write_all(self) -> None:
        interval = _FLUSH_FILE if self._path else _FLUSH_STDOUT
        next_try = 0.0
        stopping = False
        while not stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._lines) >= _KEEP // 2, interval)
                stopping = self._stopping
            if self._failing and not stopping and time.monotonic() < next_try:
                time.sleep(_TICK)
                continue
            try:
                self._write()
            except BrokenPipeError:
                self._on_broken_pipe()  # the reader, such as `head`, has seen enough
                break
            except OSError as error:
                next_try = time.monotonic() + _RETRY
                self._note_failure(error)
        self._close()

    def _note_failure(self, error: OSError) -> None:
        with self._changed:
            said, self._failing = self._failing, True
            self._changed.notify_all()
        if not said:
            log.error(
                "cannot write the log %s: %s; predictions go on, lost lines are counted; free some space",
                self._path or "to stdout",
                error.strerror,
            )

    def _write(self) -> None:
        with self._changed:
            lines, self._lines = self._lines, deque()
            self._changed.notify_all()
        if not lines:
            return
        try:
            if self._file is not None and self._path is not None and not _is_same(self._file, self._path):
                self._close()  # somebody moved or deleted it
            if self._file is None:
                self._open()
            while lines:
                assert self._file is not None
                # A file name that is not UTF-8 becomes a valid JSON escape.
                self._append(self._file, lines[0].encode("utf-8", "backslashreplace") + b"\n")
                lines.popleft()
                if self._path and self._file.tell() >= self._max_bytes:
                    self._rotate()
        except OSError:
            self._close()
            self._put_back(lines)
            raise
        if self._failing:
            self._failing = False
            log.warning("the log %s is written again; %d lines lost so far", self._path or "on stdout", self.lost)

    def _put_back(self, lines: deque[str]) -> None:
        with self._changed:
            self._lines.extendleft(reversed(lines))
            while len(self._lines) > _KEEP:
                self._lines.popleft()
                self.lost += 1

    def _append(self, file: IO[bytes], line: bytes) -> None:
        written = file.write(line)
        if written != len(line):
            if self._path:
                file.truncate(file.tell() - written)  # half a line would spoil the file for its readers
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> None:
        if self._path is None:
            self._file = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a write that fails leaves nothing behind that could fail again on close.
            self._file = self._path.open("ab", buffering=0)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rotate(self) -> None:
        assert self._path is not None
        self._close()
        for number in range(self._files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.rename(self._path.with_name(f"{self._path.name}.{number + 1}"))
        if self._files > 1:
            self._path.rename(self._path.with_name(f"{self._path.name}.1"))
        else:
            self._path.unlink()
        self._path.with_name(f"{self._path.name}.{self._files}").unlink(missing_ok=True)
        self._open()


def _is_same(file: IO[bytes], path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
