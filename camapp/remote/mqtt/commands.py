"""Runs the commands that arrive by MQTT, one at a time; all else is rejected, and the answer names the reason."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from camapp.remote.commands import CameraControl, CommandDispatcher, CommandQueue, CommandRejected

log = logging.getLogger(__name__)

_COMMANDS = ("pause", "snapshot", "model")
_PAUSE = {"ON": "pause", "OFF": "resume"}
_CAPACITY = 4
_MAX_PAYLOAD = 256
_LOG_EVERY_S = 10.0


class MqttCommands:
    """Queues commands from any thread, a few at most, and runs them in a background thread.

    Args:
        on_answer: called with camera, command, whether it was run, and a text, for each command.
        image_timeout: seconds that a snapshot may wait for an image.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        on_answer: Callable[[str, str, bool, str], None],
        image_timeout: float = 5.0,
    ) -> None:
        self._on_answer = on_answer
        self._image_timeout = image_timeout
        self._saved: dict[str, queue.SimpleQueue[Path]] = {camera.name: queue.SimpleQueue() for camera in cameras}
        self._dispatcher = CommandDispatcher(cameras, lambda name, path: self._saved[name].put(path))
        self._queue: CommandQueue[tuple[str, str, str]] = CommandQueue("mqtt-commands", self._handle, _CAPACITY)
        self._suppressed = 0
        self._log_at = 0.0

    def attach(self) -> None:
        """Add the snapshot sinks to the cameras; once, before the run starts."""
        self._dispatcher.attach()

    def start(self) -> None:
        """Start to run commands."""
        self._queue.start()

    def stop(self) -> None:
        """Discard the queued commands; a running one is left to the run's own stop."""
        self._queue.stop()

    def submit(self, camera: str, command: str, payload: bytes, retained: bool) -> None:
        """Queue a command; returns at once. A rejected one is logged, and answered if the camera exists."""
        try:
            if not self._queue.put((camera, command, self._checked(camera, command, payload, retained))):
                raise CommandRejected(f"{_CAPACITY} others are waiting")
        except CommandRejected as rejection:
            self._log_rejection(camera, command, rejection)
            if camera in self._saved and command in _COMMANDS:
                self._on_answer(camera, command, False, f"refused: {rejection}")

    def _checked(self, camera: str, command: str, payload: bytes, retained: bool) -> str:
        if camera not in self._saved:
            raise CommandRejected(f"no such camera; there are {', '.join(self._saved)}")
        if command not in _COMMANDS:
            raise CommandRejected(f"no such command; there are {', '.join(_COMMANDS)}")
        if retained:
            raise CommandRejected("it was retained, and may be old: send commands without the retain flag")
        if len(payload) > _MAX_PAYLOAD:
            raise CommandRejected(f"{len(payload)} bytes are too many")
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise CommandRejected("it is not UTF-8") from None

    def _log_rejection(self, camera: str, command: str, reason: CommandRejected) -> None:
        """Log a rejection, at most once in `_LOG_EVERY_S` seconds."""
        now = time.monotonic()
        if now < self._log_at:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more were refused since the last such line)" if self._suppressed else ""
        self._log_at, self._suppressed = now + _LOG_EVERY_S, 0
        log.warning("MQTT: command %.40r for camera %.40r refused: %s%s", command, camera, reason, more)

    # -- in the queue's thread

    def _handle(self, item: tuple[str, str, str]) -> None:
        camera, command, value = item
        try:
            text = self._snapshot(camera) if command == "snapshot" else self._run(camera, command, value)
        except CommandRejected as rejection:
            self._log_rejection(camera, command, rejection)
            self._on_answer(camera, command, False, f"refused: {rejection}")
        except Exception as error:
            # The thread must survive a command that fails.
            log.error("MQTT: command '%s' for camera '%s' failed: %s", command, camera, error)
            log.debug("traceback", exc_info=error)
            self._on_answer(camera, command, False, f"failed: {error}")
        else:
            log.info("MQTT: %s: %s", camera, text)
            self._on_answer(camera, command, True, text)

    def _run(self, camera: str, command: str, value: str) -> str:
        if command == "pause":
            if value not in _PAUSE:
                raise CommandRejected("pause takes ON or OFF")
            command = _PAUSE[value]
        return self._dispatcher.run(command, camera, value).text

    def _snapshot(self, camera: str) -> str:
        """Save a snapshot and wait for its file, so that the answer can name it."""
        sink, saved = self._dispatcher.snapshots[camera], self._saved[camera]
        # Remove the file of an earlier command that stopped waiting.
        while not saved.empty():
            saved.get()
        lost = sink.lost
        self._dispatcher.run("snapshot", camera)
        deadline = time.monotonic() + self._image_timeout
        while time.monotonic() < deadline and not self._queue.stopping.is_set():
            try:
                return f"saved {saved.get(timeout=0.05)}"
            except queue.Empty:
                if sink.lost > lost:
                    raise CommandRejected(f"the image could not be saved: {sink.reason}") from None
        raise CommandRejected("no image came; it is saved when one does")
