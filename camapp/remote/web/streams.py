"""What goes on until the visitor leaves: the MJPEG stream, and the WebSocket of predictions, statistics and notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.state import CameraState, ServerState

MAX_STREAMS = 48
MAX_SOCKETS = 48
# Whoever takes nothing for so long is gone, whatever the network says.
_STALLED_S = 10.0
# Predictions and news are told this often at most; statistics change twice a second.
_TELL_EVERY_S = 0.05
_MAX_AT_ONCE = 60

_BOUNDARY = b"--frame\r\n"


class Stream:
    """/stream.mjpg: each visitor gets the newest image when it has taken the one before; the others are skipped.

    Args:
        hub: where images are.
        doors: where who does not read is put out.
        feed: finds the camera of a request.
    """

    def __init__(self, hub: ServerState, doors: ConnectionLimiter, feed: Callable[[Request], CameraState]) -> None:
        self._streams = 0
        self._hub = hub
        self._doors = doors
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one visitor until it leaves."""
        feed = self._feed(Request(scope))
        if scope["method"] != "GET":
            raise HTTPException(405, "GET it", {"allow": "GET"})
        if self._streams >= MAX_STREAMS:
            self._hub.refuse("too many streams")
            raise HTTPException(503, "too many are watching already; try again later", {"retry-after": "10"})
        self._streams += 1
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            with feed.watched():
                await self._show(scope, feed, send, gone)
        finally:
            self._streams -= 1
            gone.cancel()

    async def _show(self, scope: Scope, feed: CameraState, send: Send, gone: asyncio.Future[None]) -> None:
        headers = [(b"content-type", b"multipart/x-mixed-replace; boundary=frame"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen = feed.images.serial
        # The boundary goes behind each image, not before it: browsers show a part once they have seen its end.
        opening = _BOUNDARY
        while not gone.done():
            if not await _comes(feed.images.beyond(seen), gone):
                return
            serial = feed.images.serial
            self._hub.skipped += serial - seen - 1
            seen = serial
            jpeg, seq = feed.image
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\nX-Seq: %d\r\n\r\n" % (len(jpeg), seq)
            part = b"".join((opening, head, jpeg, b"\r\n", _BOUNDARY))
            opening = b""
            try:
                async with asyncio.timeout(_STALLED_S):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                await self._doors.expel(scope)
                return


async def _comes(awaited: Coroutine[Any, Any, object], gone: asyncio.Future[None]) -> bool:
    """Wait for something, unless the visitor leaves first."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        waiting.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Streams:
    """/live: JSON of all cameras, told as it comes; who is slow misses old predictions, never newer ones.

    Each message is an object with some of: `hello`, `status` (by camera), `predictions` (a list by camera),
    `notices`, `missed` (predictions passed over).
    """

    def __init__(self, hub: ServerState, doors: ConnectionLimiter) -> None:
        self._sockets = 0
        self._hub = hub
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one visitor until it leaves."""
        socket = WebSocket(scope, receive, send)
        if self._sockets >= MAX_SOCKETS:
            self._hub.refuse("too many sockets")
            await socket.close(1013)
            return
        self._sockets += 1
        try:
            await socket.accept()
            gone = asyncio.ensure_future(_until_closed(receive))
            try:
                await self._tell_all(socket, gone)
            finally:
                gone.cancel()
        except (ClientDisconnect, RuntimeError, OSError):
            return  # it left while it was told something
        finally:
            self._sockets -= 1

    async def _tell_all(self, socket: WebSocket, gone: asyncio.Future[None]) -> None:
        visitor = _Client(self._hub)
        while not gone.done():
            message = visitor.news()
            if message:
                try:
                    async with asyncio.timeout(_STALLED_S):
                        await socket.send_text(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
                except TimeoutError:
                    await self._doors.expel(socket.scope)
                    return
            await _comes(visitor.wait(), gone)
            await asyncio.wait({gone}, timeout=_TELL_EVERY_S)


async def _until_closed(receive: Receive) -> None:
    """What a visitor says is of no interest, but for its leaving."""
    message: Message = {"type": ""}
    while message["type"] != "websocket.disconnect":
        message = await receive()


class _Client:
    """What one visitor has been told already."""

    def __init__(self, hub: ServerState) -> None:
        self._hub = hub
        self._predicted = {name: feed.predicted for name, feed in hub.feeds.items()}
        self._status: dict[str, int] = {}
        self._noticed = hub.noticed
        self._serial = -1
        self._greeted = False

    async def wait(self) -> None:
        """Until there is more."""
        await self._hub.news.beyond(self._serial)

    def news(self) -> dict[str, Any]:
        """What it has not been told yet."""
        self._serial = self._hub.news.serial
        message: dict[str, Any] = {}
        if not self._greeted:
            self._greeted = True
            cameras = [
                {"name": feed.name, "models": feed.models, "changes": list(feed.changes)}
                for feed in self._hub.feeds.values()
            ]
            message["hello"] = {"cameras": cameras, "locked": self._hub.locked}
        statuses, predictions, missed = {}, {}, 0
        for name, feed in self._hub.feeds.items():
            if feed.status and self._status.get(name) != id(feed.status):
                self._status[name] = id(feed.status)
                statuses[name] = {key: value for key, value in feed.status.items() if key not in _NOT_TOLD}
            fresh = feed.predicted - self._predicted[name]
            if fresh:
                self._predicted[name] = feed.predicted
                told = min(fresh, _MAX_AT_ONCE, len(feed.predictions))
                predictions[name] = list(feed.predictions)[-told:]
                missed += fresh - told
        if statuses:
            message["status"] = statuses
        if predictions:
            message["predictions"] = predictions
        if missed:
            message["missed"] = missed
        notices = [record for number, record in self._hub.notices if number > self._noticed]
        self._noticed = self._hub.noticed
        if notices:
            message["notices"] = notices
        return message


# Long, and of no use to a page twice a second; /status has it.
_NOT_TOLD = {"labels"}
