"""Opens HTTP streams with a bound on every wait: redirects, TLS, and Basic and Digest authentication."""

from __future__ import annotations

import contextlib
import http.client
import logging
import math
import os
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import (
    AbstractDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    Request,
    parse_http_list,
    parse_keqv_list,
)

from camapp.capture.decode_errors import denied, not_found, refused, unknown_host, unreachable
from camapp.capture.source import EndOfStream, redacted
from camapp.core.errors import SourceLost
from camapp.core.log_once import LogOnce

log = logging.getLogger(__name__)

_MAX_REDIRECTS = 5
_CHUNK = 65536
_STEP_S = 0.1
# Seconds to connect: a host that is up answers within a fraction.
_CONNECT_S = 5.0
_warn = LogOnce(log)


class HttpStream:
    """Receives the body of one answer; a guard thread cuts the connection when the time is over or the run stops.

    Args:
        uri: with user and password, if any.
        deadline: monotonic second by which the answer's head must have come; `read` sets later ones.
        stopping: ends every wait.

    Attributes:
        kind: the answer's Content-Type without parameters, in lower case.
        length: of the body; None if the answer does not say it.

    Raises:
        SourceLost, SourceDenied: no answer, or one that is no success; the message says why.
        EndOfStream: the run stops.
    """

    def __init__(self, uri: str, deadline: float, stopping: threading.Event, *, has_worked: bool = False) -> None:
        self._uri, self._stopping, self._has_worked = uri, stopping, has_worked
        self._deadline = deadline
        self._sock: socket.socket | None = None
        self._is_closed = threading.Event()
        self._cut_off = False
        threading.Thread(target=self._guard, name="http", daemon=True).start()
        try:
            self._response = self._request()
        except BaseException:
            self.close()
            raise
        self.kind = self._response.headers.get_content_type() if self._response.headers["Content-Type"] else ""
        self.length = self._response.length

    def read(self, deadline: float) -> bytes:
        """Return the next bytes; b"" at the end.

        Raises:
            TimeoutError: none came by the monotonic second `deadline`.
            EndOfStream: the run stops.
        """
        self._deadline = deadline
        try:
            data = self._response.read1(_CHUNK)
        except (OSError, ValueError, http.client.HTTPException):
            data = b""
        # The caller may take longer than this until it reads again.
        self._deadline = math.inf
        if not data and self._stopping.is_set():
            raise EndOfStream("stopped")
        if not data and self._cut_off:
            raise TimeoutError
        return data

    def has_data(self) -> bool:
        """Return whether bytes have arrived that `read` would return at once."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poll = select.poll()
        if self._sock is not None:
            poll.register(self._sock, select.POLLIN)
        return any(events & select.POLLIN for _, events in poll.poll(0))

    def close(self) -> None:
        """Hang up."""
        self._is_closed.set()
        self._cut()
        if self._sock is not None:
            self._sock.close()

    def _guard(self) -> None:
        while not self._is_closed.wait(_STEP_S):
            late = time.monotonic() > self._deadline
            if late or self._stopping.is_set():
                self._cut_off |= late
                self._cut()

    def _cut(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                # That of SSLSocket would also end TLS, while another thread uses it.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _request(self) -> http.client.HTTPResponse:
        """Follow redirects and answer a request for a password."""
        url, authorization, answered = urlsplit(self._uri), "", False
        own_host = url.hostname
        user, password = (unquote(text) if text else "" for text in (url.username, url.password))
        for _ in range(_MAX_REDIRECTS + 2):
            response = self._get(url, authorization)
            if response.status in (301, 302, 303, 307, 308) and (target := response.headers["Location"]):
                url, authorization = self._redirected(url, target), ""
            elif response.status == 401 and url.username is None and url.hostname != own_host:
                raise denied(self._uri, has_worked=self._has_worked)
            elif response.status == 401 and user and not answered and url.hostname == own_host:
                authorization, answered = self._authorization(url, response, user, password), True
            elif response.status == 200:
                return response
            else:
                raise self._failure(response)
            response.close()
        raise SourceLost(f"{redacted(self._uri)} redirects in a circle: give the final address")

    def _redirected(self, url: SplitResult, target: str) -> SplitResult:
        try:
            found = urlsplit(urljoin(urlunsplit(url), target))
            # Raises ValueError if it is no number up to 65535.
            _ = found.port
        except ValueError as error:
            raise SourceLost(f"{redacted(self._uri)} redirects to {redacted(target)}, which is no address") from error
        return found

    def _get(self, url: SplitResult, authorization: str) -> http.client.HTTPResponse:
        if url.scheme not in ("http", "https") or not url.hostname:
            raise SourceLost(f"{redacted(self._uri)} redirects to {redacted(urlunsplit(url))}, which is not HTTP")
        self._sock = self._connect(url)
        connection = http.client.HTTPConnection(url.hostname, url.port)
        connection.sock = self._sock
        headers = {"User-Agent": "camapp", "Accept": "*/*", "Connection": "close"}
        if authorization:
            headers["Authorization"] = authorization
        try:
            connection.request("GET", _target(url), headers=headers)
            return connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._broken(error) from error

    def _connect(self, url: SplitResult) -> socket.socket:
        address = redacted(urlunsplit(url))
        port = url.port or (443 if url.scheme == "https" else 80)
        if self._sock is not None:
            self._sock.close()
        error: OSError = TimeoutError()
        for family, *_, place in _resolve(url.hostname or "", port, self._deadline, self._stopping):
            sock = socket.socket(family)
            sock.settimeout(max(0.1, min(_CONNECT_S, self._deadline - time.monotonic())))
            try:
                sock.connect(place)
                sock.settimeout(None)
                return self._encrypted(sock, url.hostname or "") if url.scheme == "https" else sock
            except ssl.SSLError as problem:
                sock.close()
                raise SourceLost(f"{address}: the encryption fails ({problem.reason}): try http://") from problem
            except OSError as problem:
                sock.close()
                error = problem
        if self._stopping.is_set():
            raise EndOfStream("stopped")
        raise refused(address) if isinstance(error, ConnectionRefusedError) else unreachable(address)

    def _encrypted(self, sock: socket.socket, host: str) -> socket.socket:
        """Start TLS. Few cameras have a certificate that can be verified, so that one cannot be required."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _warn(logging.INFO, host, "the certificate of %s is not verified", host)
        # Lets the guard end the handshake.
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        return context.wrap_socket(sock, server_hostname=host)

    def _authorization(self, url: SplitResult, response: Any, user: str, password: str) -> str:
        """Return the header that answers a challenge."""
        challenges = {item.partition(" ")[0].lower(): item for item in response.headers.get_all("WWW-Authenticate", ())}
        if "digest" in challenges:
            plain = urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
            passwords = HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, plain, user, password)
            handler = AbstractDigestAuthHandler(passwords)
            fields = parse_keqv_list(parse_http_list(challenges["digest"].partition(" ")[2]))
            answer = handler.get_authorization(Request(plain), fields)
            if answer:
                return f"Digest {answer}"
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def _failure(self, response: http.client.HTTPResponse) -> Exception:
        if response.status in (401, 403):
            return denied(self._uri, has_worked=self._has_worked)
        if response.status in (404, 410):
            return not_found(self._uri)
        return SourceLost(
            f"{redacted(self._uri)} answers with {response.status} {response.reason}: it may be starting, or have too "
            "many viewers"
        )

    def _broken(self, error: Exception) -> Exception:
        if self._stopping.is_set():
            return EndOfStream("stopped")
        if self._cut_off:
            return TimeoutError()
        if isinstance(error, http.client.BadStatusLine) and str(error):
            return SourceLost(f"{redacted(self._uri)} does not speak HTTP: check scheme and port")
        return SourceLost(f"{redacted(self._uri)} hangs up instead of answering: check port and path")


def _resolve(host: str, port: int, deadline: float, stopping: threading.Event) -> list[Any]:
    """Return the addresses of a host. The system's look-up has no bound of its own."""
    found: list[Any] = []
    problems: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            problems.append(error)

    thread = threading.Thread(target=look_up, name="dns", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_STEP_S / 2)
        if stopping.is_set():
            raise EndOfStream("stopped")
        if time.monotonic() > deadline:
            raise TimeoutError
    if problems:
        raise unknown_host(f"http://{host}")
    return found


def _target(url: SplitResult) -> str:
    path = url.path or "/"
    # What a URI may not contain, and a user may write nevertheless.
    target = f"{path}?{url.query}" if url.query else path
    return "".join(
        char if 32 < ord(char) < 127 else "".join(f"%{byte:02X}" for byte in char.encode()) for char in target
    )
