"""Errors that a user can cause, each with the exit code of its kind."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with; see sysexits.h. systemd does not restart a unit on CONFIG."""

    OK = 0
    USAGE = 2
    SOURCE_GONE = 69
    INTERNAL = 70
    DENIED = 77
    CONFIG = 78
    INTERRUPTED = 130


class SettingsError(Exception):
    """A setting that cannot be used. `usage` tells a wrong command line from a wrong file or environment."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class SourceError(Exception):
    """No pictures from here; the message says what to do. `PermanentSourceError` and `SourceLost` say if to retry."""


class PermanentSourceError(SourceError):
    """Trying again cannot help: no such file, a bad URI, a missing package."""


class BadSource(PermanentSourceError):
    """The URI or its options are wrong, whatever is plugged in."""


class SourceDenied(PermanentSourceError):
    """The device or file exists, but this user may not read it."""


class SourceLost(SourceError):
    """The device is busy, absent or silent now; it may come back."""


class SinkError(Exception):
    """A sink cannot be used as asked: the message says what to do. `denied` means a lack of permission."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


class PoolError(Exception):
    """The workers cannot go on: they would not start, or the restart budget is spent."""
