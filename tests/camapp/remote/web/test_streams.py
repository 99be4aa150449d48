"""The MJPEG stream with slow and stalled clients, without a network: the test decides when a client reads."""

import asyncio
import re

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from starlette.exceptions import HTTPException

from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.state import ServerState
from camapp.remote.web.streams import MjpegStream, _Client

SCOPE = {"type": "http", "method": "GET", "path": "/stream.mjpg", "headers": [], "query_string": b""}


class Client:
    """Reads if the test allows it."""

    def __init__(self, state, **options):
        self.camera = state.cameras["camera"]
        self.may_read = asyncio.Event()
        self.gone = asyncio.Event()
        self.parts = []
        stream = MjpegStream(state, ConnectionLimiter(), lambda _: self.camera, **options)
        self.task = asyncio.ensure_future(stream(SCOPE, self.receive, self.send))

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.body":
            await self.may_read.wait()
            self.parts.append(message["body"])

    @property
    def seqs(self):
        return [int(seq) for part in self.parts for seq in re.findall(rb"X-Seq: (\d+)\r", part)]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def state():
    return ServerState({"cameras": [{"name": "camera", "models": []}]}, lambda message: True)


def test_a_slow_client_gets_the_newest_image_and_skipped_ones_are_counted(state):
    async def visit():
        slow, quick = Client(state), Client(state)
        quick.may_read.set()
        await settle()
        for seq in range(8):
            slow.camera.set_image(b"jpeg", seq)
            await settle()
        assert quick.seqs == list(range(8))
        assert slow.seqs == []
        slow.may_read.set()
        await settle()
        assert slow.seqs == [0, 7]
        assert state.skipped == 6
        for client in (slow, quick):
            client.gone.set()
            await asyncio.wait_for(client.task, 1)
        assert slow.camera.watchers == 0

    asyncio.run(visit())


def test_the_boundary_follows_each_image_at_once(state):
    async def visit():
        client = Client(state)
        client.may_read.set()
        await settle()
        for seq in range(2):
            client.camera.set_image(b"jpeg%d" % seq, seq)
            await settle()
        client.gone.set()
        await asyncio.wait_for(client.task, 1)
        head = b"Content-Type: image/jpeg\r\nContent-Length: 5\r\nX-Seq: %d\r\n\r\n"
        assert b"".join(client.parts) == (
            b"--frame\r\n" + head % 0 + b"jpeg0\r\n--frame\r\n" + head % 1 + b"jpeg1\r\n--frame\r\n"
        )

    asyncio.run(visit())


def test_a_client_that_reads_nothing_is_dropped(state):
    async def visit():
        client = Client(state, stalled_s=0.05)
        await settle()
        client.camera.set_image(b"jpeg", 0)
        await asyncio.wait_for(client.task, 5)
        assert client.camera.watchers == 0

    asyncio.run(visit())


def test_streams_beyond_the_capacity_are_refused(state):
    async def visit():
        stream = MjpegStream(state, ConnectionLimiter(), lambda _: state.cameras["camera"], capacity=1)
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            return None

        first = asyncio.ensure_future(stream(SCOPE, receive, send))
        await settle()
        with pytest.raises(HTTPException) as refused:
            await stream(SCOPE, receive, send)
        assert refused.value.status_code == 503
        gone.set()
        await asyncio.wait_for(first, 1)
        assert state.refused == {"too many streams": 1}

    asyncio.run(visit())


def test_each_status_is_sent_even_if_it_takes_the_place_of_an_old_one_in_memory(state):
    async def scenario():
        camera, client = state.cameras["camera"], _Client(state)
        for number in range(100):
            # The status between is freed before the next one is made.
            camera.status = {}
            camera.status = {"number": number}
            assert client.next_message()["status"] == {"camera": {"number": number}}

    asyncio.run(scenario())
