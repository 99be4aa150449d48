"""The prediction log: JSON Lines or CSV, written in a background thread, so that a slow card delays nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

from camapp.core.errors import SinkError
from camapp.core.events import Situation
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import compact_json, prediction_record
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.log_formats import as_csv, is_csv
from camapp.sinks.rotating_file import RotatingFile
from camapp.sinks.sink import PredictionSink, refusals
from camapp.system.output_lock import OutputLock

log = logging.getLogger(__name__)


class LogSink(BackgroundSink[str], PredictionSink):
    """Writes one JSON object per prediction, or one row of CSV if the file's name ends in .csv.

    A full disk or a vanished folder costs lines, which are counted, never the run: writing is retried every
    `retry_s`, and the lines that fit into memory meanwhile are written then.

    Args:
        context: returns the fields of the run that are added to each record.
        heartbeat: write only predictions that change the label or the objects in sight, and one after each such number
            of seconds without any; None writes all.
        on_broken_pipe: called when stdout or a pipe has lost its reader.
        blocking: wait for the writer, at most 10 s, instead of losing lines (for files, whose frames can wait).
        flush_s: how long lines collect in memory, for stdout 0.1 s at most: one wake-up per line costs 0.09 ms of CPU.
        owner: name of the run, for another one that names the same file.
    """

    def __init__(
        self,
        file: RotatingFile,
        context: Callable[[], Mapping[str, object]],
        heartbeat: float | None = None,
        on_broken_pipe: Callable[[], None] = lambda: None,
        blocking: bool = False,
        capacity: int = 2000,
        flush_s: float = 1.0,
        retry_s: float = 1.0,
        owner: str = "camera",
    ) -> None:
        linger_s = flush_s if file.path else min(flush_s, 0.1)
        super().__init__("log", capacity, newest=True, blocking=blocking, wait_s=10.0, linger_s=linger_s)
        self._file = file
        self._line = as_csv if is_csv(str(file)) else compact_json
        self._context = context
        self._heartbeat = heartbeat
        self._situation = Situation()
        self._due = 0.0
        self._on_broken_pipe = on_broken_pipe
        self._retry_s = retry_s
        self._failing = False
        self._owner = owner
        self._lock: OutputLock | None = None

    def start(self) -> None:
        """Open the file and lock it; a pipe without a reader is opened once it has one. Raises SinkError."""
        if str(self._file) == "stdout" and sys.stdout is None:
            raise SinkError("--log -: standard output is closed; name a file")
        with refusals(f"cannot write the log {self._file}", "; give --log another path", self._file.close):
            try:
                self._file.open()
            except OSError:
                if not self._file.waits_for_reader:
                    raise
                log.warning("the log %s is a pipe without a reader; lines wait for one", self._file)
                self._failing = True
            else:
                if self._file.path is not None:
                    self._lock = OutputLock(self._file.path, self._owner)
                    self._lock.acquire()
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue one line, if this prediction is to be written; by the trace's monotonic clock."""
        changed = False
        if self._heartbeat is not None:
            now = trace.captured / 1e9
            changed = self._situation.update(prediction, frame, trace)
            if not changed and now < self._due:
                return
            self._due = now + self._heartbeat
        record = prediction_record(prediction, frame, trace, changed) | dict(self._context())
        self.lost += not self.put(self._line(record))

    def stop(self) -> None:
        """Write what is queued and close."""
        super().stop()
        self.lost += self.pending
        if self.lost:
            log.warning("the log lost %d lines that could not be written", self.lost)

    def _handle(self, item: str) -> None:
        try:
            # A file name that is not UTF-8 becomes a valid JSON escape.
            self._file.append(item.encode("utf-8", "backslashreplace") + b"\n")
        except BrokenPipeError:
            # The reader, such as `head`, has ended.
            self._on_broken_pipe()
            self.close()
        except OSError as error:
            if not self._failing:
                log.error(
                    "cannot write the log %s: %s; the run continues, lost lines are counted; free some space",
                    *(self._file, error.strerror),
                )
            self._failing = True
            self.requeue(item)
            if self.stopping.is_set():
                self.close()
            self.stopping.wait(self._retry_s)
        else:
            if self._failing:
                log.warning("the log %s is written again; %d lines lost so far", self._file, self.lost)
            self._failing = False

    def _finish(self) -> None:
        self._file.close()
        if self._lock is not None:
            self._lock.release()
