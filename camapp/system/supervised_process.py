"""Runs a Python module in a child process at the other end of a socket, and restarts it if it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from camapp.system.process import blas_threads, signal_name

log = logging.getLogger(__name__)

# Capacity of a pipe, and the end of stderr that is kept to find its last line in.
_PIPE_BYTES, _STDERR_BYTES = 65536, 4096


class ChildProcess:
    """A running `python -m module` and this process's non-blocking end of a SEQPACKET socket to it.

    The child gets the number of its end as first argument, and has to exit once that end is closed. Its stdin and
    stdout are /dev/null, as the parent's stdout may carry the log.

    Args:
        module: to run.
        arguments: of the child after the socket's number.
        fds: further descriptors that it inherits, by the same numbers.
        threads: BLAS threads.
        wrapper: a command that starts the child, such as a kiosk's.
        environment: variables that the child gets unless the user has set them.
        keep_stderr: read the child's stderr for `exit_reason`, in `wait_readable`; otherwise it is the parent's.
        buffer_bytes: send buffer of both ends; 0 leaves the kernel's default.

    Attributes:
        socket: this process's end.
        started: monotonic seconds.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        fds: Sequence[int] = (),
        threads: int = 1,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        keep_stderr: bool = False,
        buffer_bytes: int = 0,
    ) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.socket, childs_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with childs_end:
                for end in (self.socket, childs_end) if buffer_bytes else ():
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
                self._process = subprocess.Popen(
                    # -P: never import from the current folder.
                    [*wrapper, sys.executable, "-P", "-m", module, str(childs_end.fileno()), *arguments],
                    pass_fds=[childs_end.fileno(), *fds],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE if keep_stderr else None,
                    # A terminal sends Ctrl-C and Ctrl-Z to the parent's group only.
                    process_group=0,
                    env={**(environment or {}), **os.environ, **blas_threads(threads), "PYTHONPATH": path},
                )
        except BaseException:
            self.socket.close()
            raise
        # A socket with a time limit would wait before it sends, and the caller's thread with it.
        self.socket.setblocking(False)
        self.started = time.monotonic()
        self.pid = self._process.pid
        self._stderr = self._process.stderr
        self._stderr_end = b""
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        if self._stderr is not None:
            os.set_blocking(self._stderr.fileno(), False)
            self._poll.register(self._stderr, select.POLLIN)

    def wait_readable(self, timeout: float) -> bool:
        """Return whether the socket can be read; wait up to `timeout` seconds for that, or for output to stderr."""
        ready = [fd for fd, _ in self._poll.poll(1000 * max(0.0, timeout))]
        if self._stderr is not None and self._stderr.fileno() in ready and not self._read_stderr():
            self._poll.unregister(self._stderr)
        return self.socket.fileno() in ready

    def hang_up(self) -> None:
        """Shut the socket down: the child reads its end and exits."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def end(self, grace_s: float) -> int:
        """Hang up, kill the child unless it exits within `grace_s` seconds, and return `Popen.returncode`."""
        self.hang_up()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.socket.close()
        if self._stderr is not None and not self._stderr.closed:
            self._read_stderr()
            self._stderr.close()
        return int(self._process.returncode)

    @property
    def exit_reason(self) -> str:
        """How an ended child exited, such as 'signal SIGKILL' or 'exit code 1: cannot open display'."""
        code = int(self._process.returncode)
        how = f"signal {signal_name(-code)}" if code < 0 else f"exit code {code}"
        lines = [line.strip() for line in self._stderr_end.decode(errors="replace").splitlines()]
        # OpenCV's Qt complains about missing fonts in any case.
        reasons = [line for line in lines if line and "font" not in line.lower()]
        return f"{how}: {reasons[-1]}" if reasons else how

    def _read_stderr(self) -> bytes:
        assert self._stderr is not None
        chunk = b""
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._stderr.fileno(), _PIPE_BYTES)
            self._stderr_end = (self._stderr_end + chunk)[-_STDERR_BYTES:]
        return chunk


class SupervisedProcess:
    """Keeps one child running from a background thread, and restarts it after a delay that doubles each time.

    Args:
        name: of the thread.
        spawn: starts the child; returns None if that is not possible now. Its OSError goes to `on_exit`.
        serve: talks to the child until its socket ends, it hangs, or `stopping` is set; then the child is ended.
        on_exit: called unless `stopping` is set, with the exit code (None if the child could not be started, or `serve`
            has failed) and a reason for the log; returns whether to start another.
        retry_s: shortest delay before the next start, seconds.
        max_retry_s: longest delay.
        grace_s: seconds that the child gets to exit before it is killed.

    Attributes:
        stopping: set by `stop`.
        child: the running child, if any.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[], ChildProcess | None],
        serve: Callable[[ChildProcess], None],
        on_exit: Callable[[int | None, str], bool],
        retry_s: float,
        max_retry_s: float = 30.0,
        grace_s: float = 1.0,
    ) -> None:
        self.stopping = threading.Event()
        self.child: ChildProcess | None = None
        self._spawn = spawn
        self._serve = serve
        self._on_exit = on_exit
        self._retry_s = self._delay_s = retry_s
        self._max_retry_s = max_retry_s
        self._grace_s = grace_s
        # The child has PR_SET_PDEATHSIG: the kernel kills it together with the thread that started it.
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    @property
    def running(self) -> bool:
        """Whether the child is kept running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the child in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the child; returns within twice the grace period even if that takes longer."""
        self.stopping.set()
        if (child := self.child) is not None:
            child.hang_up()
        if self._thread.is_alive():
            self._thread.join(2 * self._grace_s)

    def reset_delay(self) -> None:
        """Restart this child after the shortest delay: it works."""
        self._delay_s = 0.0

    def _supervise(self) -> None:
        while not self.stopping.is_set():
            try:
                child = self._spawn()
                code, reason = (None, "") if child is None else self._run(child)
            except OSError as error:
                code, reason = None, f"its process cannot be started or reached: {error}"
            except Exception as error:
                # Of `serve`, whose child has been ended; the next one may work.
                log.debug("traceback", exc_info=error)
                code, reason = None, f"{type(error).__name__}: {error}"
            if reason:
                self._delay_s = min(2 * self._delay_s, self._max_retry_s) or self._retry_s
                if not self.stopping.is_set() and not self._on_exit(code, reason):
                    return
            self.stopping.wait(self._delay_s)

    def _run(self, child: ChildProcess) -> tuple[int, str]:
        self.child = child
        try:
            if not self.stopping.is_set():  # `stop` may have found no child to hang up on
                self._serve(child)
        finally:
            self.child = None
            code = child.end(self._grace_s)
        return code, child.exit_reason
