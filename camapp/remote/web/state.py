"""Keeps the latest state of each camera, and broadcasts it to subscribers. Slow subscribers skip updates."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from camapp.remote.web.channel import Message

Record = dict[str, Any]

# About a minute at 30 predictions/s; each is about a kilobyte. With many boxes fewer are kept.
KEPT_PREDICTIONS, _KEPT_NUMBERS = 2000, 500_000
_KEPT_NOTICES = 20
_KEPT_CHANGES = 200
_COMMAND_S = 45.0


class CommandFailed(Exception):
    """The run did not run a command; the message gives the reason."""


class Broadcast:
    """Wakes all waiting tasks of one event loop at each change.

    Attributes:
        serial: number of changes.
    """

    def __init__(self) -> None:
        self.serial = 0
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Count a change, and wake all that wait for it."""
        self.serial += 1
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def wait_newer(self, serial: int) -> int:
        """Wait for a serial newer than `serial` and return it."""
        while self.serial <= serial:
            await self._next.wait()
        return self.serial


class CameraState:
    """Keeps the latest state of one camera.

    Args:
        models: names that a visitor may choose.
        on_watch: called with True when the first client wants images, with False when the last one leaves.

    Attributes:
        status: the newest, {} before the first.
        predictions: the newest ones, oldest first.
        changes: (time, summary, score) of each change of the label or of the objects, oldest first.
        image: the newest image as a JPEG file, and its frame's number.
        images: notifies of each new image.
        watchers: number of clients that want images.
    """

    def __init__(self, name: str, models: list[str], on_watch: Callable[[bool], None]) -> None:
        self.name = name
        self.models = models
        self.status: Record = {}
        self.predictions: deque[Record] = deque()
        self._numbers = 0
        self.predicted = 0
        self.changes: deque[tuple[str, str, float]] = deque(maxlen=_KEPT_CHANGES)
        self.image: tuple[bytes, int] = (b"", -1)
        self.images = Broadcast()
        self.watchers = 0
        self._on_watch = on_watch

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count a client that wants images: they are drawn and encoded only if there is one."""
        self.watchers += 1
        if self.watchers == 1:
            self._on_watch(True)
        try:
            yield
        finally:
            self.watchers -= 1
            if self.watchers == 0:
                self._on_watch(False)

    def add_prediction(self, record: Record) -> None:
        """Add the newest prediction."""
        self.predictions.append(record)
        self._numbers += _numbers(record)
        while len(self.predictions) > KEPT_PREDICTIONS or (self._numbers > _KEPT_NUMBERS and len(self.predictions) > 1):
            self._numbers -= _numbers(self.predictions.popleft())
        self.predicted += 1
        label = str(record.get("summary", record.get("label", "")))
        if not self.changes or self.changes[-1][1] != label:
            self.changes.append((record.get("time", ""), label, record.get("score", 0.0)))

    def set_image(self, jpeg: bytes, seq: int) -> None:
        """Set the newest image."""
        self.image = (jpeg, seq)
        self.images.notify()

    def since(self, seq: int, limit: int = KEPT_PREDICTIONS) -> list[Record]:
        """Return the newest kept predictions of frames after `seq`, at most `limit`, oldest first."""
        found: list[Record] = []
        for record in reversed(self.predictions):
            if record["seq"] <= seq or len(found) == limit:
                break
            found.append(record)
        return found[::-1]


def _numbers(record: Record) -> int:
    """Return how many numbers the boxes of a prediction have, nearly."""
    boxes = record.get("boxes", ())
    details = (sum(map(len, box.get("outlines", ()))) + 3 * len(box.get("points", ())) for box in boxes)
    return 8 * len(boxes) + sum(details)


class ServerState:
    """Keeps the latest state of all cameras, and the commands that wait for the run's answer.

    Args:
        hello: the run's first message.
        send: sends a message to the run; returns False if it accepts none now.

    Attributes:
        locked: whether visitors need the token.
        updates: notifies of each prediction, status and notice.
        notices: (number, record) of the latest notices.
        skipped: images that were skipped because a client was slow.
        refused: number of refused requests, by reason.
    """

    def __init__(self, hello: Message, send: Callable[[Message], bool]) -> None:
        self._send = send
        self.cameras = {
            camera["name"]: CameraState(camera["name"], camera["models"], partial(self._watch, number))
            for number, camera in enumerate(hello["cameras"])
        }
        self._by_number = list(self.cameras.values())
        self.locked = bool(hello.get("token"))
        self.updates = Broadcast()
        self.notices: deque[tuple[int, Record]] = deque(maxlen=_KEPT_NOTICES)
        self.skipped = 0
        self.refused: dict[str, int] = {}
        self.noticed = 0
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}

    def _watch(self, number: int, on: bool) -> None:
        self._send({"type": "watched", "camera": number, "on": on})

    def count_refusal(self, reason: str) -> None:
        """Count a refused request."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def receive(self, message: Message) -> None:
        """Handle a message of the run; images come by `CameraState.set_image`."""
        kind = message["type"]
        if kind == "prediction":
            self._by_number[message["camera"]].add_prediction(message["record"])
        elif kind == "status":
            camera = self._by_number[message["camera"]]
            camera.status = message["record"] | {"models": camera.models, "watchers": camera.watchers}
            self._send({"type": "alive"})
        elif kind == "notice":
            self.noticed += 1
            self.notices.append((self.noticed, {key: message[key] for key in ("camera", "text", "by")}))
        elif kind == "answer":
            waiting = self._answers.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        self.updates.notify()

    def hold(self, grant: str) -> None:
        """Report to the run that the page with this secret is still there."""
        self._send({"type": "hold", "grant": grant})

    def close(self) -> None:
        """Let all waiting commands fail: the run has ended."""
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(TimeoutError())

    async def run_command(self, command: str, camera: str, body: Record) -> Record:
        """Send a command to the run, and return the body of its answer.

        Raises:
            CommandFailed: the run refused it.
            TimeoutError: the run did not answer within 45 s.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            if not self._send({"type": "order", "id": number, "order": command, "camera": camera, "body": body}):
                raise TimeoutError
            async with asyncio.timeout(_COMMAND_S):
                message = await answer
        finally:
            self._answers.pop(number, None)
        if "error" in message:
            raise CommandFailed(message["error"])
        found: Record = message["body"]
        return found
