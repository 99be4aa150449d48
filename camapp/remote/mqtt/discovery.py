"""Builds the message by which Home Assistant finds a device and its cameras (MQTT device discovery).

One retained message describes the device and all its entities: Home Assistant 2024.11 or later,
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camapp import __version__
from camapp.core.json_records import compact_json
from camapp.core.status import State

PREFIX = "homeassistant"
# Home Assistant publishes "online" here when it has started.
BIRTH_TOPIC = f"{PREFIX}/status"
# Values of a track: name, unit, decimals; docs/track.md defines their signs.
_TRACK = {
    "offset_m": ("Offset", "m", 3),
    "heading_deg": ("Heading", "°", 1),
    "curvature_1_m": ("Curvature", "1/m", 3),
    "lane_width_m": ("Lane width", "m", 2),
    "confidence": ("Confidence", None, 2),
}
# Maximum length of a state in Home Assistant.
_SHORT = "[:255]"
_PERSON = "person"
_DIAGNOSTIC = {"entity_category": "diagnostic"}


@dataclass(frozen=True)
class CameraEntities:
    """Describes a camera, as far as its entities depend on it; `topic` is the prefix of its topics.

    Attributes:
        labels: those with sensors of their own.
        finds_persons: whether one of the model's labels is `person`.
        zones: names.
        lines: names of the counting lines.
        has_picture: whether the drawn image is published.
    """

    name: str
    topic: str
    task: str
    models: Sequence[str]
    labels: Sequence[str] = ()
    finds_persons: bool = False
    zones: Sequence[str] = ()
    lines: Sequence[str] = ()
    has_picture: bool = False


def discovery_topic(device: str) -> str:
    """Return the topic on which Home Assistant expects a device."""
    return f"{PREFIX}/device/camapp_{device}/config"


def discovery_payload(
    device: str, topic: str, cameras: Sequence[CameraEntities], known: Mapping[str, str]
) -> tuple[bytes, dict[str, str]]:
    """Return the message, and the platform of each component in it.

    Args:
        device: id of the device.
        topic: prefix of its topics.
        cameras: all of them.
        known: platforms of the components of earlier messages; those that are missing now are removed.
    """
    availability = f"{topic}/availability"
    components = _machine(topic)
    for camera in cameras:
        components |= _camera(camera, f"{camera.name} " if len(cameras) > 1 else "", availability)
    for name, component in components.items():
        component["unique_id"] = f"camapp_{device}_{name}"
    platforms = {name: component["platform"] for name, component in components.items()}
    removed = {name: {"platform": platform} for name, platform in known.items() if name not in platforms}
    payload = {
        "device": {
            "identifiers": [f"camapp_{device}"],
            "name": device,
            "manufacturer": "camapp",
            "model": "camera with a neural network",
            "sw_version": __version__,
        },
        "origin": {"name": "camapp", "sw_version": __version__},
        # A list, as the entities with their own have it: Home Assistant rejects those that have both forms.
        "availability": [{"topic": availability}],
        "qos": 1,
        "components": components | removed,
    }
    return compact_json(payload).encode(), platforms


def _machine(topic: str) -> dict[str, dict[str, Any]]:
    health = f"{topic}/health"
    cpu = "(value_json.cpu * 100) | round(1) if value_json.cpu is not none else none"
    return {
        "temperature": _sensor("Temperature", health, "value_json.temperature_c", "°C", 1, **_DIAGNOSTIC)
        | {"device_class": "temperature"},
        "cpu": _sensor("CPU", health, cpu, "%", 0, **_DIAGNOSTIC),
        "slowed": {
            "platform": "binary_sensor",
            "name": "Slowed down",
            "state_topic": health,
            "value_template": "{{ 'ON' if value_json.alerts else 'OFF' }}",
            "json_attributes_topic": health,
            "device_class": "problem",
            **_DIAGNOSTIC,
        },
        "lost": _counter("Messages lost", health, "value_json.messages_lost"),
    }


def _camera(camera: CameraEntities, prefix: str, availability: str) -> dict[str, dict[str, Any]]:
    prediction, status, values = (f"{camera.topic}/{name}" for name in ("prediction", "status", "values"))
    answer = f"{camera.topic}/answer"
    components: dict[str, dict[str, Any]] = {
        "label": _text("Label", prediction, f"(value_json.label or '-'){_SHORT}")
        | {
            "json_attributes_topic": prediction,
            # Without boxes, which differ in every frame: Home Assistant keeps all attributes for days.
            "json_attributes_template": "{{ {'score': value_json.score, 'top': value_json.top} | tojson }}",
            "icon": "mdi:eye",
        },
        "score": _sensor("Score", prediction, "(value_json.score * 100) | round(1)", "%", 1),
        "state": _text("State", status, "value_json.state", **_DIAGNOSTIC)
        | {"device_class": "enum", "options": [state.value for state in State]},
        "fps": _sensor("Predictions a second", status, "value_json.fps.inference", "fps", 1),
        "latency": _sensor("Latency p95", status, "value_json.latency_ms.p95", "ms", 1, **_DIAGNOSTIC)
        | {"device_class": "duration"},
        "dropped": _counter("Frames dropped", status, "value_json.frames.dropped_total"),
        "failed": _counter("Frames failed", status, "value_json.frames.failed_total"),
        "restarts": _counter("Workers replaced", status, "value_json.restarts"),
        "pause": {
            "platform": "switch",
            "name": "Pause",
            "state_topic": status,
            "value_template": "{{ 'ON' if value_json.paused else 'OFF' }}",
            "command_topic": f"{camera.topic}/set/pause",
            "icon": "mdi:pause",
        },
        "snapshot": {
            "platform": "button",
            "name": "Snapshot",
            "command_topic": f"{camera.topic}/set/snapshot",
            "icon": "mdi:camera",
        },
        "model": {
            "platform": "select",
            "name": "Model",
            "state_topic": status,
            "value_template": "{{ value_json.model }}",
            "command_topic": f"{camera.topic}/set/model",
            "options": list(camera.models),
            "entity_category": "config",
        },
        "answer": _text("Last answer", answer, f"value_json.message{_SHORT}", **_DIAGNOSTIC)
        | {"json_attributes_topic": answer},
    }
    if camera.task == "track":
        for value, (name, unit, decimals) in _TRACK.items():
            components[value] = _sensor(name, values, f"value_json.{value} | default(none)", unit, decimals)
    if camera.has_picture:
        image = {"image_topic": f"{camera.topic}/image", "content_type": "image/jpeg"}
        components["picture"] = {"platform": "image", "name": "Picture"} | image
    seen = _objects(camera) if camera.task == "detect" else _states(camera) if camera.task == "classify" else {}
    running = f"{{{{ 'online' if value_json.state == '{State.RUNNING.value}' else 'offline' }}}}"
    both = [{"topic": availability}, {"topic": status, "value_template": running}]
    for component in seen.values():
        component |= {"availability": both, "availability_mode": "all"}
    components |= seen
    for component in components.values():
        component["name"] = prefix + component["name"]
    return {f"{camera.name}_{name}": component for name, component in components.items()}


def _states(camera: CameraEntities) -> dict[str, dict[str, Any]]:
    """Return a binary sensor for each label of a classifier: on if the image shows that."""
    topic = f"{camera.topic}/prediction"
    return {
        f"is_{_slug(label)}": _binary(label, topic, f"value_json.label == {_literal(label)}") for label in camera.labels
    }


def _objects(camera: CameraEntities) -> dict[str, dict[str, Any]]:
    """Return the entities of counted objects."""
    topic = f"{camera.topic}/objects"
    components = {"objects": _sensor("Objects", topic, "value_json.total", None, 0)}
    for label in dict.fromkeys(([_PERSON] if camera.finds_persons else []) + list(camera.labels)):
        count = f"value_json.counts[{_literal(label)}] | default(0)"
        name = f"{label[:1].upper()}{label[1:]} present"
        components[f"{_slug(label)}_present"] = _binary(name, topic, f"({count}) > 0") | {"device_class": "occupancy"}
    for label in camera.labels:
        template = f"value_json.counts[{_literal(label)}] | default(0)"
        components[f"count_{_slug(label)}"] = _sensor(f"Count of {label}", topic, template, None, 0)
    for name in camera.zones:
        zone, slug = f"value_json.zones[{_literal(name)}]", f"zone_{_slug(name)}"
        attributes = _attributes(topic, zone)
        components[f"{slug}_inside"] = _sensor(f"{name} inside", topic, f"{zone}.inside", None, 0) | attributes
        components[f"{slug}_entered"] = _total(f"{name} entered", topic, f"{zone}.entered")
        components[f"{slug}_left"] = _total(f"{name} left", topic, f"{zone}.left")
    for name in camera.lines:
        line, slug = f"value_json.lines[{_literal(name)}]", f"line_{_slug(name)}"
        components[f"{slug}_in"] = _total(f"{name} in", topic, f"{line}.in") | _attributes(topic, line)
        components[f"{slug}_out"] = _total(f"{name} out", topic, f"{line}.out")
    return components


def _literal(name: str) -> str:
    """Return a name as a string of a template: its escapes are those of JSON."""
    return json.dumps(name, ensure_ascii=False)


def _slug(name: str) -> str:
    """Return a name for an entity's id, different for each name."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode('utf-8', 'backslashreplace')):08x}"


def _attributes(topic: str, value: str) -> dict[str, Any]:
    return {"json_attributes_topic": topic, "json_attributes_template": f"{{{{ {value} | tojson }}}}"}


def _total(name: str, topic: str, template: str) -> dict[str, Any]:
    return _sensor(name, topic, template, None, 0, "total_increasing")


def _binary(name: str, topic: str, condition: str) -> dict[str, Any]:
    template = f"{{{{ 'ON' if {condition} else 'OFF' }}}}"
    return {"platform": "binary_sensor", "name": name, "state_topic": topic, "value_template": template}


def _text(name: str, topic: str, template: str, **more: object) -> dict[str, Any]:
    return {"platform": "sensor", "name": name, "state_topic": topic, "value_template": f"{{{{ {template} }}}}"} | more


def _sensor(
    name: str, topic: str, template: str, unit: str | None, decimals: int, kind: str = "measurement", **more: object
) -> dict[str, Any]:
    sensor = _text(name, topic, template, **more) | {"state_class": kind, "suggested_display_precision": decimals}
    return sensor | {"unit_of_measurement": unit} if unit else sensor


def _counter(name: str, topic: str, template: str) -> dict[str, Any]:
    return _sensor(name, topic, template, None, 0, "total_increasing", **_DIAGNOSTIC)
