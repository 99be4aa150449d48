"""Serves the web page from a child process, feeds it with a run's images and predictions, and runs its commands."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from camapp.core.addresses import WebAddress, parse_web
from camapp.core.arrays import Pixels
from camapp.core.errors import SinkError
from camapp.core.events import Situation, counts_text
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import prediction_record
from camapp.core.models import model_choices
from camapp.core.predictions import Prediction
from camapp.core.settings import Settings
from camapp.core.zones import parse_lines, parse_zones
from camapp.remote.commands import CameraControl, CommandDispatcher, CommandQueue, CommandRejected
from camapp.remote.web import channel
from camapp.sinks.drive_gate import DriveGate, GateHeld
from camapp.sinks.sink import ImageSink, PredictionSink
from camapp.system.shared_frames import NO_FRAME, Memory, ReadFrame, SharedFrames
from camapp.system.state_dir import StateError, state_directory, web_token
from camapp.system.supervised_process import ChildProcess, SupervisedProcess

log = logging.getLogger(__name__)

_STATUS_EVERY_S = 0.5
_COMMAND_CAPACITY = 16
_RETRY_S, _MAX_RETRY_S = 0.5, 30.0
# The server answers each status; on a small machine its first answer takes seconds.
_FIRST_ANSWER_S, _ANSWER_S = 60.0, 10.0
# Number of boxes, and of the numbers in their outlines, that are sent of one prediction: a message has to fit a packet.
_MAX_BOXES, _MAX_OUTLINES = 200, 5000
# Labels of a model that are sent, for the same reason.
_MAX_LABELS = 2000
# Key of a command's value in the JSON body.
_VALUES = {"label": "label", "model": "model", "roi": "roi", "hud": "shown"}
# Commands whose value is the body itself.
_WHOLE_BODY = ("zone", "line")
PACKAGES = ("starlette", "uvicorn", "websockets")


class WebInterface:
    """Serves the page from a child process, which is restarted if it dies; the run never waits for it.

    An image is drawn, and copied once into shared memory, only while a browser shows it.

    Args:
        address: HOST:PORT.
        hosts: names, besides addresses and this machine's own, that a browser may call it by.
        state: directory of the token and of the regions that clients choose; None takes the state directory.
        metrics: renders the text that Prometheus reads; None serves none.
        reread: reads a camera's settings as the next start would; None makes reloading impossible.
        gate: holds the cars of the run, for `--drive-page`; the page then needs its token at any address.
        answer_s: a server that does not answer a status within this time hangs, and is replaced.

    Attributes:
        lost: messages that the server process did not take.
        address: where the page is served; after `start` with the real port.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        address: str,
        hosts: Sequence[str] = (),
        state: Path | None = None,
        metrics: Callable[[], str] | None = None,
        reread: Callable[[str], Settings] | None = None,
        print_line: Callable[[str], None] = lambda text: print(f"camapp: {text}", file=sys.stderr),
        answer_s: float = _ANSWER_S,
        gate: DriveGate | None = None,
    ) -> None:
        self.lost = 0
        self.address = parse_web(address)
        self._hosts = tuple(hosts)
        self._state = state or state_directory()
        self._print_line = print_line
        self._answer_s = answer_s
        self._gate = gate
        self._token = ""
        self._listener: socket.socket | None = None
        self._feeds = [_Feed(camera, number, self._send) for number, camera in enumerate(cameras)]
        self._metrics = metrics
        self._dispatcher = CommandDispatcher(cameras, self._on_saved, self._state, reread)
        self._queue: CommandQueue[channel.Message] = CommandQueue("web-commands", self._handle, _COMMAND_CAPACITY)
        self._process = SupervisedProcess("web", self._spawn, self._serve, self._on_exit, _RETRY_S, _MAX_RETRY_S)

    def attach(self) -> None:
        """Add this interface's sinks to its cameras; call it once, before they start."""
        self._dispatcher.attach()
        for feed in self._feeds:
            feed.camera.add_sink(feed)

    @property
    def pid(self) -> int | None:
        """Return the process id of the server, if it runs."""
        child = self._process.child
        return child.pid if child is not None else None

    def start(self) -> None:
        """Open the port and start serving. Raises SinkError."""
        check_packages()
        self._listener = listen(self.address)
        self.address = WebAddress(self.address.host, self._listener.getsockname()[1])
        if not self.address.is_loopback or self._gate is not None:
            self._load_token()
        self._print_line(f"the page is at {', on this machine at '.join(self.address.urls)}")
        self._queue.start()
        self._process.start()

    def stop(self) -> None:
        """End the server process; within about two seconds."""
        self._process.stop()
        self._queue.stop()
        if self._listener is not None:
            self._listener.close()
        for feed in self._feeds:
            feed.frames.close()

    def _load_token(self) -> None:
        try:
            self._token, is_new = web_token(self._state)
        except StateError as error:
            raise SinkError(f"--web {self.address}: {error}") from error
        path = self._state / "web-token"
        # The journal keeps a service's output, and other users may read it.
        shown = f"{self._token} (kept in {path})" if is_new and not os.environ.get("JOURNAL_STREAM") else f"in {path}"
        why = "the page can drive a car" if self._gate is not None else "other machines can reach the page"
        self._print_line(f"{why}; its token: {shown}")

    # -- to the server

    def _send(self, message: channel.Message, descriptors: Sequence[int] = ()) -> bool:
        child = self._process.child
        if child is None:
            return False
        sent = channel.send(child.socket, message, descriptors)
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

    def _spawn(self) -> ChildProcess:
        assert self._listener is not None
        fd = self._listener.fileno()
        return ChildProcess("camapp.remote.web.server", str(fd), fds=[fd], buffer_bytes=channel.BUFFER_BYTES)

    def _on_exit(self, code: int | None, reason: str) -> bool:
        log.warning("the page is down (%s); the run continues, and the page is restarted", reason)
        return True

    def _serve(self, child: ChildProcess) -> None:
        """Exchange messages with the server until it ends, is to end, or hangs."""
        self._send(self._hello())
        status_due, answer_due = 0.0, child.started + _FIRST_ANSWER_S
        try:
            while not self._process.stopping.is_set():
                now = time.monotonic()
                if now > answer_due:
                    log.warning("the page's process hangs and is ended")
                    return
                if now >= status_due:
                    status_due = now + _STATUS_EVERY_S
                    self._send_status()
                if child.wait_readable(status_due - time.monotonic()):
                    received = channel.receive(child.socket)
                    if received is None:
                        return
                    answer_due = time.monotonic() + self._answer_s
                    self._receive(received[0])
        finally:
            for feed in self._feeds:
                feed.frames.reset()
            if time.monotonic() - child.started > _MAX_RETRY_S:
                self._process.reset_delay()

    def _send_status(self) -> None:
        for feed in self._feeds:
            camera = feed.camera
            model = feed.models.get(camera.settings.model, camera.settings.model)
            extra = {"hud": camera.hud_shown, "model": model} | places_record(camera.settings)
            if camera.board is not None:
                extra |= {"label": camera.board.label, "collected": camera.board.counts}
            if self._gate is not None:
                extra["drive"] = self._gate.state._asdict()
            record = camera.status().record() | extra
            record["labels"] = record["labels"][:_MAX_LABELS]
            self._send({"type": "status", "camera": feed.number, "record": record})

    def _receive(self, message: channel.Message) -> None:
        kind = message["type"]
        if kind == "done":
            self._feeds[message["camera"]].frames.release()
        elif kind == "watched":
            self._feeds[message["camera"]].frames.wanted = message["on"]
        elif kind == "hold" and self._gate is not None:
            self._gate.hold(message["grant"])
        elif kind == "order" and message["order"] == "drive":
            # Not behind commands that may take seconds.
            self._handle(message)
            self._send_status()
        elif kind == "order" and not self._queue.put(message):
            self._send({"type": "answer", "id": message["id"], "error": "too many requests at once"})

    # -- the command queue's thread

    def _handle(self, message: channel.Message) -> None:
        answer: channel.Message = {"type": "answer", "id": message["id"]}
        try:
            answer["body"] = self.run_command(message["order"], message["camera"], message["body"])
        except CommandRejected as error:
            answer["error"] = str(error)
        except Exception as error:
            # A failed command must not end the run.
            log.error("%s from the page failed: %s: %s", message["order"], type(error).__name__, error)
            log.debug("traceback", exc_info=error)
            answer["error"] = f"failed: {type(error).__name__}"
        self._send(answer)

    def run_command(self, command: str, camera: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run a command, or render the metrics; return the body of the answer. Raises CommandRejected."""
        if command == "metrics":
            if self._metrics is None:
                raise CommandRejected(f"metrics need a package: {sys.executable} -m pip install prometheus-client")
            return {"text": self._metrics()}
        if command == "drive":
            return self._drive(body)
        value = body if command in _WHOLE_BODY else body.get(_VALUES.get(command, ""))
        result = self._dispatcher.run(command, camera, value)
        if result.text:
            self._notify(camera, result.text, str(body.get("client", "")))
        return result.values

    def _drive(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Stop the cars, or let them drive for the page that sent this. Raises CommandRejected."""
        if self._gate is None:
            raise CommandRejected("start with --drive-page to drive from the page")
        if body.get("go") is False:
            self._gate.stop("stopped from a page")
            return {"driving": False, "grant": ""}
        client = body.get("client")
        if body.get("go") is not True or not isinstance(client, str) or not client:
            raise CommandRejected("go is true or false; client names the page")
        try:
            return {"driving": True, "grant": self._gate.release(client)}
        except GateHeld as error:
            raise CommandRejected(str(error)) from error

    def _on_saved(self, camera: str, path: Path) -> None:
        log.info("saved '%s'", path)
        self._notify(camera, f"snapshot saved as {path.name}")


class _Feed(PredictionSink, ImageSink):
    """Sends one camera to the server: every prediction, and images while a browser shows them."""

    def __init__(self, camera: CameraControl, number: int, send: Callable[..., bool]) -> None:
        self.camera = camera
        self.number = number
        self.send = send
        self.models = {path: name for name, path in model_choices(camera.settings).items()}
        self.frames = SharedFrames(self._send_frame)
        self._situation = Situation()

    def _send_frame(self, frame: ReadFrame, memory: Memory | None) -> bool:
        if memory is not None:
            fd, shape = memory
            if not self.send({"type": "memory", "camera": self.number, "shape": shape}, [fd]):
                return False
        return self.send({"type": "frame", "camera": self.number, "slot": frame.slot, "seq": frame.seq})

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        self._situation.update(prediction, frame, trace)
        counts = self._situation.counts
        record = prediction_record(prediction, frame, trace)
        record["summary"] = counts_text(counts) if self._situation.finds_objects else prediction.label
        record["boxes"] = _bounded(record["boxes"])
        self.send({"type": "prediction", "camera": self.number, "record": record})

    def wanted(self) -> bool:
        return self.frames.wanted

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        if self.frames.wanted:
            self.frames.publish(canvas, trace.seq if trace else NO_FRAME)


def places_record(settings: Settings) -> dict[str, Any]:
    """Return the zones and lines of the settings, with their points as fractions of the image."""
    return {
        "zones": [{"name": zone.name, "points": zone.corners} for zone in parse_zones(settings.zone)],
        "lines": [{"name": line.name, "points": (line.start, line.end)} for line in parse_lines(settings.line)],
    }


def _bounded(boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first boxes, without the outlines that are too many."""
    left = _MAX_OUTLINES
    for box in boxes[:_MAX_BOXES]:
        left -= sum(map(len, box.get("outlines", ())))
        if left < 0:
            box.pop("outlines", None)
    return boxes[:_MAX_BOXES]


def check_packages(packages: Sequence[str] = PACKAGES) -> None:
    """Raise SinkError unless the server's packages are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SinkError(f"--web needs {' and '.join(missing)}: {sys.executable} -m pip install {' '.join(packages)}")


def listen(address: WebAddress) -> socket.socket:
    """Return a socket that listens at `address`. Raises SinkError."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SinkError(f"--web {address}: no such address: {error.strerror}") from error
    family, kind, protocol, _, socket_address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket_address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        denied = isinstance(error, PermissionError)
        hints = {
            errno.EADDRINUSE: "another program has this port (ss -ltnp shows which): choose another, such as "
            f"--web {WebAddress(address.host, min(address.port + 1, 65535))}",
            errno.EADDRNOTAVAIL: "this machine has no such address: 0.0.0.0 listens on all of its addresses",
            errno.EACCES: "ports below 1024 are reserved for root: choose a higher one, such as 8080",
        }
        why = hints.get(error.errno or 0, error.strerror or str(error))
        raise SinkError(f"--web {address}: {why}", denied=denied) from error
    return listener
