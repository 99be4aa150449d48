"""Serves the page: `python -m camapp.remote.web.server CHANNEL LISTENER`, started by `WebInterface`.

It exits once the run closes its end of the channel. Its clients cannot slow the run down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from functools import partial

import cv2
import uvicorn

from camapp.remote.web import channel
from camapp.remote.web.auth import HostCheck, TokenAuth
from camapp.remote.web.connection_limits import ConnectionLimiter, protocol
from camapp.remote.web.encoder import Encoder
from camapp.remote.web.routes import build
from camapp.remote.web.state import ServerState
from camapp.system.process import die_with_parent
from camapp.system.systemd import JournalFormatter, is_journal

log = logging.getLogger(__name__)

# If there are too few cores for both, the run has priority.
_NICE = 5
_MAX_HEAD_BYTES = 16 << 10
# Limit of the kernel's unsent bytes for one client: old images are of no use to a slow one.
_MAX_UNSENT_BYTES = 128 << 10
_HELLO_S = 30.0


def main(arguments: list[str]) -> int:
    """Serve until the run closes the channel."""
    die_with_parent()
    # A service may lack the permission, even to lower its own priority.
    with contextlib.suppress(PermissionError):
        os.nice(_NICE)
    cv2.setNumThreads(1)
    # The run closes the channel to end this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(sys.stderr.fileno()):
        handler.setFormatter(JournalFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    run = socket.socket(fileno=int(arguments[0]))
    listener = socket.socket(fileno=int(arguments[1]))
    serve(run, listener)
    return 0


def serve(run: socket.socket, listener: socket.socket) -> None:
    """Serve on `listener` what the channel `run` brings, until that is closed."""
    run.settimeout(_HELLO_S)
    received = channel.receive(run)
    if received is None:
        return
    run.setblocking(False)
    asyncio.run(_Server(run, listener, received[0]).serve())


class _Server:
    def __init__(self, run: socket.socket, listener: socket.socket, hello: channel.Message) -> None:
        self._run = run
        self._listener = listener
        self._state = ServerState(hello, partial(channel.send, run))
        self._limiter = ConnectionLimiter()
        auth = TokenAuth(hello["token"], hello["port"])
        app = build(self._state, auth, HostCheck(hello["hosts"]), self._limiter)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol(self._limiter),
                ws="websockets-sansio",
                ws_max_size=4096,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            )
        )
        # Malformed requests are answered, but not logged.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._encoders: list[Encoder] = []

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._encoders = [self._encoder(number, loop) for number in range(len(self._state.cameras))]
        for encoder in self._encoders:
            encoder.start()
        loop.add_reader(self._run, self._receive)
        # Accepted connections inherit this option.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        sweeping = asyncio.ensure_future(self._limiter.sweep_forever())
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            sweeping.cancel()
            for encoder in self._encoders:
                encoder.stop()

    def _encoder(self, number: int, loop: asyncio.AbstractEventLoop) -> Encoder:
        camera = list(self._state.cameras.values())[number]

        def on_jpeg(jpeg: bytes, seq: int) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has just ended
                loop.call_soon_threadsafe(camera.set_image, jpeg, seq)

        # If it is not sent, the run has ended, or notices by its bounds.
        done: channel.Message = {"type": "done", "camera": number}
        return Encoder(lambda: camera.watchers > 0, on_jpeg, lambda: channel.send(self._run, done))

    def _receive(self) -> None:
        try:
            received = channel.receive(self._run)
        except BlockingIOError:
            return
        if received is None:
            asyncio.get_running_loop().remove_reader(self._run)
            self._limiter.close()
            self._state.close()
            self._uvicorn.should_exit = True
            return
        message, descriptors = received
        kind = message["type"]
        if kind == "memory":
            self._encoders[message["camera"]].remap(descriptors[0], *message["shape"])
        elif kind == "frame":
            self._encoders[message["camera"]].offer(message["slot"], message["seq"])
        else:
            self._state.receive(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
