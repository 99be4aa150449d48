"""What every request passes before it is answered: whose it is, where it comes from, and what browsers are told."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camapp.remote.web.connection_limits import ConnectionLimiter

log = logging.getLogger(__name__)

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With "no-referrer" browsers would send the login form with an origin of "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
# What the login form itself is made of.
_OPEN_PATHS = frozenset({"/login", "/page.css", "/icon.svg"})
_COOKIE_DAYS = 30
# Wrong tokens that one address may give within so many seconds; addresses remembered.
_TRIES, _TRIES_S, _ADDRESSES = 5, 60.0, 1024


class TokenAuth:
    """The token: who has it may come in.

    Args:
        token: "" lets everybody in.
        port: of the page: browsers keep one jar of cookies for all ports of a machine.
        clock: seconds.
    """

    def __init__(self, token: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.needed = bool(token)
        self.cookie = f"camapp-{port}"
        self._token = token.encode()
        # A stolen cookie does not tell the token; a new token file makes all cookies void.
        self._session = hmac.new(self._token, b"camapp session", hashlib.sha256).hexdigest()
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def try_token(self, token: str, address: str) -> bool:
        """Whether this is it; a wrong one counts against the address."""
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return True
        failures = self._failures.setdefault(address, [])
        failures.append(self._clock())
        del failures[:-_TRIES]
        self._failures.move_to_end(address)
        while len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)
        return False

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try a token again; 0 is now."""
        failures = self._failures.get(address, [])
        if len(failures) < _TRIES:
            return 0.0
        return max(0.0, failures[0] + _TRIES_S - self._clock())

    def admits(self, headers: Headers, address: str) -> bool:
        """Whether a request with these headers has the token, or the cookie that stands for it."""
        if not self.needed:
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            morsel = None
        if morsel is not None and hmac.compare_digest(morsel.value.encode("utf-8", "replace"), self._session.encode()):
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and not self.wait_s(address) and self.try_token(token.strip(), address)

    def let_in(self, response: Response) -> None:
        """Give a browser its cookie."""
        seconds = _COOKIE_DAYS * 86400
        response.set_cookie(self.cookie, self._session, max_age=seconds, path="/", httponly=True, samesite="strict")

    def let_out(self, response: Response) -> None:
        """Take it back."""
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")


class HostCheck:
    """Names this machine may be called by. Any other would be a page of somebody else's that was pointed at us."""

    def __init__(self, more: Collection[str] = ()) -> None:
        own = socket.gethostname().lower()
        short = own.partition(".")[0]
        self._names = {"localhost", own, short, f"{short}.local", *(name.lower().rstrip(".") for name in more)}

    def knows(self, host: str) -> bool:
        """Whether a Host header is one of them, or an IP address: no name leads to that."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            valid = not set(host) & set("/?#@\\") and urlsplit(f"//{host}").port != 0
        except ValueError:
            return False
        if not valid:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._names
        return True


class AuthMiddleware:
    """Stands before the application.

    Args:
        app: what is guarded.
        keys: who may come in.
        hosts: what we are called.
        doors: is told which connections are busy.
        refused: called with the reason of each refusal.
    """

    def __init__(
        self, app: ASGIApp, keys: TokenAuth, hosts: HostCheck, doors: ConnectionLimiter, refused: Callable[[str], None]
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._doors = doors
        self._refused = refused
        self._said: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._doors.busy(scope):
            refusal = self._refusal(scope)
            if refusal is None:
                await self._answer(scope, receive, send)
            elif scope["type"] == "websocket":
                await receive()  # its opening
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        finished = False

        async def watched(message: Message) -> None:
            nonlocal finished
            await send(message)
            finished = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, _with_headers(watched))
        except (OSError, ClientDisconnect):
            log.debug("a visitor is gone", exc_info=True)
        except Exception as error:  # noqa: BLE001 - told here, once a kind: uvicorn would tell it of each request
            self._complain(scope, error)
            if not finished:  # what answers has said 500 already, if it still could
                await self._doors.expel(scope)

    def _complain(self, scope: Scope, error: Exception) -> None:
        kind = type(error).__name__
        if kind not in self._said:
            self._said.add(kind)
            log.error("the page failed at %r (said once a kind)", scope["path"], exc_info=error)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not self._hosts.knows(headers["host"]):
            return self._refuse("host", 421, "this machine is not known by that name; --web-hosts NAME adds it")
        if _is_foreign(scope, headers):
            return self._refuse("origin", 403, "requests from another site's pages are refused")
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] not in ("/login", "/logout"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return self._refuse("content type", 415, "send application/json")
        if scope["path"] not in _OPEN_PATHS:
            return self._unknown_visitor(scope, headers)
        return None

    def _unknown_visitor(self, scope: Scope, headers: Headers) -> Response | None:
        address = scope["client"][0] if scope.get("client") else ""
        if self._keys.admits(headers, address):
            return None
        if scope.get("method") == "GET" and scope["path"] == "/":
            return RedirectResponse("/login", 303)
        if headers.get("authorization") and (wait := self._keys.wait_s(address)):
            refusal = self._refuse("too many tries", 429, "too many wrong tokens; wait a minute")
            refusal.headers["retry-after"] = str(int(wait) + 1)
            return refusal
        refusal = self._refuse("token", 401, "the token is needed: log in at /login, or Authorization: Bearer TOKEN")
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _refuse(self, reason: str, code: int, text: str) -> Response:
        self._refused(reason)
        return JSONResponse({"error": text}, code)


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Whether another site's page makes a browser ask this: nothing but following a link to us is let through."""
    origin = headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != headers["host"]:
            return True
    except ValueError:  # such as "http://["
        return True
    site = headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return False
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (is_link and scope.get("method") == "GET")


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sender
