"""Publishes predictions, status and health of all cameras by MQTT, and receives commands for them.

Topics, below PREFIX/DEVICE; all are JSON but the first, and retained:

    availability         online or offline
    health               the machine: temperature, CPU, throttling
    CAMERA/status        state of the camera's run: rates, latency, frames, model
    CAMERA/prediction    when the label changes, and every ten seconds
    CAMERA/values        named numbers, such as the position in a lane, five times a second
    CAMERA/answer        the outcome of the last command
    CAMERA/set/pause     ON or OFF; CAMERA/set/model: a name; CAMERA/set/snapshot: anything
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from camapp import __version__
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import SCHEMA, prediction_record
from camapp.core.models import model_choices
from camapp.core.predictions import Prediction
from camapp.core.status import Status
from camapp.remote.commands import CameraControl
from camapp.remote.mqtt.client import Access, MqttClient, Subscription, Timeouts
from camapp.remote.mqtt.commands import MqttCommands
from camapp.remote.mqtt.discovery import BIRTH_TOPIC, CameraEntities, discovery_payload, discovery_topic
from camapp.remote.mqtt.queue import Message
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

_MAX_BOXES = 50
_TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class Timing:
    """Sets the intervals of the messages; all values are in seconds.

    Attributes:
        heartbeat: an unchanged label is published again after this time.
        values: shortest interval between two messages of values.
        status: an unchanged status, and the health, are published again after this time.
        announce: shortest interval between two answers to Home Assistant's birth message, which anyone can send.
        image: a snapshot may wait for an image for this time.
    """

    heartbeat: float = 10.0
    values: float = 0.2
    status: float = 5.0
    announce: float = 5.0
    image: float = 5.0


class MqttInterface:
    """Publishes the cameras to a broker, and runs the commands that it delivers.

    Args:
        device: id of this device, unique at that broker.

    Attributes:
        client: the connection to the broker.

    Raises:
        SinkError: paho-mqtt is not installed, or a certificate cannot be used.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        access: Access,
        device: str,
        timing: Timing = Timing(),
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        self._device = device
        self._timing = timing
        self._topic = f"{access.address.prefix}/{device}"
        self._availability = f"{self._topic}/availability"
        self.client = MqttClient(
            access,
            f"camapp-{device}",
            Message(self._availability, b"offline"),
            Subscription((BIRTH_TOPIC, self._availability, f"{self._topic}/+/set/+"), self._handle_message),
            self._announce,
            self._tick,
            timeouts=timeouts,
        )
        self._commands = MqttCommands(cameras, self._publish_answer, timing.image)
        self._publishers = [
            _CameraPublisher(camera, f"{self._topic}/{camera.name}", self.client, timing) for camera in cameras
        ]
        self._components: dict[str, str] = {}
        self._tasks: tuple[str, ...] = ()
        self._announced_at = 0.0
        self._must_announce = False
        self._health_due = 0.0
        self._has_namesake = False

    def attach(self) -> None:
        """Add this interface's sinks to its cameras; once, before the run starts."""
        self._commands.attach()
        for publisher in self._publishers:
            publisher.camera.add_sink(publisher)

    def start(self) -> None:
        """Start to connect; an absent broker is waited for."""
        self._commands.start()
        self.client.start()

    def stop(self) -> None:
        """Publish the final status of each camera, and disconnect."""
        self._commands.stop()
        for publisher in self._publishers:
            publisher.publish_status(always=True)
        self.client.set(self._availability, b"offline")
        self.client.stop()

    # -- in the client's thread

    def _announce(self) -> None:
        """Publish all retained messages, for a broker or a Home Assistant that may have lost them."""
        self._announced_at, self._must_announce, self._health_due = time.monotonic(), False, 0.0
        self._publish_discovery()
        self.client.set(self._availability, b"online")
        for publisher in self._publishers:
            publisher.publish_status(always=True)
            publisher.publish_prediction()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._must_announce and now - self._announced_at >= self._timing.announce:
            self._announce()
        statuses = [publisher.publish_status() for publisher in self._publishers]
        if tuple(status.task for status in statuses) != self._tasks:
            self._publish_discovery()
        if now >= self._health_due:
            self._health_due = now + self._timing.status
            self.client.set(f"{self._topic}/health", encoded(self._health(statuses[0])))

    def _publish_discovery(self) -> None:
        cameras = [
            CameraEntities(each.camera.name, each.topic, each.camera.status().task, tuple(each.choices))
            for each in self._publishers
        ]
        self._tasks = tuple(camera.task for camera in cameras)
        payload, components = discovery_payload(self._device, self._topic, cameras, self._components)
        self._components |= components
        self.client.set(discovery_topic(self._device), payload)

    def _health(self, status: Status) -> dict[str, Any]:
        health = status.figures.health
        return {
            "schema": SCHEMA,
            "time": _now(),
            "version": __version__,
            "cameras": [publisher.camera.name for publisher in self._publishers],
            "temperature_c": health.temperature_c,
            "cpu": health.cpu,
            "throttled": health.now,
            "throttled_since_boot": health.since_boot,
            "alerts": health.alerts,
            "messages_lost": self.client.queue.lost,
        }

    def _handle_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == BIRTH_TOPIC:
            self._must_announce = self._must_announce or payload == b"online"
        elif topic == self._availability:
            self._correct_availability(payload)
        else:
            camera, _, command = topic.removeprefix(f"{self._topic}/").partition("/set/")
            self._commands.submit(camera, command, payload, retained)

    def _correct_availability(self, payload: bytes) -> None:
        """Handle an availability from another sender: the will of an old, lost connection, or a device of this name."""
        if payload != b"online":
            self.client.set(self._availability, b"online")
        elif not self._has_namesake:
            self._has_namesake = True
            log.warning(
                "another camapp calls itself device '%s' at this broker: give one of them its own --device-name",
                self._device,
            )

    # -- in the commands' thread, or the client's

    def _publish_answer(self, camera: str, command: str, ok: bool, text: str) -> None:
        record = {"time": _now(), "order": command, "ok": ok, "message": text}
        self.client.set(f"{self._topic}/{camera}/answer", encoded(record))
        self.client.tick_soon()


class _CameraPublisher(PredictionSink):
    """Publishes the messages of one camera."""

    def __init__(self, camera: CameraControl, topic: str, client: MqttClient, timing: Timing) -> None:
        self.camera = camera
        self.topic = topic
        self.choices = {path: name for name, path in model_choices(camera.settings).items()}
        self._client = client
        self._timing = timing
        self._label: str | None = None
        self._newest: bytes | None = None
        self._due = self._values_due = self._status_due = 0.0
        self._published: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Publish a changed label at once, an unchanged one after the heartbeat, and values at a limited rate."""
        now = time.monotonic()
        with self._lock:
            # Without a connection only changes are queued.
            if prediction.label != self._label or (now >= self._due and self._client.connected):
                self._label, self._due = prediction.label, now + self._timing.heartbeat
                record = prediction_record(prediction, frame, trace)
                record["boxes"] = record["boxes"][:_MAX_BOXES]
                self._newest = encoded(record)
                self._client.put(f"{self.topic}/prediction", self._newest)
        if prediction.values and now >= self._values_due and self._client.connected:
            self._values_due = now + self._timing.values
            values = {name: round(value, 5) for name, value in prediction.values.items()}
            record = {"seq": prediction.seq, "label": prediction.label} | values
            self._client.set(f"{self.topic}/values", encoded(record))

    def publish_prediction(self) -> None:
        """Publish the newest prediction again, after all that wait."""
        with self._lock:
            if self._newest is not None:
                self._client.put(f"{self.topic}/prediction", self._newest)

    def publish_status(self, always: bool = False) -> Status:
        """Publish the status if it has changed, if it is due, or `always`; return it."""
        status = self.camera.status()
        now = time.monotonic()
        key = (status.state, status.reason, status.figures.paused, self.camera.settings.model)
        if always or key != self._published or now >= self._status_due:
            self._published, self._status_due = key, now + self._timing.status
            model = self.choices.get(self.camera.settings.model, self.camera.settings.model)
            self._client.set(f"{self.topic}/status", encoded(status_record(status, model)))
        return status


def status_record(status: Status, model: str) -> dict[str, Any]:
    """Return a camera's status as it is published; `model` is the name by which a command chooses it."""
    figures, balance = status.figures, status.balance
    p50, p95, p99 = status.latency_ms.get("total", (0.0, 0.0, 0.0))
    return {
        "schema": SCHEMA,
        "time": _now(),
        "camera": status.camera,
        "state": status.state.value,
        "reason": status.reason,
        "paused": figures.paused,
        "source": figures.source,
        "model": model,
        "task": status.task,
        "fps": {
            "camera": round(figures.camera_fps, 2),
            "inference": round(figures.infer_fps, 2),
            "target": figures.target_fps,
        },
        "latency_ms": {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)},
        "frames": {
            "captured": balance.captured,
            "predicted": balance.predicted,
            "dropped": balance.dropped,
            "dropped_total": sum(balance.dropped.values()),
            "failed": balance.failed,
            "failed_total": sum(balance.failed.values()),
            "in_flight": balance.in_flight,
            "sensor_missed": balance.sensor_missed,
        },
        "workers": figures.workers,
        "workers_busy": round(figures.workers_busy, 3),
        "restarts": figures.restarts,
        "uptime_s": round(status.uptime_s, 1),
    }


def encoded(record: dict[str, Any]) -> bytes:
    """Return the record as JSON in UTF-8; NaN and infinity become null, because JSON has neither."""
    return json.dumps(_finite(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "backslashreplace"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
