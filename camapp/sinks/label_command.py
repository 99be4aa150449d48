"""Runs a user's program when an event begins, such as a new label: to ring a bell, set a pin, call a script."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable

from camapp.core.errors import SinkError
from camapp.core.events import Event, Trigger
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import PredictionSink
from camapp.system.process import signal_name

log = logging.getLogger(__name__)

# How long a program may continue after `stop`.
_GRACE_S = 1.0
_TICK_S = 0.05


class LabelCommandSink(BackgroundSink[tuple[list[Event], int]], PredictionSink):
    """Starts a program that finds the event in its environment.

    CAMAPP_CAMERA, CAMAPP_LABEL, CAMAPP_SCORE, CAMAPP_COUNT, CAMAPP_EVENT and CAMAPP_SEQ describe it.

    It runs once for each event, one run at a time; if they come too fast, only those of the newest frame are kept. Its
    output goes to stderr. No shell reads the command: write `sh -c '...'` to use one.

    Args:
        command: the program and its arguments, quoted as in a shell.
        every: minimum number of seconds between two starts.
        timeout_s: seconds after which a run is killed.
        camera: name of the camera.
        events: labels, `*` for any, and comparisons such as `person>2`; see `camapp.core.events`.

    Attributes:
        started: runs.
        lost: runs that failed.

    Raises:
        SinkError: the program does not exist, or an event cannot be parsed.
    """

    def __init__(
        self,
        command: str,
        every: float = 1.0,
        timeout_s: float = 10.0,
        events: Iterable[str] = ("*",),
        camera: str = "",
    ) -> None:
        super().__init__("on-label", 1, 2 * _GRACE_S, newest=True)
        self.started = 0
        self._command = _parsed(command)
        self._camera = camera
        self._every = every
        self._timeout_s = timeout_s
        self._trigger = Trigger(events, "--on-label-when")

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue the events that begin."""
        if events := self._trigger.begins(prediction, frame, trace):
            self.put((events, prediction.seq))

    def _handle(self, item: tuple[list[Event], int]) -> None:
        events, seq = item
        for event in events:
            if self.stopping.is_set():
                return
            next_start = time.monotonic() + self._every
            if (failure := self._run(event, seq)) and self.lose(failure):
                name = self._command[0]
                log.warning("--on-label '%s': %s (%d of %d runs failed)", name, failure, self.lost, self.started)
            # Newer events replace queued ones meanwhile.
            self.stopping.wait(max(0.0, next_start - time.monotonic()))

    def _run(self, event: Event, seq: int) -> str:
        """Run the program; return what went wrong, or ''."""
        environ = {
            **os.environ,
            "CAMAPP_CAMERA": self._camera,
            "CAMAPP_LABEL": event.label.replace("\0", ""),
            "CAMAPP_SCORE": f"{event.score:.4f}",
            "CAMAPP_COUNT": str(event.count),
            "CAMAPP_EVENT": event.name.replace("\0", ""),
            "CAMAPP_SEQ": str(seq),
        }
        try:
            # To stderr, because stdout may carry the prediction log.
            child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=2, env=environ, start_new_session=True, close_fds=True
            )
        except OSError as error:
            return f"cannot start: {error.strerror}"
        self.started += 1
        code = self._wait(child)
        if code is None:
            return "killed at the end of the run" if self.stopping.is_set() else f"killed after {self._timeout_s:g} s"
        if code < 0:
            return f"ended by signal {signal_name(-code)}"
        return f"exit code {code}" if code else ""

    def _wait(self, child: subprocess.Popen[bytes]) -> int | None:
        """Return the exit code, or None if the program and its children had to be killed."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_TICK_S)
            if self.stopping.is_set():
                deadline = min(deadline, time.monotonic() + _GRACE_S - _TICK_S)
            if time.monotonic() > deadline:
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(_GRACE_S)
        return None


def _parsed(command: str) -> list[str]:
    """Return the program and its arguments. Raises SinkError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SinkError(f"--on-label: cannot read the command {command!r}: {error}") from error
    if not words:
        raise SinkError("--on-label: the command is empty; name a program")
    if shutil.which(words[0]) is None:
        exists = os.path.isfile(words[0])
        hint = "was not found; it is a program to run, and --on-label-when LABEL says when"
        reason = "is not executable; try 'chmod +x'" if exists else hint
        raise SinkError(f"--on-label: the program '{words[0]}' {reason}", denied=exists)
    return words
