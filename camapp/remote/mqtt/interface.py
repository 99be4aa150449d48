"""The run, as others on the broker see it: what cameras see and how they are, and orders for them.

Topics, below PREFIX/DEVICE; all are JSON but the first, and retained:

    availability         online or offline
    health               the machine: temperature, CPU, throttling
    CAMERA/status        what the camera's run is at: rates, latency, frames, model
    CAMERA/prediction    when the label changes, and every ten seconds
    CAMERA/values        named numbers, such as the place in a lane, five times a second
    CAMERA/answer        what came of the last order
    CAMERA/set/pause     ON or OFF; CAMERA/set/model: a name; CAMERA/set/snapshot: anything
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from camapp import __version__
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import SCHEMA, prediction_record
from camapp.core.models import model_choices
from camapp.core.predictions import Prediction
from camapp.core.status import Status
from camapp.remote.commands import CameraControl
from camapp.remote.mqtt.client import Access, Message, MqttClient
from camapp.remote.mqtt.commands import Answer, MqttCommands
from camapp.remote.mqtt.discovery import BIRTH_TOPIC, CameraCard, discovery_payload, discovery_topic
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
_VALUES_EVERY_S = 0.2
_STATUS_EVERY_S = 5.0
# Home Assistant, or somebody in its name, is not answered more often.
_ANNOUNCE_EVERY_S = 5.0
_MAX_BOXES = 50


class MqttInterface:
    """Tells a broker about the cameras, and takes orders from it.

    Args:
        cameras: the runs.
        access: the broker.
        device: this device's id, unlike any other's on that broker.

    Attributes:
        link: the way to the broker.

    Raises:
        SinkError: paho-mqtt is not installed, or a certificate cannot be used.
    """

    def __init__(self, cameras: Sequence[CameraControl], access: Access, device: str) -> None:
        self._device = device
        self._topic = f"{access.address.prefix}/{device}"
        self._availability = f"{self._topic}/availability"
        self.link = MqttClient(
            access,
            f"camapp-{device}",
            Message(self._availability, b"offline"),
            (BIRTH_TOPIC, self._availability, f"{self._topic}/+/set/+"),
            self._announce,
            self._heard,
            self._tick,
        )
        self._orders = MqttCommands(cameras, self._answered)
        self._feeds = [_Feed(camera, f"{self._topic}/{camera.name}", self.link) for camera in cameras]
        self._known: dict[str, str] = {}
        self._tasks: tuple[str, ...] = ()
        self._announced_at = 0.0
        self._is_asked = False
        self._health_due = 0.0
        self._has_namesake = False

    def start(self) -> None:
        """Begin; a broker that is not there is waited for."""
        self._orders.start()
        self.link.start()

    def stop(self) -> None:
        """Say how the runs ended, and take leave."""
        self._orders.stop()
        for feed in self._feeds:
            feed.tell_status(always=True)
        self.link.set(self._availability, b"offline")
        self.link.stop()

    # -- in the link's thread

    def _announce(self) -> None:
        """All that is retained, for a broker or a Home Assistant that may have forgotten it."""
        self._announced_at, self._is_asked, self._health_due = time.monotonic(), False, 0.0
        self._tell_discovery()
        self.link.set(self._availability, b"online")
        for feed in self._feeds:
            feed.tell_status(always=True)
            feed.tell_prediction()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._is_asked and now - self._announced_at >= _ANNOUNCE_EVERY_S:
            self._announce()
        statuses = [feed.tell_status() for feed in self._feeds]
        if tuple(status.task for status in statuses) != self._tasks:
            self._tell_discovery()
        if now >= self._health_due:
            self._health_due = now + _STATUS_EVERY_S
            self.link.set(f"{self._topic}/health", encoded(self._health(statuses[0])))

    def _tell_discovery(self) -> None:
        cards = [
            CameraCard(feed.camera.name, feed.topic, feed.camera.status().task, tuple(feed.choices))
            for feed in self._feeds
        ]
        self._tasks = tuple(card.task for card in cards)
        payload, components = discovery_payload(self._device, self._topic, cards, self._known)
        self._known |= components
        self.link.set(discovery_topic(self._device), payload)

    def _health(self, status: Status) -> dict[str, Any]:
        health = status.figures.health
        return {
            "schema": SCHEMA,
            "time": _now(),
            "version": __version__,
            "cameras": [feed.camera.name for feed in self._feeds],
            "temperature_c": health.temperature_c,
            "cpu": health.cpu,
            "throttled": health.now,
            "throttled_since_boot": health.since_boot,
            "alerts": health.alerts,
            "messages_lost": self.link.lost,
        }

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == BIRTH_TOPIC:
            self._is_asked = self._is_asked or payload == b"online"
            return
        if topic == self._availability:
            self._contradict(payload)
            return
        camera, _, order = topic.removeprefix(f"{self._topic}/").partition("/set/")
        self._orders.take(camera, order, payload, retained)

    def _contradict(self, payload: bytes) -> None:
        """Somebody else speaks of this device: the broker of a connection that it lost long ago, or a namesake."""
        if payload != b"online":
            self.link.set(self._availability, b"online")
        elif not self._has_namesake:
            self._has_namesake = True
            log.warning(
                "another camapp calls itself device '%s' at this broker: give one of them its own --device-name",
                self._device,
            )

    # -- in the orders' thread, or the link's

    def _answered(self, answer: Answer) -> None:
        record = {"time": _now(), "order": answer.order, "ok": answer.obeyed, "message": answer.text}
        self.link.set(f"{self._topic}/{answer.camera}/answer", encoded(record))
        self.link.nudge()


class _Feed(PredictionSink):
    """One camera's messages."""

    def __init__(self, camera: CameraControl, topic: str, link: MqttClient) -> None:
        self.camera = camera
        self.topic = topic
        self.choices = {path: name for name, path in model_choices(camera.settings).items()}
        self._link = link
        self._label: str | None = None
        self._newest: bytes | None = None
        self._due = self._values_due = self._status_due = 0.0
        self._said: tuple[object, ...] = ()
        self._lock = threading.Lock()
        camera.add_sink(self)

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Tell of a new label at once, of the same one now and then, of numbers at a rate that a house can bear."""
        now = time.monotonic()
        with self._lock:
            # While nobody listens only changes are kept.
            if prediction.label != self._label or (now >= self._due and self._link.connected):
                self._label, self._due = prediction.label, now + HEARTBEAT_S
                record = prediction_record(prediction, frame, trace)
                record["boxes"] = record["boxes"][:_MAX_BOXES]
                self._newest = encoded(record)
                self._link.put(f"{self.topic}/prediction", self._newest)
        if prediction.values and now >= self._values_due and self._link.connected:
            self._values_due = now + _VALUES_EVERY_S
            values = {name: round(value, 5) for name, value in prediction.values.items()}
            self._link.set(f"{self.topic}/values", encoded({"seq": prediction.seq, "label": prediction.label} | values))

    def tell_prediction(self) -> None:
        """The newest, after all that wait."""
        with self._lock:
            if self._newest is not None:
                self._link.put(f"{self.topic}/prediction", self._newest)

    def tell_status(self, always: bool = False) -> Status:
        """If something in it has changed, or it is time."""
        status = self.camera.status()
        now = time.monotonic()
        key = (status.state, status.reason, status.figures.paused, self.camera.settings.model)
        if always or key != self._said or now >= self._status_due:
            self._said, self._status_due = key, now + _STATUS_EVERY_S
            model = self.choices.get(self.camera.settings.model, self.camera.settings.model)
            self._link.set(f"{self.topic}/status", encoded(status_record(status, model)))
        return status


def status_record(status: Status, model: str) -> dict[str, Any]:
    """A camera's status as it is told; `model` by the name that an order would choose it by."""
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
    """As JSON; numbers that are none become null, for JSON has no word for them."""
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
