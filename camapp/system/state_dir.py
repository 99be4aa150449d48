"""What outlasts a run: the state directory, the page's token, and what a remote face changed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from camapp.core.errors import CamappError, SettingsError
from camapp.core.files import write_atomic
from camapp.core.image_ops import Roi
from camapp.core.settings import Settings, checked

log = logging.getLogger(__name__)

_REMEMBERED = "remembered.json"
_TOKEN = "web-token"
_TOKEN_BYTES = 24
_LARGEST = 1 << 20


class StateError(CamappError):
    """The state directory cannot be used."""


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """systemd's for this service, else the user's own."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "camapp"


def web_token(folder: Path) -> tuple[str, bool]:
    """The page's token, made if there is none yet; and whether it was made now.

    Raises:
        StateError: it can be neither read nor made, or others can read it.
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
                raise StateError(f"{path} can be read by others: chmod 600 it, or delete it to have a new one made")
            token = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise StateError(f"cannot keep the page's token in {path}: {error.strerror}") from error
    if len(token) < _TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise StateError(f"{path} holds no token: delete it to have a new one made")
    return token, False


def remembered(settings: Settings, folder: Path) -> Settings:
    """The settings with what a remote face changed, where they themselves say nothing."""
    if settings.roi is not None:
        return settings
    raw = _cameras(folder).get(settings.name, {}).get("roi")
    if raw is None:
        return settings
    try:
        roi = checked("roi", raw, str(folder / _REMEMBERED))
        log.info(
            "%s looks at the region that was chosen on its page: %s (%s)", settings.name, raw, folder / _REMEMBERED
        )
        return replace(settings, roi=roi)
    except SettingsError as error:
        log.warning("%s; it is ignored", error)
        return settings


def remember_roi(folder: Path, camera: str, roi: Roi | None) -> None:
    """Keep a camera's region for the next start; None forgets it.

    Raises:
        OSError: the disk does not take it.
    """
    cameras = _cameras(folder)
    of_one = {name: value for name, value in cameras.get(camera, {}).items() if name != "roi"}
    cameras[camera] = of_one | ({"roi": list(roi)} if roi is not None else {})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _REMEMBERED, (json.dumps({"cameras": cameras}, indent=1) + "\n").encode())


def _cameras(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _REMEMBERED
    try:
        with path.open("rb") as file:
            cameras = json.loads(file.read(_LARGEST))["cameras"]
        return {str(name): dict(values) for name, values in cameras.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used and is ignored: %s", path, error)
        return {}


def _write_new(path: Path, text: str) -> None:
    """A file that only its owner can read, whole from the start. Raises FileExistsError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.link(partial, path)  # unlike a rename, it refuses to take another's place
    finally:
        partial.unlink()
