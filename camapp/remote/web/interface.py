"""The page, seen from the run: feeds the process that serves it, obeys what its visitors ask for, keeps it alive."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from camapp.core.addresses import WebAddress, parse_web
from camapp.core.arrays import Pixels
from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import prediction_record
from camapp.core.models import model_choices
from camapp.core.predictions import Prediction
from camapp.core.settings import Settings
from camapp.remote.commands import CameraControl, CommandQueue, CommandRejected
from camapp.remote.web import channel
from camapp.remote.web.commands import WebCommands
from camapp.sinks.sink import ImageSink, PredictionSink
from camapp.system.process import start_child
from camapp.system.shared_frames import ReadFrame, SharedFrames
from camapp.system.state_dir import StateError, state_directory, web_token

log = logging.getLogger(__name__)

_NOTICE = -1  # seq of an image that is no frame
_STATUS_EVERY_S = 0.5
_WAITING_ORDERS = 16
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
_GOODBYE_S = 1.0
# Its process says a word for each status; on a small machine it takes seconds to its first.
_FIRST_WORD_S, _HANGS_S = 60.0, 10.0
_NEEDED = ("starlette", "uvicorn", "websockets")


class WebInterface:
    """Serves the page from a process of its own, which may die and is started again; the run never waits for it.

    The image is drawn, and copied once into shared memory, only while somebody watches.

    Args:
        cameras: the runs to show.
        address: HOST:PORT.
        hosts: names, besides addresses and this machine's own, that a browser may call it by.
        state: where the token and what visitors change is kept; None takes the state directory.
        metrics: renders the text that Prometheus reads; None serves none.
        reread: gives a camera's settings as the next start would; None asks nobody.
        say: tells the user a line.

    Attributes:
        lost: messages that the server's process did not take.
        address: where it is served; once started, with the real port.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        address: str,
        hosts: Sequence[str] = (),
        state: Path | None = None,
        metrics: Callable[[], str] | None = None,
        reread: Callable[[str], Settings] | None = None,
        say: Callable[[str], None] = lambda text: print(f"camapp: {text}", file=sys.stderr),
    ) -> None:
        self.lost = 0
        self.address = parse_web(address)
        self._hosts = tuple(hosts)
        self._state = state or state_directory()
        self._say = say
        self._token = ""
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_event = threading.Event()
        self._feeds = [_Feed(camera, number, self._send) for number, camera in enumerate(cameras)]
        self._orders = WebCommands(cameras, self._state, metrics, reread, self._notify)
        self._clerk: CommandQueue[channel.Message] = CommandQueue("web-orders", self._obey, _WAITING_ORDERS)
        self._thread = threading.Thread(target=self._supervise, name="web", daemon=True)
        for camera, feed in zip(cameras, self._feeds, strict=True):
            camera.add_sink(feed.predictions)
            camera.add_sink(feed.images)

    @property
    def pid(self) -> int | None:
        """The serving process, while there is one."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Take the port and start serving. Raises SinkError."""
        check_packages()
        self._listener = listen(self.address)
        self.address = WebAddress(self.address.host, self._listener.getsockname()[1])
        if not self.address.is_loopback:
            self._take_token()
        self._say(f"the page is at {self.address.url}")
        self._clerk.start()
        self._thread.start()

    def stop(self) -> None:
        """End the serving process; within about two seconds."""
        self._stop_event.set()
        peer = self._peer
        if peer is not None:
            _hang_up(peer)
        self._clerk.stop()
        if self._thread.is_alive():
            self._thread.join(2 * _GOODBYE_S)
        if self._listener is not None:
            self._listener.close()
        for feed in self._feeds:
            feed.canvas.close()

    def _take_token(self) -> None:
        try:
            self._token, is_new = web_token(self._state)
        except StateError as error:
            raise SinkError(f"--web {self.address}: {error}") from error
        where = self._state / "web-token"
        # A service's words are kept in the journal, which others may read.
        shown = f"{self._token} (kept in {where})" if is_new and not os.environ.get("JOURNAL_STREAM") else f"in {where}"
        self._say(f"other machines can reach the page; its token: {shown}")

    # -- to the server

    def _send(self, message: channel.Message, descriptors: Sequence[int] = ()) -> bool:
        peer = self._peer
        if peer is None:
            return False
        sent = channel.send(peer, message, descriptors)
        self.lost += not sent
        return sent

    def _notify(self, camera: str, text: str, by: str = "") -> None:
        self._send({"type": "notice", "camera": camera, "text": text, "by": by})

    def _hello(self) -> channel.Message:
        return {
            "type": "hello",
            "cameras": [{"name": feed.camera.name, "models": list(feed.models.values())} for feed in self._feeds],
            "token": self._token,
            "hosts": self._hosts,
            "port": self.address.port,
        }

    # -- the supervising thread

    def _supervise(self) -> None:
        wait = _SHORTEST_RETRY_S
        while not self._stop_event.is_set():
            started = time.monotonic()
            try:
                why = self._run_child()
            except OSError as error:
                why = f"its process cannot be started: {error}"
            if self._stop_event.is_set():
                return
            lasted = time.monotonic() - started > _LONGEST_RETRY_S
            wait = _SHORTEST_RETRY_S if lasted else min(2 * wait, _LONGEST_RETRY_S)
            log.warning("the page is gone for a moment (%s); the run goes on, it is started again", why)
            self._stop_event.wait(wait)

    def _run_child(self) -> str:
        """A serving process's life; why it ended."""
        assert self._listener is not None
        ours, theirs = channel.pair()
        with ours:
            with theirs:
                fds = [theirs.fileno(), self._listener.fileno()]
                self._child = child = start_child("camapp.remote.web.server", *map(str, fds), fds=fds)
            # A socket with a time limit would wait for it before it sends, and the run with it.
            ours.setblocking(False)
            self._peer = ours
            try:
                self._send(self._hello())
                self._listen(ours)
            finally:
                self._peer = None
                for feed in self._feeds:
                    feed.forget_watchers()
                _hang_up(ours)
                code = _end(child)
                self._child = None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _listen(self, peer: socket.socket) -> None:
        """Hear the server out until it ends, is to end, or hangs."""
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        due, heard_by = 0.0, time.monotonic() + _FIRST_WORD_S
        while not self._stop_event.is_set():
            now = time.monotonic()
            if now > heard_by:
                log.warning("the page's process hangs and is ended")
                return
            if now >= due:
                due = now + _STATUS_EVERY_S
                self._tell_status()
            if poll.poll(1000 * max(0.0, due - time.monotonic())):
                received = channel.receive(peer)
                if received is None:
                    return
                heard_by = time.monotonic() + _HANGS_S
                self._hear(received[0])

    def _tell_status(self) -> None:
        for feed in self._feeds:
            camera = feed.camera
            model = feed.models.get(camera.settings.model, camera.settings.model)
            extra = {"hud": camera.hud_shown, "model": model}
            self._send({"type": "status", "camera": feed.number, "record": camera.status().record() | extra})

    def _hear(self, message: channel.Message) -> None:
        kind = message["type"]
        if kind == "done":
            self._feeds[message["camera"]].note_done()
        elif kind == "watched":
            self._feeds[message["camera"]].watch(message["on"])
        elif kind == "order" and not self._clerk.take(message):
            self._send({"type": "answer", "id": message["id"], "error": "too much is asked for at once"})

    # -- in the clerk's thread

    def _obey(self, message: channel.Message) -> None:
        answer: channel.Message = {"type": "answer", "id": message["id"]}
        try:
            answer["body"] = self._orders.obey(message["order"], message["camera"], message["body"])
        except CommandRejected as error:
            answer["error"] = str(error)
        except Exception as error:
            # Whatever a visitor's wish brings about, the run goes on.
            log.error("%s from the page failed: %s: %s", message["order"], type(error).__name__, error)
            log.debug("traceback", exc_info=error)
            answer["error"] = f"failed: {type(error).__name__}"
        self._send(answer)


class _Feed:
    """One camera's way to the server: predictions as they come, images while somebody watches."""

    def __init__(self, camera: CameraControl, number: int, send: Callable[..., bool]) -> None:
        self.camera = camera
        self.number = number
        self.models = {path: name for name, path in model_choices(camera.settings).items()}
        self.canvas = SharedFrames(readers=1)
        self.predictions = _Predictions(self)
        self.images = _Images(self)
        self.send = send
        self.watched = False
        self._lock = threading.Lock()
        self._in_hand: ReadFrame | None = None
        self._last_serial = 0
        self._told_generation = 0

    def watch(self, on: bool) -> None:
        """Somebody looks at this camera, or nobody does any more."""
        self.watched = on

    def forget_watchers(self) -> None:
        """The server is gone, with all that it held."""
        with self._lock:
            self.watched = False
            if self._in_hand is not None:
                self.canvas.release(self._in_hand)
            self._in_hand, self._last_serial, self._told_generation = None, 0, 0

    def publish(self, image: Pixels, seq: int) -> None:
        """The newest image; one that the server has not yet taken is forgotten. Costs one copy."""
        self.canvas.publish(image, seq)
        self._offer()

    def note_done(self) -> None:
        """The server is done with the image it had."""
        with self._lock:
            taken, self._in_hand = self._in_hand, None
        if taken is not None:
            self.canvas.release(taken)
            self._offer()

    def _offer(self) -> None:
        with self._lock:
            if self._in_hand is not None or not self.watched:
                return
            taken = self.canvas.take(self._last_serial)
            if taken is None:
                return
            if not self._tell(taken):
                self.canvas.release(taken)
                return
            self._in_hand, self._last_serial = taken, taken.serial

    def _tell(self, taken: ReadFrame) -> bool:
        if taken.generation != self._told_generation:
            height, width = self.canvas.size
            message = {"type": "canvas", "slots": self.canvas.slots, "height": height, "width": width}
            if not self.send({"camera": self.number, **message}, [self.canvas.fd]):
                return False
            self._told_generation = taken.generation
        return self.send({"type": "frame", "camera": self.number, "slot": taken.slot, "seq": taken.seq})


class _Predictions(PredictionSink):
    def __init__(self, feed: _Feed) -> None:
        self._feed = feed

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Pass it on."""
        feed = self._feed
        record = prediction_record(prediction, frame, trace)
        feed.send({"type": "prediction", "camera": feed.number, "record": record})


class _Images(ImageSink):
    def __init__(self, feed: _Feed) -> None:
        self._feed = feed

    def wanted(self) -> bool:
        """Somebody watches."""
        return self._feed.watched

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Pass it on while somebody watches."""
        if self._feed.watched:
            self._feed.publish(canvas, trace.seq if trace else _NOTICE)


def check_packages() -> None:
    """Whether the server's packages are there. Raises SinkError."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SinkError(f"--web needs {' and '.join(missing)}: {sys.executable} -m pip install {' '.join(_NEEDED)}")


def listen(address: WebAddress) -> socket.socket:
    """A socket that listens there. Raises SinkError."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SinkError(f"--web {address}: no such address: {error.strerror}") from error
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        denied = isinstance(error, PermissionError)
        hints = {
            errno.EADDRINUSE: "another program has this port (ss -ltnp shows which): name another, such as "
            f"--web {WebAddress(address.host, min(address.port + 1, 65535))}",
            errno.EADDRNOTAVAIL: "this machine has no such address: 0.0.0.0 takes all it has",
            errno.EACCES: "ports under 1024 are for root: take one above, such as 8080",
        }
        why = hints.get(error.errno or 0, error.strerror or str(error))
        raise SinkError(f"--web {address}: {why}", denied=denied) from error
    return listener


def _hang_up(peer: socket.socket) -> None:
    try:
        peer.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("the page's process has hung up already")


def _end(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(_GOODBYE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
