"""Runs a user's program when the label changes: to ring a bell, set a pin, call a script."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

_GRACE_S = 1.0
_TICK_S = 0.05


class LabelCommandSink(PredictionSink):
    """Starts the program with CAMAPP_LABEL, CAMAPP_SCORE and CAMAPP_SEQ in its environment.

    It runs on each change to a label that is not empty, one at a time; of changes that come too fast the newest is
    kept. Its output goes to stderr. No shell reads the command: write `sh -c '...'` for one.

    Args:
        command: the program and its arguments, quoted as in a shell.
        every: least seconds from one start to the next.
        bound: seconds after which a run is killed.

    Raises:
        SinkError: there is no such program.
    """

    def __init__(self, command: str, every: float = 1.0, bound: float = 10.0) -> None:
        self.started = 0
        self.failed = 0
        self._words = _program(command)
        self._every = every
        self._bound = bound
        self._label = ""
        self._wanted: Prediction | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="on-label", daemon=True)

    def start(self) -> None:
        """Be ready."""
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Note a changed label."""
        if prediction.label == self._label:
            return
        self._label = prediction.label
        if prediction.label:
            with self._changed:
                self._wanted = prediction
                self._changed.notify()

    def stop(self) -> None:
        """Wait a second for a program that runs, then kill it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(2 * _GRACE_S)

    def _serve(self) -> None:
        next_start = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._stopping)
                # Within the pause a newer label replaces the one that waits.
                self._changed.wait_for(lambda: self._stopping, max(0.0, next_start - time.monotonic()))
                if self._stopping:
                    return
                wanted, self._wanted = self._wanted, None
            next_start = time.monotonic() + self._every
            if wanted is not None:
                self._run(wanted)

    def _run(self, prediction: Prediction) -> None:
        environ = {
            **os.environ,
            "CAMAPP_LABEL": prediction.label.replace("\0", ""),
            "CAMAPP_SCORE": f"{prediction.score:.4f}",
            "CAMAPP_SEQ": str(prediction.seq),
        }
        try:
            # stdout may carry the prediction log, so what the program says joins ours on stderr.
            child = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=2, env=environ, start_new_session=True, close_fds=True
            )
        except OSError as error:
            self._complain(f"cannot start: {error.strerror}")
            return
        self.started += 1
        code = self._await(child)
        if code is None:
            self._complain(
                "it was killed at the end of the run" if self._stopping else f"killed after {self._bound:g} s"
            )
        elif code < 0:
            self._complain(f"ended by signal {signal.Signals(-code).name}")
        elif code:
            self._complain(f"exit code {code}")

    def _await(self, child: subprocess.Popen[bytes]) -> int | None:
        """The exit code, or None where the program had to be killed, with all that it started."""
        deadline = time.monotonic() + self._bound
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_TICK_S)
            if self._stopping:
                deadline = min(deadline, time.monotonic() + _GRACE_S - _TICK_S)
            if time.monotonic() > deadline:
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(_GRACE_S)
        return None

    def _complain(self, what: str) -> None:
        self.failed += 1
        # The 1st, 2nd, 4th, 8th ... failure: a bell that is broken all day does not fill the log.
        if self.failed & (self.failed - 1) == 0:
            log.warning("--on-label '%s': %s (%d of %d runs failed)", self._words[0], what, self.failed, self.started)


def _program(command: str) -> list[str]:
    """The program and its arguments. Raises SinkError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SinkError(f"--on-label: cannot read the command {command!r}: {error}") from error
    if not words:
        raise SinkError("--on-label: the command is empty; name a program")
    if shutil.which(words[0]) is None:
        exists = os.path.isfile(words[0])
        why = "is not executable; try 'chmod +x'" if exists else "was not found"
        raise SinkError(f"--on-label: the program '{words[0]}' {why}", denied=exists)
    return words
