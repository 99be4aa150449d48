"""Downloads a file: resumable, checked against its checksum, and moved into place only when complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from weights import WeightsError

Progress = Callable[[int, int], None]
"""Called with (bytes so far, total bytes or 0 if the server does not send it)."""

TIMEOUT_S = 30.0
CHUNK = 1 << 16
RANGE_NOT_SATISFIABLE = 416


def fetch(url: str, to: Path, sha256: str, progress: Progress = lambda done, total: None) -> Path:
    """Download `url` to the file `to`, or leave `to` unchanged.

    A partial download is kept beside it as `<name>.part`, and a later call continues it.

    Raises:
        WeightsError: no network, the server refuses, the disk does, or the checksum is wrong.
    """
    part = to.with_name(to.name + ".part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part, progress)
        found = checksum(part)
        if found != sha256:
            part.unlink()
            raise WeightsError(
                f"{url}: checksum expected {sha256[:16]}..., found {found[:16]}...; it was removed: try again, "
                f"or put the right file at {to}"
            )
        part.replace(to)
    except (http.client.HTTPException, urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"cannot download {url} ({reason}): go online and try again (it resumes), or put the file at {to}"
        ) from error
    except OSError as error:
        raise WeightsError(f"cannot write {part}: {error.strerror or error}") from error
    return to


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not have:
            raise
        # The file had arrived completely: the checksum decides.
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        left = int(response.headers.get("Content-Length") or 0)
        total = have + left if left else 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
