"""What a visitor of the stream gets who takes his time; without a network: the test is the one who takes."""

import asyncio
import re

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from camapp.remote.web import streams
from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.state import ServerState

SCOPE = {"type": "http", "method": "GET", "path": "/stream.mjpg", "headers": [], "query_string": b""}


class Visitor:
    """Takes a message when the test lets it."""

    def __init__(self, hub):
        self.hub = hub
        self.feed = hub.feeds["camera"]
        self.may_take = asyncio.Event()
        self.gone = asyncio.Event()
        self.parts = []
        self.task = asyncio.ensure_future(
            streams.Stream(hub, ConnectionLimiter(), lambda _: self.feed)(SCOPE, self.receive, self.send)
        )

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.body":
            await self.may_take.wait()
            self.parts.append(message["body"])

    @property
    def seqs(self):
        return [int(seq) for part in self.parts for seq in re.findall(rb"X-Seq: (\d+)\r", part)]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def hub():
    return ServerState({"cameras": [{"name": "camera", "models": []}]}, lambda message: True)


def test_a_slow_visitor_gets_the_newest_and_what_it_skips_is_counted(hub):
    async def visit():
        slow, quick = Visitor(hub), Visitor(hub)
        quick.may_take.set()
        await settle()
        for seq in range(8):
            slow.feed.take_image(b"jpeg", seq)
            await settle()
        assert quick.seqs == list(range(8))
        assert slow.seqs == []
        slow.may_take.set()
        await settle()
        assert slow.seqs == [0, 7]
        assert hub.skipped == 6
        for visitor in (slow, quick):
            visitor.gone.set()
            await asyncio.wait_for(visitor.task, 1)
        assert slow.feed.watchers == 0

    asyncio.run(visit())


def test_a_part_is_ended_at_once_so_that_browsers_show_it(hub):
    async def visit():
        visitor = Visitor(hub)
        visitor.may_take.set()
        await settle()
        for seq in range(2):
            visitor.feed.take_image(b"jpeg%d" % seq, seq)
            await settle()
        visitor.gone.set()
        await asyncio.wait_for(visitor.task, 1)
        head = b"Content-Type: image/jpeg\r\nContent-Length: 5\r\nX-Seq: %d\r\n\r\n"
        assert b"".join(visitor.parts) == (
            b"--frame\r\n" + head % 0 + b"jpeg0\r\n--frame\r\n" + head % 1 + b"jpeg1\r\n--frame\r\n"
        )

    asyncio.run(visit())


def test_one_who_takes_nothing_is_put_out(hub, monkeypatch):
    monkeypatch.setattr(streams, "_STALLED_S", 0.05)

    async def visit():
        visitor = Visitor(hub)
        await settle()
        visitor.feed.take_image(b"jpeg", 0)
        await asyncio.wait_for(visitor.task, 5)
        assert visitor.feed.watchers == 0

    asyncio.run(visit())


def test_no_more_streams_than_there_is_room_for(hub, monkeypatch):
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)

    async def visit():
        stream = streams.Stream(hub, ConnectionLimiter(), lambda _: hub.feeds["camera"])
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            return None

        first = asyncio.ensure_future(stream(SCOPE, receive, send))
        await settle()
        with pytest.raises(streams.HTTPException) as refused:
            await stream(SCOPE, receive, send)
        assert refused.value.status_code == 503
        gone.set()
        await asyncio.wait_for(first, 1)
        assert hub.refused == {"too many streams": 1}

    asyncio.run(visit())
