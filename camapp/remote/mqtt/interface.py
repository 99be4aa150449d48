"""Publishes predictions, status and health of all cameras by MQTT, and receives commands for them.

Topics, below PREFIX/DEVICE; all are retained, and JSON but for `availability` and `image`:

    availability         online or offline
    health               the machine: temperature, CPU, throttling
    CAMERA/status        state of the camera's run: rates, latency, frames, model
    CAMERA/prediction    when the label changes, and every ten seconds
    CAMERA/values        named numbers, such as the position in a lane, five times a second
    CAMERA/objects       counts of objects, by label, zone and line: when they change, and every ten seconds
    CAMERA/image         the drawn picture as JPEG, when what is seen changes, at a limited rate
    CAMERA/answer        the outcome of the last command
    CAMERA/set/pause     ON or OFF; CAMERA/set/model: a name; CAMERA/set/snapshot: anything
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camapp import __version__
from camapp.core.events import Situation
from camapp.core.frames import Frame, Trace
from camapp.core.json_records import SCHEMA, compact_json, prediction_record, utc
from camapp.core.models import model_choices
from camapp.core.predictions import Prediction
from camapp.core.status import Status
from camapp.core.zones import place_name
from camapp.remote.commands import CameraControl
from camapp.remote.mqtt.client import Access, MqttClient, Subscription, Timeouts
from camapp.remote.mqtt.commands import MqttCommands
from camapp.remote.mqtt.discovery import BIRTH_TOPIC, CameraEntities, discovery_payload, discovery_topic
from camapp.remote.mqtt.memory import Memory
from camapp.remote.mqtt.picture import PictureSink
from camapp.remote.mqtt.queue import Message
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

_MAX_BOXES = 50
# Labels with a sensor of their own: all of a model with few, else those seen so far, up to this number, and those that
# the settings name as events.
_FEW_LABELS, _MAX_LABELS = 12, 40
# Topics of a camera, all of them retained.
_TOPICS = ("status", "prediction", "values", "objects", "image", "answer")
_TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class Timing:
    """Sets the intervals of the messages; all values are in seconds.

    Attributes:
        heartbeat: an unchanged label is published again after this time.
        values: shortest interval between two messages of values, or of objects.
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
        state: folder that remembers what was published, to remove what the next start no longer publishes.

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
        state: Path | None = None,
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
        self._memory = Memory(state, f"{access.address}/{access.address.prefix}", device)
        seen = self._memory.published.seen
        self._memory.published.seen = {camera.name: seen.get(camera.name, []) for camera in cameras}
        self._publishers = [
            _CameraPublisher(camera, f"{self._topic}/{camera.name}", self.client, timing, self._memory)
            for camera in cameras
        ]
        self._gone = set(self._memory.published.tasks) - {camera.name for camera in cameras}
        self._entities: list[CameraEntities] = []
        self._announced_at = 0.0
        self._must_announce = False
        self._health_due = 0.0
        self._has_namesake = False

    def attach(self) -> None:
        """Add this interface's sinks to its cameras; once, before the run starts."""
        self._commands.attach()
        for publisher in self._publishers:
            publisher.camera.add_sink(publisher)
            if publisher.picture is not None:
                publisher.camera.add_sink(publisher.picture)

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
        for publisher in self._publishers:
            if publisher.picture is None and f"{publisher.camera.name}_picture" in self._memory.published.components:
                # An earlier run published one, which the broker keeps.
                self.client.set(f"{publisher.topic}/image", b"")
        self._publish_discovery([publisher.entities() for publisher in self._publishers])
        for camera in self._gone:
            for topic in _TOPICS:
                # An empty message removes the retained one.
                self.client.set(f"{self._topic}/{camera}/{topic}", b"")
        self.client.set(self._availability, b"online")
        for publisher in self._publishers:
            publisher.publish_status(always=True)
            publisher.publish_prediction()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._must_announce and now - self._announced_at >= self._timing.announce:
            self._announce()
        statuses = [publisher.publish_status() for publisher in self._publishers]
        if (entities := [publisher.entities() for publisher in self._publishers]) != self._entities:
            self._publish_discovery(entities)
        if now >= self._health_due:
            self._health_due = now + self._timing.status
            self.client.set(f"{self._topic}/health", encoded(self._health(statuses[0])))

    def _publish_discovery(self, entities: list[CameraEntities]) -> None:
        published = self._memory.published
        payload, components = discovery_payload(self._device, self._topic, entities, published.components)
        # Before the message: after a crash, nothing of it may be unknown.
        self._memory.add_components(components)
        published.tasks = {name: published.tasks[name] for name in self._gone} | {
            camera.name: camera.task for camera in entities
        }
        self._memory.save()
        self._entities = entities
        self.client.set(discovery_topic(self._device), payload)

    def _health(self, status: Status) -> dict[str, Any]:
        health = status.figures.health
        return {
            "schema": SCHEMA,
            "time": utc(),
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
        record = {"time": utc(), "order": command, "ok": ok, "message": text}
        self.client.set(f"{self._topic}/{camera}/answer", encoded(record))
        self.client.tick_soon()


class _CameraPublisher(PredictionSink):
    """Publishes the messages of one camera."""

    def __init__(self, camera: CameraControl, topic: str, client: MqttClient, timing: Timing, memory: Memory) -> None:
        self.camera = camera
        self.topic = topic
        self.choices = {path: name for name, path in model_choices(camera.settings).items()}
        self._client = client
        self._timing = timing
        self._situation = Situation()
        self._task = memory.published.tasks.get(camera.name, "")
        self._seen = memory.published.seen[camera.name]
        self._changed = False
        self._newest: bytes | None = None
        self._objects: bytes | None = None
        self._image: bytes | None = None
        every_s = camera.settings.mqtt_image
        self.picture = None if every_s is None else PictureSink(every_s, self._publish_image)
        self._due = self._values_due = self._objects_due = self._status_due = 0.0
        self._published: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Publish a changed label at once, an unchanged one after the heartbeat, and values at a limited rate.

        Of objects, a changed number is published at the limited rate too.
        """
        now = time.monotonic()
        with self._lock:
            self._follow_task(prediction.task)
            is_new = self._situation.update(prediction, frame, trace)
            self._changed |= is_new
            if is_new and self.picture is not None:
                self.picture.request(prediction.seq)
            finds_objects = self._situation.finds_objects
            is_due = not finds_objects or now >= self._objects_due
            # Without a connection only changes are queued.
            if (self._changed and is_due) or (now >= self._due and self._client.connected):
                record = prediction_record(prediction, frame, trace, self._changed)
                self._changed, self._due = False, now + self._timing.heartbeat
                # Masks of many objects would make messages of a megabyte.
                boxes = ({name: value for name, value in box.items() if name != "outlines"} for box in record["boxes"])
                record["boxes"] = list(boxes)[:_MAX_BOXES]
                self._newest = encoded(record)
                self._client.put(f"{self.topic}/prediction", self._newest)
                if finds_objects:
                    self._objects_due = now + self._timing.values
                    self._publish_objects(prediction)
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
            if self._objects is not None:
                self._client.set(f"{self.topic}/objects", self._objects)
            if self._image is not None:
                self._client.set(f"{self.topic}/image", self._image)

    def entities(self) -> CameraEntities:
        """Describe the entities that the camera has now."""
        status, settings = self.camera.status(), self.camera.settings
        found = settings.classes or status.labels
        named = dict.fromkeys((*self._seen, *settings.clip_on, *settings.on_label_when))
        own = found if len(found) <= _FEW_LABELS else [label for label in named if label in found]
        return CameraEntities(
            *(self.camera.name, self.topic, status.task, tuple(self.choices.values()), tuple(own), "person" in found),
            tuple(map(place_name, settings.zone)),
            tuple(map(place_name, settings.line)),
            self.picture is not None,
        )

    def _publish_image(self, jpeg: bytes) -> None:
        with self._lock:
            self._image = jpeg
            self._client.set(f"{self.topic}/image", jpeg)

    def _publish_objects(self, prediction: Prediction) -> None:
        new = [label for label in self._situation.counts if label not in self._seen]
        self._seen += new[: max(0, _MAX_LABELS - len(self._seen))]
        self._objects = encoded(objects_record(prediction, self._situation.counts))
        self._client.set(f"{self.topic}/objects", self._objects)

    def _follow_task(self, task: str) -> None:
        """Remove the messages that only the task of before had; they are retained."""
        if task != self._task:
            if self._task:
                for topic in ("values", "objects"):
                    self._client.set(f"{self.topic}/{topic}", b"")
            self._task, self._objects = task, None

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


def objects_record(prediction: Prediction, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return what is counted as it is published; `counts` are steady ones."""
    zones, lines = {}, {}
    for zone in prediction.zones:
        zones[zone.name] = {
            **{name: sum(getattr(zone, name).values()) for name in ("inside", "entered", "left")},
            "dwell_s": round(zone.dwell_s, 1),
            "by_label": {"inside": zone.inside, "entered": zone.entered, "left": zone.left},
        }
    for line in prediction.counting_lines:
        lines[line.name] = {
            "in": sum(line.into.values()),
            "out": sum(line.out.values()),
            "by_label": {"in": line.into, "out": line.out},
        }
    total = sum(counts.values())
    return {
        **{"schema": SCHEMA, "time": utc(), "seq": prediction.seq, "total": total, "counts": counts},
        **{"zones": zones, "lines": lines},
    }


def status_record(status: Status, model: str) -> dict[str, Any]:
    """Return a camera's status as it is published; `model` is the name by which a command chooses it."""
    figures, balance = status.figures, status.balance
    p50, p95, p99 = status.latency_ms.get("total", (0.0, 0.0, 0.0))
    return {
        "schema": SCHEMA,
        "time": utc(),
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
    """Return the record as JSON in UTF-8."""
    return compact_json(record).encode("utf-8", "backslashreplace")
