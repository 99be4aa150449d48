"""What may be ordered of a camera by MQTT, obeyed one at a time; all else is refused, and the answer says why."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from camapp.models import model_choices, with_model
from camapp.settings import Settings
from camapp.sinks.sink import PictureSink, PredictionSink
from camapp.sinks.snapshot import SnapshotSink
from camapp.status import Status

log = logging.getLogger(__name__)

_WAITING = 4
_LONGEST = 256
_SAY_EVERY_S = 10.0
_PICTURE_S = 5.0
_STOP_S = 1.0


class Watched(Protocol):
    """What the face needs of a camera's run; `Pipeline` is one."""

    name: str
    settings: Settings
    prediction_sinks: list[PredictionSink]
    picture_sinks: list[PictureSink]

    def status(self) -> Status:
        """All that can be told of this moment."""

    def pause(self, held: bool) -> None:
        """Hold the picture and the predictions, or go on."""

    def change(self, settings: Settings) -> None:
        """Take up changed settings; may take seconds. Raises if they cannot be used, and stays as it was."""


class Refused(Exception):
    """An order that is not obeyed; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What came of an order."""

    camera: str
    order: str
    obeyed: bool
    text: str


class Orders:
    """Takes orders in from any thread, at most a few at a time, and obeys them in its own.

    Args:
        cameras: that can be ordered about.
        answer: called with what came of each.
    """

    def __init__(self, cameras: Mapping[str, Watched], answer: Callable[[Answer], None]) -> None:
        self._cameras = cameras
        self._first = {name: camera.settings for name, camera in cameras.items()}
        self._answer = answer
        self._saved: dict[str, queue.SimpleQueue[Path]] = {name: queue.SimpleQueue() for name in cameras}
        self._snapshots = {
            name: SnapshotSink(camera.settings.snapshots, self._saved[name].put) for name, camera in cameras.items()
        }
        for name, camera in cameras.items():
            camera.picture_sinks.append(self._snapshots[name])
        self._orders: Mapping[str, Callable[[Watched, str], str]] = {
            "pause": self._pause,
            "snapshot": self._snapshot,
            "model": self._model,
        }
        self._waiting: queue.Queue[tuple[str, str, str]] = queue.Queue(_WAITING)
        self._unsaid = 0
        self._say_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._obey_all, name="mqtt-orders", daemon=True)

    def start(self) -> None:
        """Be ready to obey."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what waits; an order that is being obeyed is left to the run's own stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def take(self, camera: str, order: str, payload: bytes, retained: bool) -> None:
        """Take one in; returns at once. What cannot be obeyed is answered, if there is such a camera, and logged."""
        try:
            value = self._checked(camera, order, payload, retained)
            try:
                self._waiting.put_nowait((camera, order, value))
            except queue.Full:
                raise Refused(f"{_WAITING} others are waiting") from None
        except Refused as refusal:
            self._complain(camera, order, str(refusal))
            if camera in self._cameras and order in self._orders:
                self._answer(Answer(camera, order, False, f"refused: {refusal}"))

    def _checked(self, camera: str, order: str, payload: bytes, retained: bool) -> str:
        if camera not in self._cameras:
            raise Refused(f"no such camera; there are {', '.join(self._cameras)}")
        if order not in self._orders:
            raise Refused(f"no such order; there are {', '.join(self._orders)}")
        if retained:
            raise Refused("it was retained: an order is for now")
        if len(payload) > _LONGEST:
            raise Refused(f"{len(payload)} bytes are too many")
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise Refused("it is no UTF-8") from None

    def _complain(self, camera: str, order: str, why: str) -> None:
        """One line now and then, however many come."""
        now = time.monotonic()
        if now < self._say_at:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more were refused since the last such line)" if self._unsaid else ""
        self._say_at, self._unsaid = now + _SAY_EVERY_S, 0
        log.warning("MQTT: order %.40r for camera %.40r refused: %s%s", order, camera, why, more)

    # -- in its own thread

    def _obey_all(self) -> None:
        while not self._stopping.is_set():
            try:
                camera, order, value = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                text = self._orders[order](self._cameras[camera], value)
            except Refused as refusal:
                self._complain(camera, order, str(refusal))
                self._answer(Answer(camera, order, False, f"refused: {refusal}"))
            except Exception as error:  # a model that cannot be used, mostly; one bad order must not be the last
                log.error("MQTT: order '%s' for camera '%s' failed: %s", order, camera, error)
                log.debug("traceback", exc_info=error)
                self._answer(Answer(camera, order, False, f"failed: {error}"))
            else:
                log.info("MQTT: %s: %s", camera, text)
                self._answer(Answer(camera, order, True, text))

    def _pause(self, camera: Watched, value: str) -> str:
        if value not in ("ON", "OFF"):
            raise Refused("pause takes ON or OFF")
        camera.pause(value == "ON")
        return "paused" if value == "ON" else "going on"

    def _model(self, camera: Watched, value: str) -> str:
        first = self._first[camera.name]
        choices = model_choices(first)
        if value not in choices:
            raise Refused(f"no such model; there are {', '.join(choices)}")
        camera.change(with_model(camera.settings, first, choices[value]))
        return f"model {value}"

    def _snapshot(self, camera: Watched, value: str) -> str:
        sink, saved = self._snapshots[camera.name], self._saved[camera.name]
        while not saved.empty():  # of an order that was given up
            saved.get()
        lost = sink.writer.lost
        sink.request()
        deadline = time.monotonic() + _PICTURE_S
        while time.monotonic() < deadline and not self._stopping.is_set():
            try:
                return f"saved {saved.get(timeout=0.05)}"
            except queue.Empty:
                if sink.writer.lost > lost:
                    raise Refused(f"the picture could not be saved: {sink.writer.reason}") from None
        raise Refused("no picture came; it is saved when one does")
