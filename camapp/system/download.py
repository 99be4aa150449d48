"""Downloads a file: resumable, checked against its checksum, and moved into place only when complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from camapp import __version__
from camapp.core.errors import CamappError, ExitCode

Progress = Callable[[int, int], None]
"""Called with (bytes so far, total bytes or 0 if the server does not send it)."""

# Seconds: for a connection and the head of an answer with all redirects; without a byte; and a window in which at
# least MIN_BYTES have to arrive.
OPEN_S, READ_S, WINDOW_S = 60.0, 30.0, 60.0
MIN_BYTES = 32 << 10
CHUNK = 1 << 16
# Bytes of a file whose size is not known.
MAX_BYTES = 4 << 30
# Bytes that stay free on the disk.
SPARE = 16 << 20


class DownloadError(CamappError):
    """A file cannot be downloaded; the message names its address and where to put it by hand."""

    code = ExitCode.SOURCE_GONE


class _Wrong(Exception):
    """The server's answer is not the rest of the file; what has arrived is of no use."""


def fetch(url: str, to: Path, sha256: str, progress: Progress = lambda done, total: None, size: int = 0) -> Path:
    """Download `url` to the file `to`, or leave `to` unchanged.

    A partial download is kept beside it as `<name>.part`, and a later call continues it.

    Args:
        sha256: of the file, in hexadecimal: whole, or its first digits.
        size: bytes of the file; 0 if not known.

    Raises:
        DownloadError: no network, the server refuses, is too slow or sends another file, the disk is full, or another
            program downloads the same file.
    """
    by_hand = f"or get it on another machine and put it at {to}"
    part = to.with_name(f"{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            _check_space(part, size)
            _receive(_Job(url, size, file, progress))
            found = _checksum(file)
            if not found.startswith(sha256) and file.resumed:
                # The beginning may be of an older file: once more from the start.
                file.restart()
                _receive(_Job(url, size, file, progress))
                found = _checksum(file)
            if not found.startswith(sha256):
                raise _Wrong(f"its checksum is {found[:16]}..., not {sha256[:16]}...: it changed, or was damaged")
            os.fsync(file.handle.fileno())
            os.chmod(part, 0o644)
            part.replace(to)
    except _Wrong as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} does not send the published file: {error}; try again later, {by_hand}") from error
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
        raise DownloadError(f"cannot download {url}: {reason}; try again later, {by_hand}") from error
    except (http.client.HTTPException, urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError) as error:
        cause = getattr(error, "reason", None) or error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise DownloadError(
            f"cannot download {url} ({reason}): go online and try again (it resumes), {by_hand}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)  # a full disk would stop other programs
        failed = DownloadError(f"cannot write {part}: {error.strerror or error}")
        failed.code = ExitCode.DENIED if isinstance(error, PermissionError) else failed.code
        raise failed from error
    return to


@dataclass
class _Part:
    """The file being written, locked for this process; `resumed` if it held something at the start."""

    handle: BinaryIO
    resumed: bool

    @property
    def have(self) -> int:
        return os.fstat(self.handle.fileno()).st_size

    def restart(self) -> None:
        if self.have:
            self.handle.truncate(0)
        self.resumed = False


@dataclass(frozen=True)
class _Job:
    url: str
    size: int
    file: _Part
    progress: Progress


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[_Part]:
    with part.open("ab+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"another program is downloading {part}: wait for its end") from error
        # Another program may have completed and moved it between the two steps.
        if not part.exists() or not os.path.samestat(os.fstat(handle.fileno()), part.stat()):
            raise DownloadError(f"another program has just downloaded {part.with_suffix('')}: try again")
        yield _Part(handle, os.fstat(handle.fileno()).st_size > 0)


def _check_space(part: Path, size: int) -> None:
    needed = size - part.stat().st_size + SPARE
    free = shutil.disk_usage(part.parent).free
    if size and free < needed:
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"{part.parent} has {free / 1e6:.0f} MB left, and {needed / 1e6:.0f} MB are needed: make room"
        )


def _checksum(file: _Part) -> str:
    file.handle.flush()
    file.handle.seek(0)
    total = hashlib.sha256()
    while chunk := file.handle.read(CHUNK):
        total.update(chunk)
    return total.hexdigest()


def _receive(job: _Job) -> None:
    """Append the rest of the file, or all of it if the server knows no ranges."""
    file = job.file
    if job.size and file.have > job.size:
        file.restart()
    if job.size and file.have == job.size:
        return
    try:
        response = _opened(job.url, file.have)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not file.have:
            raise
        # Either the file had arrived completely, which its checksum will tell, or it is another one.
        return
    with response:
        total = _begin(response, job)
        _copy(response, job, total)
    if total and file.have < total:
        raise ConnectionError(f"the connection ended after {file.have} of {total} bytes")


def _begin(response: http.client.HTTPResponse, job: _Job) -> int:
    """Check the head of an answer, drop what it does not continue, and return the total of bytes; 0 if not stated."""
    file = job.file
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if start is None or int(start[1]) != file.have:
            raise _Wrong("it answers with another part than was requested")
    else:
        file.restart()
    if "html" in response.headers.get_content_subtype():
        raise _Wrong("it answers with a web page, such as the log-in page of a network")
    length = response.headers.get("Content-Length", "")
    total = file.have + int(length) if length.isdecimal() else 0
    if job.size and total and total != job.size:
        raise _Wrong(f"it offers {total:,} bytes instead of {job.size:,}")
    return total or job.size


def _copy(response: http.client.HTTPResponse, job: _Job, total: int) -> None:
    have = job.file.have
    limit = total or MAX_BYTES
    window, arrived = time.monotonic(), 0
    while chunk := response.read1(CHUNK):
        if not have and chunk.lstrip()[:1] == b"<":
            raise _Wrong("it answers with a web page, such as the log-in page of a network")
        have += len(chunk)
        arrived += len(chunk)
        if have > limit:
            raise _Wrong(f"it sends more than {limit:,} bytes")
        job.file.handle.write(chunk)
        job.progress(have, total)
        if time.monotonic() > window + WINDOW_S:
            if arrived < MIN_BYTES:
                raise TimeoutError(f"only {arrived} bytes in {WINDOW_S:.0f} s")
            window, arrived = time.monotonic(), 0
    job.file.handle.flush()


def _opened(url: str, have: int) -> http.client.HTTPResponse:
    """Request a file from byte `have` on, and return the answer once its head has arrived, at most OPEN_S later."""
    headers = {"User-Agent": f"camapp/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    found: list[http.client.HTTPResponse | BaseException] = []

    def work() -> None:
        try:
            found.append(urllib.request.build_opener(_Redirects).open(request, timeout=READ_S))
        except BaseException as error:  # noqa: BLE001 - raised again below
            found.append(error)

    # A thread, since neither the look-up of a name nor a head that comes byte by byte has a limit of its own.
    thread = threading.Thread(target=work, name="download", daemon=True)
    thread.start()
    thread.join(OPEN_S)
    if not found:
        raise TimeoutError(f"no answer within {OPEN_S:.0f} s")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to an address without encryption."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it redirects to {newurl:.80}, without encryption")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
