"""The discovery message against the rules that Home Assistant documents, and its templates against real messages.

The table follows https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, the pages of the platforms
there (/integrations/sensor.mqtt and so on), /integrations/sensor/#device-class for units, and Home Assistant's own
homeassistant/components/mqtt/schemas.py, all of 2024.11 or later.
"""

import json
import re

import pytest

from camapp.core.predictions import LineState, Prediction, ZoneState
from camapp.core.stats import Balance
from camapp.core.status import Health, Hud, State, Status
from camapp.remote.mqtt.discovery import CameraEntities, discovery_payload, discovery_topic
from camapp.remote.mqtt.interface import encoded, objects_record, status_record

ROOT = {
    *("device", "origin", "components", "state_topic", "command_topic", "qos", "encoding"),
    *("availability", "availability_mode", "availability_topic", "availability_template"),
    *("payload_available", "payload_not_available"),
}
# Keys of the root that its entities take over (SHARED_OPTIONS).
SHARED = ROOT - {"device", "origin", "components", "qos", "encoding"}
DEVICE = {
    *("configuration_url", "connections", "identifiers", "name", "manufacturer", "model", "model_id", "hw_version"),
    *("sw_version", "suggested_area", "serial_number", "via_device"),
}
ORIGIN = {"name", "sw_version", "support_url"}
ENTITY = {
    *("platform", "unique_id", "name", "icon", "enabled_by_default", "entity_category", "entity_picture", "object_id"),
    *("json_attributes_topic", "json_attributes_template", "qos", "encoding", "availability", "availability_mode"),
}
# platform: (required keys, optional keys).
PLATFORMS = {
    "sensor": (
        {"state_topic"},
        {
            *("value_template", "device_class", "expire_after", "force_update", "last_reset_value_template", "options"),
            *("suggested_display_precision", "state_class", "unit_of_measurement"),
        },
    ),
    "binary_sensor": (
        {"state_topic"},
        {"value_template", "device_class", "expire_after", "force_update", "off_delay", "payload_on", "payload_off"},
    ),
    "switch": (
        {"command_topic"},
        {
            *("state_topic", "value_template", "command_template", "device_class", "optimistic", "retain"),
            *("payload_on", "payload_off", "state_on", "state_off"),
        },
    ),
    "select": (
        {"command_topic", "options"},
        {"state_topic", "value_template", "command_template", "optimistic", "retain"},
    ),
    "image": (
        set(),
        {"image_topic", "content_type", "image_encoding", "url_topic", "url_template"},
    ),
    "button": ({"command_topic"}, {"command_template", "device_class", "payload_press", "retain"}),
}
UNITS = {"temperature": {"°C", "°F", "K"}, "duration": {"d", "h", "min", "s", "ms", "µs"}, "enum": {None}}
BINARY_CLASSES = {"problem", "connectivity", "running", "heat", "power", "occupancy"}


def entities(name="door", task="track", **objects):
    return CameraEntities(name, f"camapp/pi-3f2a/{name}", task, ("cifar10", "mnist", "track"), **objects)


# Names as people write them.
ODD = ("porch", 'Hans\' "Garten"', "a b", "a_b", "Tür }} {%", "\\")
OBJECTS = entities(
    "door", "detect", labels=("person", "traffic light"), finds_persons=True, zones=ODD, lines=("gate", "a b")
)
GATE = entities("gate", "classify", labels=("open", "half open", 'shut "tight"'), has_picture=True)


def payload_of(*cameras, known=()):
    payload, components = discovery_payload("pi-3f2a", "camapp/pi-3f2a", cameras, dict(known))
    return json.loads(payload), components


def with_shared(component, root):
    """Add what an entity takes from the root of the message, as Home Assistant does, unless it has its own."""
    return {key: root[key] for key in root.keys() & SHARED} | component


def check_component(name, component):
    assert not {"availability", "availability_topic"} <= component.keys(), "Home Assistant rejects an entity with both"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    required, optional = PLATFORMS[component["platform"]]
    assert required | {"unique_id", "name"} <= component.keys(), name
    assert component.keys() <= required | optional | ENTITY, name
    assert component.get("entity_category") in (None, "diagnostic", "config")
    if component["platform"] in ("sensor", "binary_sensor"):
        assert component.get("entity_category") != "config", "sensors cannot be of that category"
    for key, topic in component.items():
        if key.endswith("_topic"):
            assert topic.startswith("camapp/pi-3f2a/")
            assert not re.search(r"[+#\s]", topic)
    assert re.fullmatch(r"mdi:[a-z-]+", component.get("icon", "mdi:x"))
    if component["platform"] == "sensor":
        check_sensor(component)
    if component["platform"] == "binary_sensor":
        assert component.get("device_class") in (None, *BINARY_CLASSES)
    if component["platform"] == "image":
        assert ("image_topic" in component) != ("url_topic" in component), "one of them, not both"
        assert component.get("image_encoding") in (None, "b64")
        assert component["content_type"].startswith("image/")


def check_sensor(sensor):
    kind, unit = sensor.get("device_class"), sensor.get("unit_of_measurement")
    assert kind in (None, *UNITS)
    if kind:
        assert unit in UNITS[kind]
    assert sensor.get("state_class") in (None, "measurement", "total", "total_increasing")
    if "options" in sensor:
        assert kind == "enum"
        assert not sensor.keys() & {"state_class", "unit_of_measurement"}
    if unit is not None:
        assert sensor.get("state_class"), "Home Assistant keeps a history only of sensors with a state class"
    assert 0 <= sensor.get("suggested_display_precision", 0) <= 6


@pytest.mark.parametrize("cameras", [[entities()], [entities("door"), entities("yard", "digits")], [OBJECTS], [GATE]])
def test_the_message_follows_the_documented_rules(cameras):
    payload, _ = payload_of(*cameras)
    assert payload.keys() <= ROOT
    assert {"device", "origin", "components"} <= payload.keys()
    assert payload["device"].keys() <= DEVICE
    assert payload["device"]["identifiers"]
    assert payload["origin"].keys() <= ORIGIN
    assert payload["origin"]["name"]
    assert payload["qos"] in (0, 1, 2)
    for name, component in payload["components"].items():
        check_component(name, with_shared(component, payload))
    ids = [component["unique_id"] for component in payload["components"].values()]
    assert len(ids) == len(set(ids))
    names = [component["name"] for component in payload["components"].values()]
    assert len(names) == len(set(names))


def test_the_topic_is_one_that_home_assistant_subscribes_to():
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", discovery_topic("pi-3f2a"))


def test_names_start_with_the_camera_only_if_there_are_several():
    one, _ = payload_of(entities())
    assert one["components"]["door_label"]["name"] == "Label"
    several, _ = payload_of(entities("door"), entities("yard"))
    assert several["components"]["yard_label"]["name"] == "yard Label"
    assert one["components"]["door_label"]["unique_id"] == several["components"]["door_label"]["unique_id"]


def test_components_of_before_are_removed_by_a_bare_platform():
    _, track = payload_of(entities(task="track"))
    payload, now = payload_of(entities(task="digits"), known=track.items())
    assert payload["components"]["door_offset_m"] == {"platform": "sensor"}
    assert "door_offset_m" not in now


def test_a_message_for_eight_cameras_is_small_enough_for_any_broker():
    payload, _ = discovery_payload("pi", "camapp/pi", [entities(f"camera{number}") for number in range(8)], {})
    assert len(payload) < 64_000


def make_status(state=State.RUNNING, paused=False):
    figures = Hud(camera_fps=30, infer_fps=29.53, target_fps=30, paused=paused, health=Health())
    balance = Balance(10, 8, {"late": 1}, {"worker died": 1}, 0, 0)
    latency = {"total": (10.0, 20.5, 30.0)}
    return Status("door", state, "", figures, balance, latency, None, 0, "track", (), (4, 4), None, 1)


MESSAGES = {
    "health": {"temperature_c": 61.52, "cpu": 0.403, "alerts": ["throttled"], "messages_lost": 3},
    "door/status": status_record(make_status(), "track"),
    "door/prediction": {"label": "lane", "score": 0.912, "top": [["lane", 0.912]]},
    "door/values": {"offset_m": -0.1234, "heading_deg": 2.5},
    "door/answer": {"message": "model track", "ok": True},
}
SHOWN = {
    **{"temperature": "61.52", "cpu": "40.3", "slowed": "ON", "lost": "3", "door_label": "lane", "door_score": "91.2"},
    **{"door_state": "running", "door_fps": "29.53", "door_latency": "20.5", "door_dropped": "1", "door_failed": "1"},
    **{"door_restarts": "0", "door_pause": "OFF", "door_model": "track", "door_answer": "model track"},
    # Home Assistant shows the state "None" as unknown.
    **{"door_offset_m": "-0.1234", "door_heading_deg": "2.5", "door_confidence": "None", "door_curvature_1_m": "None"},
    **{"door_lane_width_m": "None"},
}


def render(template, topic, message=None):
    jinja2 = pytest.importorskip("jinja2")
    message = json.loads(encoded(MESSAGES[topic.removeprefix("camapp/pi-3f2a/")] if message is None else message))
    return jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(template).render(value_json=message)


def test_every_template_renders_a_real_message():
    pytest.importorskip("jinja2.sandbox", reason="jinja2 is not installed")
    payload, _ = payload_of(entities())
    shown = {
        name: render(component["value_template"], component["state_topic"])
        for name, component in payload["components"].items()
        if "value_template" in component
    }
    assert shown == SHOWN
    assert shown["door_state"] in payload["components"]["door_state"]["options"]
    assert shown["door_model"] in payload["components"]["door_model"]["options"]
    attributes = payload["components"]["door_label"]["json_attributes_template"]
    assert json.loads(render(attributes, "door/prediction")) == {"score": 0.912, "top": [["lane", 0.912]]}


def seen(**more):
    """A message of objects: two persons, one of them on the porch, and a car that went out at the gate."""
    zones = tuple(ZoneState(name, (), {"person": 1}, {"person": 3, "dog": 1}, {"person": 2}, 4.26) for name in ODD)
    lines = (LineState("gate", (0, 0), (1, 1), {"person": 2}, {"car": 1}), LineState("a b", (0, 0), (1, 1)))
    return objects_record(Prediction(7, "detect", zones=zones, counting_lines=lines, **more), {"person": 2, "car": 1})


def test_every_template_renders_objects_zones_and_lines_of_any_name():
    pytest.importorskip("jinja2.sandbox", reason="jinja2 is not installed")
    components = payload_of(OBJECTS)[0]["components"]
    names = {
        name: component for name, component in components.items() if "/objects" in component.get("state_topic", "")
    }
    shown = {name: render(component["value_template"], "objects", seen()) for name, component in names.items()}
    zones = [name for name in shown if name.startswith("door_zone_")]
    assert len(zones) == 3 * len(ODD), "ids differ although names are alike"
    assert {shown.pop(name) for name in zones if name.endswith("_inside")} == {"1"}
    assert {shown.pop(name) for name in zones if name.endswith("_entered")} == {"4"}
    assert {shown.pop(name) for name in zones if name.endswith("_left")} == {"2"}
    (light,) = (name for name in shown if name.startswith("door_count_traffic_light"))
    assert shown.pop(light) == "0"
    other = {shown.pop(name) for name in list(shown) if name.startswith("door_line_a_b")}
    assert other == {"0"}
    assert shown == {
        **{"door_objects": "3", "door_person_present": "ON", "door_count_person": "2"},
        "door_traffic_light_00fcc92e_present": "OFF",
        **{"door_line_gate_in": "2", "door_line_gate_out": "1"},
    }
    attributes = components["door_zone_porch_inside"]["json_attributes_template"]
    assert json.loads(render(attributes, "objects", seen()))["by_label"]["entered"] == {"person": 3, "dog": 1}
    none = objects_record(Prediction(8, "detect"), {})
    assert render(components["door_person_present"]["value_template"], "objects", none) == "OFF"


def test_each_state_of_a_classifier_is_a_binary_sensor():
    pytest.importorskip("jinja2.sandbox", reason="jinja2 is not installed")
    sensors = [item for item in payload_of(GATE)[0]["components"].values() if item["name"] in GATE.labels]
    for label in (*GATE.labels, ""):
        shown = {
            sensor["name"]: render(sensor["value_template"], "gate/prediction", {"label": label}) for sensor in sensors
        }
        assert shown == {name: "ON" if name == label else "OFF" for name in GATE.labels}


@pytest.mark.parametrize(("camera", "name"), [(OBJECTS, "door_person_present"), (GATE, "gate_is_open")])
def test_what_is_seen_is_unavailable_while_there_is_no_image(camera, name):
    pytest.importorskip("jinja2.sandbox", reason="jinja2 is not installed")
    device, run = payload_of(camera)[0]["components"][name]["availability"]
    assert device == {"topic": "camapp/pi-3f2a/availability"}
    for state, expected in ((State.RUNNING, "online"), (State.NO_SIGNAL, "offline")):
        message = status_record(make_status(state), "track")
        assert render(run["value_template"], "status", message) == expected


def test_templates_render_missing_and_long_values():
    pytest.importorskip("jinja2.sandbox", reason="jinja2 is not installed")
    components = payload_of(entities())[0]["components"]
    assert render(components["door_label"]["value_template"], "door/prediction", {"label": ""}) == "-"
    assert len(render(components["door_label"]["value_template"], "door/prediction", {"label": "x" * 999})) == 255
    assert render(components["cpu"]["value_template"], "health", {"cpu": None}) == "None"
    assert render(components["temperature"]["value_template"], "health", {"temperature_c": None}) == "None"
    assert render(components["slowed"]["value_template"], "health", {"alerts": []}) == "OFF"
