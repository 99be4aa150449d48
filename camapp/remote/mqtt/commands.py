"""What is ordered of a camera by MQTT, obeyed one at a time; all else is refused, and the answer says why."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from camapp.remote.commands import CameraControl, CommandQueue, CommandRejected, RemoteControl

log = logging.getLogger(__name__)

_WAITING = 4
_LONGEST = 256
_SAY_EVERY_S = 10.0
_IMAGE_S = 5.0


@dataclass(frozen=True)
class Answer:
    """What came of an order."""

    camera: str
    order: str
    obeyed: bool
    text: str


class MqttCommands:
    """Takes orders in from any thread, at most a few at a time, and obeys them in its own.

    Args:
        cameras: that can be ordered about.
        answer: called with what came of each.
    """

    def __init__(self, cameras: Sequence[CameraControl], answer: Callable[[Answer], None]) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._answer = answer
        self._saved: dict[str, queue.SimpleQueue[Path]] = {name: queue.SimpleQueue() for name in self._cameras}
        self._steering = RemoteControl(cameras, lambda name, path: self._saved[name].put(path))
        self._orders: Mapping[str, Callable[[CameraControl, str], str]] = {
            "pause": self._pause,
            "snapshot": self._snapshot,
            "model": self._model,
        }
        self._clerk: CommandQueue[tuple[str, str, str]] = CommandQueue("mqtt-orders", self._obey, _WAITING)
        self._unsaid = 0
        self._say_at = 0.0

    def start(self) -> None:
        """Be ready to obey."""
        self._clerk.start()

    def stop(self) -> None:
        """Leave what waits; an order that is being obeyed is left to the run's own stop."""
        self._clerk.stop()

    def take(self, camera: str, order: str, payload: bytes, retained: bool) -> None:
        """Take one in; returns at once. What cannot be obeyed is answered, if there is such a camera, and logged."""
        try:
            if not self._clerk.take((camera, order, self._checked(camera, order, payload, retained))):
                raise CommandRejected(f"{_WAITING} others are waiting")
        except CommandRejected as refusal:
            self._complain(camera, order, str(refusal))
            if camera in self._cameras and order in self._orders:
                self._answer(Answer(camera, order, False, f"refused: {refusal}"))

    def _checked(self, camera: str, order: str, payload: bytes, retained: bool) -> str:
        if camera not in self._cameras:
            raise CommandRejected(f"no such camera; there are {', '.join(self._cameras)}")
        if order not in self._orders:
            raise CommandRejected(f"no such order; there are {', '.join(self._orders)}")
        if retained:
            raise CommandRejected("it was retained: an order is for now")
        if len(payload) > _LONGEST:
            raise CommandRejected(f"{len(payload)} bytes are too many")
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise CommandRejected("it is no UTF-8") from None

    def _complain(self, camera: str, order: str, why: str) -> None:
        """One line now and then, however many come."""
        now = time.monotonic()
        if now < self._say_at:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more were refused since the last such line)" if self._unsaid else ""
        self._say_at, self._unsaid = now + _SAY_EVERY_S, 0
        log.warning("MQTT: order %.40r for camera %.40r refused: %s%s", order, camera, why, more)

    # -- in the clerk's thread

    def _obey(self, what: tuple[str, str, str]) -> None:
        camera, order, value = what
        try:
            text = self._orders[order](self._cameras[camera], value)
        except CommandRejected as refusal:
            self._complain(camera, order, str(refusal))
            self._answer(Answer(camera, order, False, f"refused: {refusal}"))
        except Exception as error:  # one bad order must not be the last
            log.error("MQTT: order '%s' for camera '%s' failed: %s", order, camera, error)
            log.debug("traceback", exc_info=error)
            self._answer(Answer(camera, order, False, f"failed: {error}"))
        else:
            log.info("MQTT: %s: %s", camera, text)
            self._answer(Answer(camera, order, True, text))

    def _pause(self, camera: CameraControl, value: str) -> str:
        if value not in ("ON", "OFF"):
            raise CommandRejected("pause takes ON or OFF")
        (camera.pause if value == "ON" else camera.resume)()
        return "paused" if value == "ON" else "going on"

    def _model(self, camera: CameraControl, value: str) -> str:
        self._steering.choose_model(camera, value)
        return f"model {value}"

    def _snapshot(self, camera: CameraControl, value: str) -> str:
        sink, saved = self._steering.snapshots[camera.name], self._saved[camera.name]
        while not saved.empty():  # of an order that was given up
            saved.get()
        lost = sink.lost
        sink.request()
        deadline = time.monotonic() + _IMAGE_S
        while time.monotonic() < deadline and not self._clerk.stopping.is_set():
            try:
                return f"saved {saved.get(timeout=0.05)}"
            except queue.Empty:
                if sink.lost > lost:
                    raise CommandRejected(f"the image could not be saved: {sink.reason}") from None
        raise CommandRejected("no image came; it is saved when one does")
