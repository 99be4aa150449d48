"""Keeps data for the next start: the state directory, the page's token, what a client chose, what a run learned."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from camapp.core.errors import CamappError, SettingsError
from camapp.core.files import write_atomic
from camapp.core.settings import Settings, checked
from camapp.system.output_lock import OutputInUse, OutputLock

log = logging.getLogger(__name__)

# Settings that a remote client can change for the next start, and what they are called.
KEPT = {"roi": "region", "zone": "zones", "line": "counting lines"}
_REMEMBERED, _LEARNED = "remembered.json", "learned"
_TOKEN = "web-token"
_TOKEN_BYTES = 24
_MAX_BYTES = 1 << 20
# Longest wait for another run that changes the remembered values, in seconds.
_LOCK_S = 2.0


class StateError(CamappError):
    """The state directory cannot be used."""


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return systemd's state directory of this service, otherwise the user's."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "camapp"


def web_token(folder: Path) -> tuple[str, bool]:
    """Return the page's token, created if there is none yet, and whether it is new.

    Raises:
        StateError: it can neither be read nor created, or other users can read it.
    """
    path = folder / _TOKEN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            _write_new(path, token + "\n")
            return token, True
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StateError(f"{path} can be read by other users: chmod 600 it, or delete it to get a new one")
            token = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise StateError(f"cannot keep the page's token in {path}: {error.strerror}") from error
    if len(token) < _TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise StateError(f"{path} contains no token: delete it to get a new one")
    return token, False


def remembered(settings: Settings, folder: Path) -> Settings:
    """Return the settings with the region, zones and lines that a remote client chose, unless they set their own."""
    kept, where = _cameras(folder).get(settings.name, {}), folder / _REMEMBERED
    for name, what in KEPT.items():
        raw = kept.get(name)
        if raw is None or getattr(settings, name):
            continue
        try:
            chosen: dict[str, Any] = {name: checked(name, raw, str(where))}
            settings = replace(settings, **chosen)
            # As an option takes it.
            shown = ",".join(map(str, chosen[name]))
            log.info("%s uses the %s chosen on its page: %s (%s)", settings.name, what, shown, where)
        except SettingsError as error:
            log.warning("%s; it is ignored", error)
    return settings


def recollected(folder: Path, camera: str, source: str) -> dict[str, float]:
    """Return what an earlier run has learned of a camera, by name; {} if it had another source, or learned nothing."""
    kept = _cameras(folder).get(camera, {}).get(_LEARNED)
    values = kept[0] if isinstance(kept, list) and kept and isinstance(kept[0], dict) else {}
    if values.get("source") != source:
        return {}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def recollect(folder: Path, camera: str, source: str, learned: Mapping[str, float]) -> None:
    """Save what a run has learned of a camera. Raises OSError."""
    remember(folder, camera, _LEARNED, [{"source": source, **learned}])


def remember(folder: Path, camera: str, name: str, value: Sequence[object] | None) -> None:
    """Save a value, such as a setting in `KEPT`, for a camera's next start; None or an empty value deletes it.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Another run changes the same file: without the lock, one of two changes would be lost.
    lock = OutputLock(folder / _REMEMBERED, camera)
    _acquire(lock)
    try:
        _remember(folder, camera, name, value)
    finally:
        lock.release()


def _acquire(lock: OutputLock) -> None:
    give_up = time.monotonic() + _LOCK_S
    while True:
        try:
            return lock.acquire()
        except OutputInUse as error:
            if time.monotonic() > give_up:
                raise OSError(errno.EBUSY, f"{error} writes it") from error
        time.sleep(0.01)


def _remember(folder: Path, camera: str, name: str, value: Sequence[object] | None) -> None:
    cameras = _cameras(folder)
    other_values = {key: kept for key, kept in cameras.get(camera, {}).items() if key != name}
    cameras[camera] = other_values | ({name: list(value)} if value else {})
    write_atomic(folder / _REMEMBERED, (json.dumps({"cameras": cameras}, indent=1) + "\n").encode())


def _cameras(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _REMEMBERED
    try:
        with path.open("rb") as file:
            cameras = json.loads(file.read(_MAX_BYTES))["cameras"]
        return {str(name): dict(values) for name, values in cameras.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used and is ignored: %s", path, error)
        return {}


def _write_new(path: Path, text: str) -> None:
    """Create a file that only its owner can read, complete from the start. Raises FileExistsError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            # Without it, a power cut would leave an empty file, with which no later start could serve the page.
            os.fsync(descriptor)
        os.link(partial, path)  # unlike a rename, it does not replace an existing file
    finally:
        partial.unlink()
