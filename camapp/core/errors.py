"""Defines the errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Names the exit codes of the process; see sysexits.h. systemd does not restart a unit after CONFIG."""

    OK = 0
    USAGE = 2
    SOURCE_GONE = 69
    INTERNAL = 70
    DENIED = 77
    CONFIG = 78
    INTERRUPTED = 130


class CamappError(Exception):
    """Is the base of all errors that camapp raises on purpose; the message is one line with the remedy.

    Attributes:
        code: exit code of the command line.
    """

    code = ExitCode.INTERNAL


class SettingsError(CamappError):
    """A setting cannot be used. With `usage` it came from the command line, else from a file or variable.

    Attributes:
        parts: the messages, if several settings cannot be used.
    """

    def __init__(self, *parts: str, usage: bool = False) -> None:
        super().__init__("; ".join(parts))
        self.parts = parts
        self.usage = usage
        self.code = ExitCode.USAGE if usage else ExitCode.CONFIG


class SourceError(CamappError):
    """The source gives no images. The subclasses `PermanentSourceError` and `SourceLost` decide about a retry."""

    code = ExitCode.SOURCE_GONE


class PermanentSourceError(SourceError):
    """A retry cannot help: no such file, a bad URI, a missing package."""


class BadSource(PermanentSourceError):
    """The URI or its options are wrong, independent of the devices present."""

    code = ExitCode.CONFIG


class SourceDenied(PermanentSourceError):
    """The device or file exists, but this user may not read it."""

    code = ExitCode.DENIED


class SourceLost(SourceError):
    """The device is busy, absent or silent now; a retry may help."""


class SourceAbsent(SourceLost):
    """Nothing is there to connect to: unplugged, unknown host, refused port. A retry costs nothing."""


class SinkError(CamappError):
    """An output cannot be used as requested. `denied` means a lack of permission."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied
        self.code = ExitCode.DENIED if denied else ExitCode.CONFIG


class PoolError(CamappError):
    """The workers do not start, or the restart budget is spent."""
