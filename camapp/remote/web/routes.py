"""Routes of the web page and the HTTP interface; `openapi.py` generates its description from the table here."""

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

from camapp.remote.web import openapi as api
from camapp.remote.web.auth import AuthMiddleware, HostCheck, TokenAuth
from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.state import KEPT_PREDICTIONS, CameraState, CommandFailed, ServerState
from camapp.remote.web.streams import LiveSocket, MjpegStream

_MAX_BODY = 16 << 10
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
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _command(name: str, summary: str, answer: api.Schema, /, **body: api.Schema) -> api.Endpoint:
    return api.Endpoint(f"/api/{name}", "command", summary, answer, body=body, optional=("was",))


_SINCE = api.query("since", api.COUNT | {"default": -1}, "only frames after this number; the `next` of the last answer")
_LIMIT = api.query("limit", api.COUNT, "maximum number of predictions; the newest are returned")
_ALL = api.fields(cameras=api.array(api.STATUS), web=api.OBJECT)
_FOUND = api.fields(camera=api.TEXT, predictions=api.array(api.PREDICTION), next=api.COUNT)
_KEPT = {"kept": api.FLAG, "why": api.TEXT | {"description": "why it is not kept"}}
_ZONE, _LINE = (api.fields(**{name: api.array(api.TEXT)}, **_KEPT) for name in ("zone", "line"))
_NAMED = {
    "name": api.TEXT,
    "points": api.POINTS,
    "was": api.TEXT | {"description": "its name so far, to rename it"},
}
ENDPOINTS = (
    api.Endpoint("/status", "status", "The status of all cameras and of the server", _ALL, of_camera=False),
    api.Endpoint(
        "/metrics",
        "metrics",
        "Metrics for Prometheus, in text format 0.0.4",
        api.TEXT,
        "text/plain",
        errors={501: "prometheus-client is missing"},
        of_camera=False,
    ),
    api.Endpoint("/cameras/{camera}/status", "camera_status", "The status of one camera", api.STATUS, of_camera=False),
    api.Endpoint(
        "/snapshot.jpg",
        "snapshot",
        "The next image that is drawn; its frame's number is in X-Seq",
        api.IMAGE,
        "image/jpeg",
        errors={503: "there is no image now"},
    ),
    api.Endpoint(
        "/stream.mjpg",
        "stream",
        "Images as they are drawn, one part each; a slow client skips some",
        api.IMAGE,
        "multipart/x-mixed-replace",
        errors={503: "too many streams"},
    ),
    api.Endpoint(
        "/api/predictions",
        "predictions",
        "Predictions of about the last minute, oldest first",
        _FOUND,
        parameters=(_SINCE, _LIMIT),
        errors={400: "since or limit is not a number"},
    ),
    _command("pause", "Hold the image and the predictions", api.fields(paused=api.FLAG)),
    _command("resume", "Continue after a pause", api.fields(paused=api.FLAG)),
    _command("snapshot", "Save the next image on the device", api.fields(folder=api.TEXT)),
    _command("label", "Choose the label of images to collect", api.fields(label=api.TEXT), label=api.TEXT),
    _command("model", "Run another of the offered models", api.fields(model=api.TEXT), model=api.TEXT),
    _command(
        "roi",
        "Show the model only this region, now and after the next start",
        api.fields(roi=api.ROI, **_KEPT),
        roi=api.ROI,
    ),
    _command("zone", "Set, rename or delete a zone, in which objects are counted", _ZONE, **_NAMED),
    _command("line", "Set, rename or delete a line; an object that crosses it to the right goes in", _LINE, **_NAMED),
    _command(
        "drive",
        "Stop the car, from any page; or let it drive for as long as this client holds it over /live (--drive-page)",
        api.fields(driving=api.FLAG, grant=api.TEXT),
        go=api.FLAG,
    ),
    _command("hud", "Draw the statistics on the image, or not", api.fields(shown=api.FLAG), shown=api.FLAG),
)
DOCUMENT = api.document(ENDPOINTS)


def build(state: ServerState, auth: TokenAuth, hosts: HostCheck, limiter: ConnectionLimiter) -> ASGIApp:
    """Return the whole application, behind its access checks."""
    handlers = _Handlers(state, auth, limiter)
    app = Starlette(
        routes=[
            Route("/", handlers.asset("page.html")),
            *(Route(f"/{name}", handlers.asset(name)) for name in ("page.css", "page.js", "icon.svg")),
            Route("/login", handlers.login, methods=["GET", "POST"]),
            Route("/logout", handlers.logout, methods=["POST"]),
            Route("/openapi.json", handlers.openapi),
            *(
                Route(path, getattr(handlers, endpoint.handler), methods=[endpoint.method])
                for endpoint in ENDPOINTS
                for path in endpoint.paths
            ),
            WebSocketRoute("/live", LiveSocket(state, limiter)),
        ],
        exception_handlers={HTTPException: _as_json},
    )
    app.router.redirect_slashes = False
    return AuthMiddleware(app, auth, hosts, limiter, state.count_refusal)


async def _as_json(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class _Handlers:
    def __init__(self, state: ServerState, auth: TokenAuth, limiter: ConnectionLimiter) -> None:
        self._state = state
        self._auth = auth
        self._metrics: tuple[float, str] = (0.0, "")
        self.stream = MjpegStream(state, limiter, self.camera)

    def camera(self, request: Request) -> CameraState:
        """Return the camera that the path or query names; the first if neither does."""
        cameras = self._state.cameras
        name = request.path_params.get("camera") or request.query_params.get("camera") or next(iter(cameras))
        if name not in cameras:
            raise HTTPException(404, f"no such camera; there are {', '.join(cameras)}")
        return cameras[name]

    def asset(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that serves a file of the page from memory."""
        content = resources.files("camapp.remote.web").joinpath("static", name).read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}

        async def serve(request: Request) -> Response:
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(content, media_type=_ASSETS[name], headers=headers)

        return serve

    async def login(self, request: Request) -> Response:
        if not self._auth.needed:
            return RedirectResponse("./", 303)
        if request.method != "POST":
            return _login_form()
        address = request.client.host if request.client else ""
        if wait := self._auth.wait_s(address):
            self._state.count_refusal("too many tries")
            refusal = _login_form("Too many wrong tokens. Wait a minute, then try again.", 429)
            refusal.headers["retry-after"] = str(int(wait) + 1)
            return refusal
        form = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=4)
        if not self._auth.try_token(form.get("token", [""])[0].strip(), address):
            self._state.count_refusal("token")
            return _login_form("The token is wrong.", 403)
        response = RedirectResponse("./", 303)
        self._auth.set_cookie(response)
        return response

    async def logout(self, request: Request) -> Response:
        response = RedirectResponse("login", 303)
        self._auth.clear_cookie(response)
        return response

    async def status(self, request: Request) -> Response:
        cameras = self._state.cameras
        own = {
            "visitors": {name: camera.watchers for name, camera in cameras.items()},
            "pictures": {name: camera.images.serial for name, camera in cameras.items()},
            "skipped": self._state.skipped,
            "refused": self._state.refused,
        }
        return JSONResponse({"cameras": [camera.status for camera in cameras.values()], "web": own})

    async def camera_status(self, request: Request) -> Response:
        return JSONResponse(self.camera(request).status)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(DOCUMENT)

    async def metrics(self, request: Request) -> Response:
        """Return the text for Prometheus; the run renders it at most once a second."""
        made, text = self._metrics
        if time.monotonic() - made > _METRICS_KEPT_S:
            text = (await self._run("metrics", next(iter(self._state.cameras)), {}, refused=501))["text"]
            self._metrics = (time.monotonic(), text)
        return PlainTextResponse(text, media_type=_METRICS_TYPE)

    async def snapshot(self, request: Request) -> Response:
        camera = self.camera(request)
        with camera.watched():
            try:
                async with asyncio.timeout(_IMAGE_S):
                    await camera.images.wait_newer(camera.images.serial)
            except TimeoutError:
                raise HTTPException(503, f"no image within {_IMAGE_S:g} s; /status gives the reason") from None
        jpeg, seq = camera.image
        return Response(jpeg, media_type="image/jpeg", headers={"x-seq": str(seq)})

    async def predictions(self, request: Request) -> Response:
        camera = self.camera(request)
        try:
            since = int(request.query_params.get("since", "-1")[:20])
            limit = int(request.query_params.get("limit", str(KEPT_PREDICTIONS))[:20])
        except ValueError:
            raise HTTPException(400, "since and limit are whole numbers") from None
        found = camera.since(since, max(1, min(limit, KEPT_PREDICTIONS)))
        newest = found[-1]["seq"] if found else since
        return JSONResponse({"camera": camera.name, "predictions": found, "next": newest})

    async def command(self, request: Request) -> Response:
        """Pass the command that the path ends with on to the run."""
        camera = self.camera(request)
        raw = await _body(request)
        try:
            body = json.loads(raw or b"{}")
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is not valid JSON") from None
        if not isinstance(body, dict):
            raise HTTPException(400, "the body is not a JSON object")
        return JSONResponse(await self._run(request.scope["path"].rpartition("/")[2], camera.name, body))

    async def _run(self, command: str, camera: str, body: dict[str, Any], refused: int = 409) -> dict[str, Any]:
        try:
            return await self._state.run_command(command, camera, body)
        except CommandFailed as error:
            raise HTTPException(refused, str(error)) from error
        except TimeoutError:
            raise HTTPException(504, "the run does not answer; try again") from None


async def _body(request: Request) -> bytes:
    """Return the request's body, within bounds of size and time."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:12]) > _MAX_BODY:
        raise HTTPException(413, f"at most {_MAX_BODY} bytes")
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise HTTPException(413, f"at most {_MAX_BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, "the request did not arrive in time", {"connection": "close"}) from None
    return body


def _login_form(problem: str = "", code: int = 200) -> Response:
    form = resources.files("camapp.remote.web").joinpath("static", "login.html").read_text(encoding="utf-8")
    return Response(form.replace("{{problem}}", escape(problem)), code, media_type=_ASSETS["login.html"])
