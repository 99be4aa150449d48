"""Handles signals, systemd's notification socket and the journal's format."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, MutableMapping
from types import FrameType

log = logging.getLogger(__name__)

# timeout(1) and terminals send a signal to the process and to its group: two within this time count as one.
_SAME_REQUEST_S = 0.3


def on_stop_signals(request: Callable[[str], None]) -> None:
    """Call `request` with the name of the first SIGINT, SIGTERM or SIGHUP; a later one ends the process at once.

    `request` may interrupt the main thread anywhere, so it must take no lock. Under `nohup` SIGHUP stays ignored.
    """
    requested_at = 0.0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal requested_at
        now = time.monotonic()
        if requested_at and now - requested_at > _SAME_REQUEST_S:
            os._exit(128 + number)
        if not requested_at:
            requested_at = now
            request(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def on_reload_signal(
    reload: Callable[[], None], managed: bool, has_terminal: Callable[[], bool] = has_terminal
) -> None:
    """Call `reload` at SIGHUP under a service manager, or without a terminal that could hang up.

    Otherwise `on_stop_signals` decides what SIGHUP does. `reload` must take no lock either.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and (managed or not has_terminal()):
        signal.signal(signal.SIGHUP, lambda *_: reload())


def is_journal(descriptor: int) -> bool:
    """Return whether a descriptor writes to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalFormatter(logging.Formatter):
    """Formats a message with its sd-daemon(3) priority and without a time: the journal adds its own."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        """Return one line: the journal would store a second one as another record."""
        priority = next((priority for level, priority in self._PRIORITIES if record.levelno >= level), 7)
        return f"<{priority}>" + super().format(record).replace("\n", " | ")


class ServiceManager:
    """Sends sd_notify(3) messages to systemd; true if there is a service manager, otherwise every call does nothing.

    The socket's address is removed from `environ`, so that no child sends messages as this process.

    Attributes:
        watchdog_s: seconds without WATCHDOG=1 after which systemd restarts this process; None without a watchdog.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        limit, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_valid = limit.isdecimal() and int(limit) > 0 and pid in ("", str(os.getpid()))
        self.watchdog_s = int(limit) / 1e6 if is_valid and self._address else None

    def __bool__(self) -> bool:
        return bool(self._address)

    def notify(self, *assignments: str) -> None:
        """Send lines such as 'READY=1'. Never blocks and never raises: the run is more important than its report."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.debug("'%s' was not sent to the service manager: %s", assignments[0], error)
