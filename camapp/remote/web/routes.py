"""The pages and the API: what is answered where. `openapi.py` describes it to other programs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from camapp.remote.web.auth import AuthMiddleware, HostCheck, TokenAuth
from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.openapi import DOCUMENT
from camapp.remote.web.state import KEPT_PREDICTIONS, CameraState, CommandFailed, ServerState
from camapp.remote.web.streams import Stream, Streams

ORDERS = ("pause", "resume", "snapshot", "model", "roi", "hud")
_LARGEST_BODY = 16 << 10
_BODY_S = 5.0
_IMAGE_S = 5.0
_METRICS_KEPT_S = 1.0
_ASSETS = {
    "page.html": "text/html; charset=utf-8",
    "login.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def build(hub: ServerState, keys: TokenAuth, hosts: HostCheck, doors: ConnectionLimiter) -> ASGIApp:
    """The whole application, with its guard before it."""
    routes = _Routes(hub, keys)
    live, stream = Streams(hub, doors), Stream(hub, doors, routes.feed)
    in_path = "/cameras/{camera}"
    of_a_camera = [
        ("/snapshot.jpg", routes.snapshot, ["GET"]),
        ("/api/predictions", routes.predictions, ["GET"]),
        *((f"/api/{order}", routes.order(order), ["POST"]) for order in ORDERS),
    ]
    app = Starlette(
        routes=[
            Route("/", routes.asset("page.html")),
            *(Route(f"/{name}", routes.asset(name)) for name in ("page.css", "page.js", "icon.svg")),
            Route("/login", routes.login, methods=["GET", "POST"]),
            Route("/logout", routes.logout, methods=["POST"]),
            Route("/status", routes.status),
            Route("/metrics", routes.metrics),
            Route("/openapi.json", routes.openapi),
            *(Route(f"{place}/stream.mjpg", stream) for place in ("", in_path)),
            *(Route(place + path, to, methods=by) for place in ("", in_path) for path, to, by in of_a_camera),
            Route(f"{in_path}/status", routes.camera_status),
            WebSocketRoute("/live", live),
        ],
        exception_handlers={HTTPException: _as_json},
    )
    app.router.redirect_slashes = False
    return AuthMiddleware(app, keys, hosts, doors, hub.refuse)


async def _as_json(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class _Routes:
    def __init__(self, hub: ServerState, keys: TokenAuth) -> None:
        self._hub = hub
        self._keys = keys
        self._metrics: tuple[float, str] = (0.0, "")

    def feed(self, request: Request) -> CameraState:
        """The camera that a path or query names; the first if neither does."""
        feeds = self._hub.feeds
        name = request.path_params.get("camera") or request.query_params.get("camera") or next(iter(feeds))
        if name not in feeds:
            raise HTTPException(404, f"no such camera; there are {', '.join(feeds)}")
        return feeds[name]

    def asset(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Serves a file of the page, from memory."""
        content = resources.files("camapp.remote.web").joinpath("static", name).read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}

        async def serve(request: Request) -> Response:
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(content, media_type=_ASSETS[name], headers=headers)

        return serve

    async def login(self, request: Request) -> Response:
        """The form that asks for the token, and its answer."""
        if not self._keys.needed:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return _login_form()
        address = request.client.host if request.client else ""
        if wait := self._keys.wait_s(address):
            self._hub.refuse("too many tries")
            refusal = _login_form("Too many wrong tokens. Wait a minute, then try again.", 429)
            refusal.headers["retry-after"] = str(int(wait) + 1)
            return refusal
        fields = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=4)
        if not self._keys.try_token(fields.get("token", [""])[0].strip(), address):
            self._hub.refuse("token")
            return _login_form("That is not the token.", 403)
        response = RedirectResponse("/", 303)
        self._keys.let_in(response)
        return response

    async def logout(self, request: Request) -> Response:
        """Forget this browser."""
        response = RedirectResponse("/login", 303)
        self._keys.let_out(response)
        return response

    async def status(self, request: Request) -> Response:
        """All cameras, and the server itself."""
        hub = self._hub
        own = {
            "visitors": {name: feed.watchers for name, feed in hub.feeds.items()},
            "pictures": {name: feed.images.serial for name, feed in hub.feeds.items()},
            "skipped": hub.skipped,
            "refused": hub.refused,
        }
        return JSONResponse({"cameras": [feed.status for feed in hub.feeds.values()], "web": own})

    async def camera_status(self, request: Request) -> Response:
        """One camera."""
        return JSONResponse(self.feed(request).status)

    async def openapi(self, request: Request) -> Response:
        """What there is to ask for."""
        return JSONResponse(DOCUMENT)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text; asked of the run at most once a second."""
        made, text = self._metrics
        if time.monotonic() - made > _METRICS_KEPT_S:
            text = (await self._ask("metrics", next(iter(self._hub.feeds)), {}, refused=501))["text"]
            self._metrics = (time.monotonic(), text)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def snapshot(self, request: Request) -> Response:
        """The next image that is drawn, as a JPEG file."""
        feed = self.feed(request)
        with feed.watched():
            try:
                async with asyncio.timeout(_IMAGE_S):
                    await feed.images.beyond(feed.images.serial)
            except TimeoutError:
                raise HTTPException(503, f"no image within {_IMAGE_S:g} s; /status says why") from None
        jpeg, seq = feed.image
        return Response(jpeg, media_type="image/jpeg", headers={"x-seq": str(seq)})

    async def predictions(self, request: Request) -> Response:
        """Those of frames after `since`."""
        feed = self.feed(request)
        try:
            since = int(request.query_params.get("since", "-1")[:20])
            limit = int(request.query_params.get("limit", str(KEPT_PREDICTIONS))[:20])
        except ValueError:
            raise HTTPException(400, "since and limit are whole numbers") from None
        found = feed.since(since, max(1, min(limit, KEPT_PREDICTIONS)))
        newest = found[-1]["seq"] if found else since
        return JSONResponse({"camera": feed.name, "predictions": found, "next": newest})

    def order(self, order: str) -> Callable[[Request], Awaitable[Response]]:
        """Passes an order on to the run."""

        async def pass_on(request: Request) -> Response:
            feed = self.feed(request)
            raw = await _body(request)
            try:
                body = json.loads(raw or b"{}")
            except (ValueError, RecursionError):
                raise HTTPException(400, "the body is not valid JSON") from None
            if not isinstance(body, dict):
                raise HTTPException(400, "the body is a JSON object")
            return JSONResponse(await self._ask(order, feed.name, body))

        return pass_on

    async def _ask(self, order: str, camera: str, body: dict[str, Any], refused: int = 409) -> dict[str, Any]:
        try:
            return await self._hub.order(order, camera, body)
        except CommandFailed as error:
            raise HTTPException(refused, str(error)) from error
        except TimeoutError:
            raise HTTPException(504, "the run does not answer; try again") from None


async def _body(request: Request) -> bytes:
    """The request's body, within bounds of size and time."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:12]) > _LARGEST_BODY:
        raise HTTPException(413, f"at most {_LARGEST_BODY} bytes")
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_BODY:
                    raise HTTPException(413, f"at most {_LARGEST_BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, "the request did not arrive in time", {"connection": "close"}) from None
    return body


def _login_form(problem: str = "", code: int = 200) -> Response:
    form = resources.files("camapp.remote.web").joinpath("static", "login.html").read_text(encoding="utf-8")
    return Response(form.replace("{{problem}}", escape(problem)), code, media_type=_ASSETS["login.html"])
