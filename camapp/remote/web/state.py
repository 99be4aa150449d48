"""What the server knows of each camera, and who waits to know more: everybody gets the newest, nobody is waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from camapp.remote.web.channel import Message

Record = dict[str, Any]

# About a minute at 30 a second; a prediction is about a kilobyte.
KEPT_PREDICTIONS = 2000
_KEPT_NOTICES = 20
_KEPT_CHANGES = 200
_ORDER_S = 45.0


class CommandFailed(Exception):
    """The run did not do what a visitor asked for: the message says why."""


class Broadcast:
    """Something that changes, and wakes all who wait for the next change. Of one event loop.

    Attributes:
        serial: counts the changes.
    """

    def __init__(self) -> None:
        self.serial = 0
        self._next = asyncio.Event()

    def tell(self) -> None:
        """It has changed."""
        self.serial += 1
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def beyond(self, serial: int) -> int:
        """Wait until it has changed more often than that; how often it has."""
        while self.serial <= serial:
            await self._next.wait()
        return self.serial


class CameraState:
    """One camera as the server knows it.

    Attributes:
        name: the camera's.
        models: that a visitor may choose.
        status: its newest, {} before the first.
        predictions: the newest ones, oldest first.
        predicted: counts them.
        changes: (time, label, score) of each change of the label, oldest first.
        image: the newest image as a JPEG file, and its frame's number.
        images: changes with it.
        watchers: who wait for images now.
    """

    def __init__(self, name: str, models: list[str], on_watch: Callable[[bool], None]) -> None:
        self.name = name
        self.models = models
        self.status: Record = {}
        self.predictions: deque[Record] = deque(maxlen=KEPT_PREDICTIONS)
        self.predicted = 0
        self.changes: deque[tuple[str, str, float]] = deque(maxlen=_KEPT_CHANGES)
        self.image: tuple[bytes, int] = (b"", -1)
        self.images = Broadcast()
        self.watchers = 0
        self._on_watch = on_watch

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Images are drawn and encoded only as long as somebody is in here."""
        self.watchers += 1
        if self.watchers == 1:
            self._on_watch(True)
        try:
            yield
        finally:
            self.watchers -= 1
            if self.watchers == 0:
                self._on_watch(False)

    def take_prediction(self, record: Record) -> None:
        """A new prediction."""
        self.predictions.append(record)
        self.predicted += 1
        label = record.get("label", "")
        if not self.changes or self.changes[-1][1] != label:
            self.changes.append((record.get("time", ""), label, record.get("score", 0.0)))

    def take_image(self, jpeg: bytes, seq: int) -> None:
        """A new image."""
        self.image = (jpeg, seq)
        self.images.tell()

    def since(self, seq: int, most: int = KEPT_PREDICTIONS) -> list[Record]:
        """The kept predictions of frames after that one, oldest first; of more than `most`, the newest."""
        found: list[Record] = []
        for record in reversed(self.predictions):
            if record["seq"] <= seq or len(found) == most:
                break
            found.append(record)
        return found[::-1]


class ServerState:
    """All cameras, the visitors' view of them, and the way back to the run.

    Args:
        hello: the run's first message.
        tell_run: hands a message to the run; False if it takes none now.

    Attributes:
        feeds: by the camera's name, in the run's order.
        locked: the token is needed here.
        news: changes with each prediction, status and notice.
        notices: (serial, record) of what happened lately.
        skipped: images that some visitor was too slow for.
        refused: requests refused, by reason.
    """

    def __init__(self, hello: Message, tell_run: Callable[[Message], bool]) -> None:
        self._tell_run = tell_run
        self.feeds = {
            camera["name"]: CameraState(camera["name"], camera["models"], self._watch(number))
            for number, camera in enumerate(hello["cameras"])
        }
        self._by_number = list(self.feeds.values())
        self.locked = bool(hello.get("token"))
        self.news = Broadcast()
        self.notices: deque[tuple[int, Record]] = deque(maxlen=_KEPT_NOTICES)
        self.skipped = 0
        self.refused: dict[str, int] = {}
        self._noticed = 0
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}

    def _watch(self, number: int) -> Callable[[bool], None]:
        def tell(on: bool) -> None:
            self._tell_run({"type": "watched", "camera": number, "on": on})

        return tell

    @property
    def noticed(self) -> int:
        """How many notices there have been."""
        return self._noticed

    def refuse(self, reason: str) -> None:
        """Count a request that was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def hear(self, message: Message) -> None:
        """Take in what the run says; images come by `CameraState.take_image`."""
        kind = message["type"]
        if kind == "prediction":
            self._by_number[message["camera"]].take_prediction(message["record"])
        elif kind == "status":
            feed = self._by_number[message["camera"]]
            feed.status = message["record"] | {"models": feed.models, "watchers": feed.watchers}
            self._tell_run({"type": "alive"})
        elif kind == "notice":
            self._noticed += 1
            self.notices.append((self._noticed, {key: message[key] for key in ("camera", "text", "by")}))
        elif kind == "answer":
            waiting = self._answers.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        self.news.tell()

    def close(self) -> None:
        """The run is gone: nobody will answer any more."""
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(TimeoutError())

    async def order(self, order: str, camera: str, body: Record) -> Record:
        """Ask the run for something and wait for its answer.

        Raises:
            CommandFailed: it refused.
            TimeoutError: it did not answer.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            if not self._tell_run({"type": "order", "id": number, "order": order, "camera": camera, "body": body}):
                raise TimeoutError
            async with asyncio.timeout(_ORDER_S):
                message = await answer
        finally:
            self._answers.pop(number, None)
        if "error" in message:
            raise CommandFailed(message["error"])
        found: Record = message["body"]
        return found
