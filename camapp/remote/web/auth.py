"""Checks every request (Host, origin, token), and adds security headers to every answer."""

from __future__ import annotations

import base64
import binascii
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
# The login form and its parts.
_OPEN_PATHS = frozenset({"/login", "/page.css", "/icon.svg"})
_COOKIE_DAYS = 30
# Wrong tokens that one address may send within `_TRIES_S` seconds; number of addresses whose failures are kept.
_TRIES, _TRIES_S, _ADDRESSES = 5, 60.0, 1024


class TokenAuth:
    """Checks the token, or the cookie that stands for it.

    Args:
        token: "" accepts every request.
        port: of the page; it is part of the cookie's name, because cookies are shared by all ports of a host.
        clock: returns seconds.

    Attributes:
        needed: whether there is a token.
        cookie: name of the cookie.
    """

    def __init__(self, token: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.needed = bool(token)
        self.cookie = f"camapp-{port}"
        self._token = token.encode()
        # The token cannot be derived from a stolen cookie; a new token invalidates all cookies.
        self._session = hmac.new(self._token, b"camapp session", hashlib.sha256).hexdigest()
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def try_token(self, token: str, address: str) -> bool:
        """Return whether this is the token; a wrong one counts as a failure of the address."""
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
        """Return the seconds until the address may try a token again; 0 is now."""
        failures = self._failures.get(address, [])
        if len(failures) < _TRIES:
            return 0.0
        return max(0.0, failures[0] + _TRIES_S - self._clock())

    def admits(self, headers: Headers, address: str) -> bool:
        """Return whether these headers hold the token, or the cookie that stands for it."""
        if not self.needed:
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            morsel = None
        if morsel is not None and hmac.compare_digest(morsel.value.encode("utf-8", "replace"), self._session.encode()):
            return True
        token = _token_of(headers.get("authorization", ""))
        return token is not None and not self.wait_s(address) and self.try_token(token, address)

    def set_cookie(self, response: Response) -> None:
        """Give a browser the cookie that stands for the token."""
        seconds = _COOKIE_DAYS * 86400
        # Without a path, a browser takes that of the login form: behind a proxy, several cameras may have one host.
        response.set_cookie(self.cookie, self._session, max_age=seconds, path=None, httponly=True, samesite="strict")

    def clear_cookie(self, response: Response) -> None:
        """Delete the cookie."""
        response.set_cookie(self.cookie, "", max_age=0, path=None, httponly=True, samesite="strict")


def _token_of(authorization: str) -> str | None:
    """Return the token of an Authorization header: after Bearer, or the password of Basic; None if it has neither."""
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode("utf-8", "surrogateescape")
            except (binascii.Error, ValueError):
                return None
            return pair.partition(":")[2] or None
    return None


class HostCheck:
    """Allows the names of this machine and `names` as Host headers; rejects all others (DNS rebinding)."""

    def __init__(self, names: Collection[str] = ()) -> None:
        own = socket.gethostname().lower()
        short = own.partition(".")[0]
        self._names = {"localhost", own, short, f"{short}.local", *(name.lower().rstrip(".") for name in names)}

    def allows(self, host: str) -> bool:
        """Return whether a Host header is allowed; an IP address is, because DNS cannot redirect it."""
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
    """Checks each request before the application gets it, and adds the security headers to each answer.

    It also marks the busy connections of the limiter, and calls `on_refused` with the reason of each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        auth: TokenAuth,
        hosts: HostCheck,
        limiter: ConnectionLimiter,
        on_refused: Callable[[str], None],
    ) -> None:
        self.app = app
        self._auth = auth
        self._hosts = hosts
        self._limiter = limiter
        self._on_refused = on_refused
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._limiter.busy(scope):
            refusal = self._refusal(scope)
            if refusal is None:
                await self._answer(scope, receive, send)
            elif scope["type"] == "websocket":
                # The opening handshake comes first.
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        finished = False

        async def send_and_note(message: Message) -> None:
            nonlocal finished
            await send(message)
            finished = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self.app(scope, receive, _with_headers(send_and_note))
        except (OSError, ClientDisconnect):
            log.debug("a client has disconnected", exc_info=True)
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._logged:
                self._logged.add(kind)
                log.error("the page failed at %r (logged once per kind)", scope["path"], exc_info=error)
            # Starlette has sent a 500 already, unless the answer had begun.
            if not finished:
                await self._limiter.drop(scope)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not self._hosts.allows(headers["host"]):
            return self._refuse("host", 421, "that is not a name of this machine; --web-hosts NAME adds it")
        if _is_foreign(scope, headers):
            return self._refuse("origin", 403, "requests from another site's pages are refused")
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] not in ("/login", "/logout"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return self._refuse("content type", 415, "send application/json")
        if scope["path"] not in _OPEN_PATHS:
            return self._token_refusal(scope, headers)
        return None

    def _token_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        address = scope["client"][0] if scope.get("client") else ""
        if self._auth.admits(headers, address):
            return None
        if scope.get("method") == "GET" and scope["path"] == "/":
            return RedirectResponse("login", 303)
        if headers.get("authorization") and (wait := self._auth.wait_s(address)):
            refusal = self._refuse("too many tries", 429, "too many wrong tokens; wait a minute")
            refusal.headers["retry-after"] = str(int(wait) + 1)
            return refusal
        refusal = self._refuse(
            "token", 401, "the token is needed: log in at /login, or send it as Bearer, or as the password of Basic"
        )
        # Programs such as ffmpeg send a password only if Basic is offered; a browser would open a dialog over the page.
        if not headers.get("user-agent", "").startswith("Mozilla/"):
            refusal.headers.append("www-authenticate", 'Basic realm="camapp", charset="UTF-8"')
        refusal.headers.append("www-authenticate", "Bearer")
        return refusal

    def _refuse(self, reason: str, code: int, text: str) -> Response:
        self._on_refused(reason)
        return JSONResponse({"error": text}, code)


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Return whether another site's page caused this request; a followed link is allowed."""
    origin = headers.get("origin")
    try:
        # No page of another site can send X-Forwarded-Host without the permission that is never given (CORS).
        own = (headers["host"], headers.get("x-forwarded-host"))
        if origin is not None and urlsplit(origin).netloc not in own:
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
