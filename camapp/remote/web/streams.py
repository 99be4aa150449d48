"""Serves what lasts until the client leaves: the MJPEG stream, and the WebSocket of predictions and statistics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from camapp.core.json_records import compact_json
from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.state import CameraState, ServerState

MAX_STREAMS = 48
MAX_SOCKETS = 48
# A client that reads nothing for this long is disconnected.
STALLED_S = 10.0
# Shortest interval of messages on a socket; statistics change twice a second.
_SEND_EVERY_S = 0.05
_MAX_AT_ONCE = 60
# Shortest interval at which a client's messages are passed on to the run, and longest secret in one.
_HOLD_EVERY_S, _MAX_GRANT = 0.05, 64
# Not sent on the socket twice a second, because they are long and the page does not show them; /status has them.
_OMITTED = {"labels"}

_BOUNDARY = b"--frame\r\n"


class MjpegStream:
    """Serves /stream.mjpg: a client gets the newest image once it has read the previous one, and skips the others.

    At most `capacity` clients are served at a time; one that reads nothing for `stalled_s` is dropped.
    """

    def __init__(
        self,
        state: ServerState,
        limiter: ConnectionLimiter,
        camera: Callable[[Request], CameraState],
        capacity: int = MAX_STREAMS,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._streams = 0
        self._state = state
        self._limiter = limiter
        self._camera = camera
        self._capacity = capacity
        self._stalled_s = stalled_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it leaves."""
        camera = self._camera(Request(scope))
        if scope["method"] != "GET":
            raise HTTPException(405, "GET it", {"allow": "GET"})
        if self._streams >= self._capacity:
            self._state.count_refusal("too many streams")
            raise HTTPException(503, "too many streams already; try again later", {"retry-after": "10"})
        self._streams += 1
        gone = asyncio.ensure_future(_until(receive, "http.disconnect"))
        try:
            with camera.watched():
                await self._send_images(scope, camera, send, gone)
        finally:
            self._streams -= 1
            gone.cancel()

    async def _send_images(self, scope: Scope, camera: CameraState, send: Send, gone: asyncio.Future[None]) -> None:
        headers = [(b"content-type", b"multipart/x-mixed-replace; boundary=frame"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen = camera.images.serial
        # The boundary follows each image at once: browsers show a part once they have its end.
        opening = _BOUNDARY
        while not gone.done():
            if not await _wait(camera.images.wait_newer(seen), gone):
                return
            serial = camera.images.serial
            self._state.skipped += serial - seen - 1
            seen = serial
            jpeg, seq = camera.image
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\nX-Seq: %d\r\n\r\n" % (len(jpeg), seq)
            part = b"".join((opening, head, jpeg, b"\r\n", _BOUNDARY))
            opening = b""
            try:
                async with asyncio.timeout(self._stalled_s):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                await self._limiter.drop(scope)
                return


def _grant(text: str | None) -> str:
    """Return the secret in a client's message, or "" if it is another one."""
    try:
        body = json.loads(text or "")
    except (ValueError, RecursionError):
        return ""
    grant = body.get("hold") if isinstance(body, dict) else None
    return grant if isinstance(grant, str) and len(grant) <= _MAX_GRANT else ""


async def _wait(awaited: Coroutine[Any, Any, object], gone: asyncio.Future[None]) -> bool:
    """Wait for something, or until the client leaves; return False if it leaves first."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        waiting.cancel()


async def _until(receive: Receive, kind: str) -> None:
    """Discard a client's messages until one of this type comes."""
    while (await receive())["type"] != kind:
        pass


class LiveSocket:
    """Serves /live: the updates of all cameras as JSON. A slow client misses old predictions, never newer ones.

    Each message is an object with some of: `hello`, `status` (by camera), `predictions` (a list by camera),
    `notices`, `missed` (number of predictions left out).
    """

    def __init__(self, state: ServerState, limiter: ConnectionLimiter) -> None:
        self._sockets = 0
        self._state = state
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it leaves."""
        socket = WebSocket(scope, receive, send)
        if self._sockets >= MAX_SOCKETS:
            self._state.count_refusal("too many sockets")
            await socket.close(1013)
            return
        self._sockets += 1
        try:
            await socket.accept()
            gone = asyncio.ensure_future(self._listen(receive))
            try:
                await self._send_updates(socket, gone)
            finally:
                gone.cancel()
        except (ClientDisconnect, RuntimeError, OSError):
            # The client left during a message.
            return
        finally:
            self._sockets -= 1

    async def _listen(self, receive: Receive) -> None:
        """Pass on what a page that lets a car drive sends: `{"hold": GRANT}`; return once the client has left."""
        passed = 0.0
        while (message := await receive())["type"] != "websocket.disconnect":
            grant = _grant(message.get("text"))
            now = time.monotonic()
            # One that sends without end must not keep the run busy.
            if grant and now - passed > _HOLD_EVERY_S:
                passed = now
                self._state.hold(grant)

    async def _send_updates(self, socket: WebSocket, gone: asyncio.Future[None]) -> None:
        client = _Client(self._state)
        while not gone.done():
            message = client.next_message()
            if message:
                try:
                    async with asyncio.timeout(STALLED_S):
                        await socket.send_text(compact_json(message))
                except TimeoutError:
                    await self._limiter.drop(socket.scope)
                    return
            await _wait(self._state.updates.wait_newer(client.serial), gone)
            await asyncio.wait({gone}, timeout=_SEND_EVERY_S)


class _Client:
    """Records what one client has received."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._predicted = {name: camera.predicted for name, camera in state.cameras.items()}
        self._status: dict[str, dict[str, Any]] = {}
        self._noticed = state.noticed
        self.serial = -1
        self._greeted = False

    def next_message(self) -> dict[str, Any]:
        """Return what the client has not received yet."""
        state = self._state
        self.serial = state.updates.serial
        message: dict[str, Any] = {}
        if not self._greeted:
            self._greeted = True
            cameras = [
                {"name": camera.name, "models": camera.models, "changes": list(camera.changes)}
                for camera in state.cameras.values()
            ]
            message["hello"] = {"cameras": cameras, "locked": state.locked}
        statuses, predictions, missed = {}, {}, 0
        for name, camera in state.cameras.items():
            if (status := camera.status) and self._status.get(name) is not status:
                self._status[name] = status
                statuses[name] = {key: value for key, value in status.items() if key not in _OMITTED}
            fresh = camera.predicted - self._predicted[name]
            if fresh:
                self._predicted[name] = camera.predicted
                count = min(fresh, _MAX_AT_ONCE, len(camera.predictions))
                predictions[name] = list(camera.predictions)[-count:]
                missed += fresh - count
        notices = [record for number, record in state.notices if number > self._noticed]
        self._noticed = state.noticed
        found = {"status": statuses, "predictions": predictions, "missed": missed, "notices": notices}
        return message | {key: value for key, value in found.items() if value}
