"""What a run and its service manager say to each other: signals, exit codes, and systemd's notification socket."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, MutableMapping
from types import FrameType

log = logging.getLogger(__name__)


# timeout(1) and terminals send a signal to the process and to its group: two of them mean one.
_SAME_REQUEST_S = 0.3


def on_stop_signals(request: Callable[[str], None]) -> None:
    """Call `request` with the name of the first SIGINT, SIGTERM or SIGHUP; a later one ends the process at once.

    `request` runs between any two steps of the main thread, so it must take no lock. Under `nohup` SIGHUP stays
    ignored.
    """
    asked_at = 0.0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at and now - asked_at > _SAME_REQUEST_S:
            os._exit(128 + number)
        if not asked_at:
            asked_at = now
            request(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def on_hang_up(reload: Callable[[], None], managed: bool) -> None:
    """Make SIGHUP a request to reload where nobody can hang up: under a service manager, or without a terminal.

    Elsewhere it stays what `on_stop_signals` made of it. `reload` must take no lock either.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and (managed or not _has_terminal()):
        signal.signal(signal.SIGHUP, lambda *_: reload())


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def is_journal(descriptor: int) -> bool:
    """Whether what is written there goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalFormatter(logging.Formatter):
    """The message with its priority as sd-daemon(3) has it; the journal has its own clock."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        """One line: the journal would take a second one for another record."""
        priority = next((priority for level, priority in self._PRIORITIES if record.levelno >= level), 7)
        return f"<{priority}>" + super().format(record).replace("\n", " | ")


class ServiceManager:
    """systemd's side of sd_notify(3), or nobody's: then every call does nothing.

    The socket's address is taken out of `environ`, so that no child speaks in this process's name.

    Attributes:
        watchdog_s: seconds after which an unfed watchdog restarts this process; None where there is none.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        limit, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = limit.isdecimal() and int(limit) > 0 and pid in ("", str(os.getpid()))
        self.watchdog_s = int(limit) / 1e6 if ours and self._address else None

    def __bool__(self) -> bool:
        return bool(self._address)

    def notify(self, *assignments: str) -> None:
        """Send lines such as 'READY=1'. Never blocks and never raises: the run matters more than its report."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.debug("the service manager was not told '%s': %s", assignments[0], error)
