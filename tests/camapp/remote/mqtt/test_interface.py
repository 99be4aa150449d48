"""The MQTT interface with a real broker: what is published when, and what commands do."""

import json
import logging
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Prediction
from camapp.core.settings import Settings, load_settings
from camapp.core.stats import Balance
from camapp.core.status import Health, Hud, State, Status
from camapp.remote.mqtt.client import Timeouts, access
from camapp.remote.mqtt.commands import MqttCommands
from camapp.remote.mqtt.interface import MqttInterface, Timing, encoded
from camapp.remote.mqtt.picture import PictureSink
from camapp.remote.mqtt.queue import CAPACITY
from camapp.sinks.sink import ImageSink, PredictionSink
from engine.model import ModelError
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto, wait_for

PIXEL = Image.of(np.zeros((4, 4, 3), np.uint8), Layout.RGB)


class Camera:
    """A run whose state a test sets."""

    board = None

    def __init__(self, tmp_path, name="door", task="digits", **settings):
        self.name = name
        self.settings = load_settings(
            {"name": name, "snapshots": str(tmp_path / "pictures"), **settings}, environment={}
        )
        self.prediction_sinks, self.image_sinks = [], []
        self.state, self.task, self.labels = State.RUNNING, task, ()
        self.changes = []
        self.broken = None
        self.change_s = 0.0

    def status(self):
        figures = Hud(
            camera_fps=30, infer_fps=29, target_fps=30, model="mnist", paused=self.state is State.PAUSED,
            workers=2, health=Health(60.0, 0.5, ("throttled",), ("throttled",)),
        )  # fmt: skip
        balance = Balance(100, 90, {"newer frame": 9}, {}, 1, 0)
        latency = {"total": (10.0, 20.0, 30.0)}
        return Status(
            self.name, self.state, "", figures, balance, latency, None, 0.0, self.task, self.labels, (4, 4), None, 12.0
        )

    def add_sink(self, sink):
        if isinstance(sink, PredictionSink):
            self.prediction_sinks.append(sink)
        if isinstance(sink, ImageSink):
            self.image_sinks.append(sink)

    def forget_sinks(self):
        """Stand for the camera of the next start."""
        self.prediction_sinks, self.image_sinks = [], []

    def pause(self):
        self.state = State.PAUSED

    def resume(self):
        self.state = State.RUNNING

    def apply(self, change):
        time.sleep(self.change_s)
        if self.broken:
            raise self.broken
        self.settings = change(self.settings)
        self.changes.append(self.settings)
        self.task = "track" if self.settings.model == "track" else "digits"

    def predict(self, seq, label="7", raw_score=0.9, **values):
        self.send(
            Prediction(
                seq, self.task, label, 0.9, label, raw_score, ((label, 0.9),), (Box(0, 0, 2, 2, label),), values=values
            )
        )

    def count(self, seq, **counts):
        """Send a prediction of objects, none of them with a label of its own."""
        boxes = tuple(Box(0, 0, 2, 2, label, outlines=(((0.0, 0.0),) * 9,)) for label in counts)
        self.send(Prediction(seq, self.task, next(iter(counts), ""), boxes=boxes, counts=counts))

    def send(self, prediction):
        seq = prediction.seq
        trace = Trace(seq, captured=time.monotonic_ns())
        for sink in self.prediction_sinks:
            sink.accept(prediction, Frame(seq, Shot(PIXEL, PIXEL)), trace)
        for sink in self.image_sinks:
            if sink.wanted():
                sink.show(np.zeros((4, 4, 3), np.uint8), trace)


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker):
    listener = Listener(broker)
    yield listener
    listener.close()


@pytest.fixture
def run(broker):
    interfaces = []

    def start(*cameras, device="pi", state=None, **timing):
        interface = MqttInterface(
            cameras, access(broker.uri, None, None), device, Timing(**timing), Timeouts(retry=0.1), state
        )
        interface.attach()
        for camera in cameras:
            for sink in camera.image_sinks:
                sink.start()
        interface.start()
        interfaces.append(interface)
        wait_for(lambda: interface.client.connected)
        # The subscriptions reach the broker after the connection.
        time.sleep(0.1)
        return interface

    yield start
    for interface in interfaces:
        interface.stop()


@pytest.fixture
def camera(tmp_path):
    return Camera(tmp_path)


def records(listener, topic):
    return [json.loads(payload) for payload in listener.payloads(f"camapp/pi/{topic}")]


def send_command(listener, what, payload, camera="door", **options):
    listener.client.publish(f"camapp/pi/{camera}/set/{what}", payload, qos=1, **options)


def answer(listener, count=1):
    return listener.wait_for(
        lambda: len(records(listener, "door/answer")) >= count and records(listener, "door/answer")[-1]
    )


def test_a_prediction_is_published_when_its_label_changes_and_after_the_heartbeat(camera, listener, run):
    run(camera, heartbeat=0.5)
    began = time.monotonic()
    for seq in range(70):
        camera.predict(seq, label="7" if seq < 30 else "8")
        time.sleep(0.01)
    took = time.monotonic() - began
    received = listener.wait_for(lambda: records(listener, "door/prediction"))
    time.sleep(0.2)
    received = records(listener, "door/prediction")
    assert [record["label"] for record in received] == sorted(record["label"] for record in received)
    assert next(record["seq"] for record in received if record["label"] == "8") == 30
    assert 2 <= len(received) <= 2 + took / 0.5
    assert received[0]["score"] == 0.9
    assert received[0]["boxes"][0]["label"] == "7"


def test_values_are_published_at_a_limited_rate_and_are_valid_json(camera, listener, run):
    run(camera)
    began = time.monotonic()
    for seq in range(80):
        camera.predict(seq, offset_m=seq / 100, heading_deg=float("nan"))
        time.sleep(0.01)
    took = time.monotonic() - began
    received = listener.wait_for(lambda: records(listener, "door/values"))
    time.sleep(0.2)
    received = records(listener, "door/values")
    assert 3 <= len(received) <= 2 + took / 0.2
    assert received[-1]["offset_m"] > 0.3
    assert received[-1]["heading_deg"] is None


def test_availability_status_and_health_are_retained(camera, broker, run):
    interface = run(camera)
    camera.predict(1)
    wait_for(lambda: interface.client.queue.sent >= 5)
    late = Listener(broker)
    try:
        late.wait_for(
            lambda: records(late, "door/prediction") and records(late, "health") and records(late, "door/status")
        )
        assert late.payloads("camapp/pi/availability") == [b"online"]
        assert all(retained for _, _, retained in late.messages)
        status = records(late, "door/status")[0]
        assert (status["state"], status["fps"]["inference"], status["fps"]["target"]) == ("running", 29, 30)
        assert status["latency_ms"] == {"p50": 10.0, "p95": 20.0, "p99": 30.0}
        assert (status["frames"]["captured"], status["frames"]["dropped_total"]) == (100, 9)
        assert records(late, "health")[0]["throttled"] == ["throttled"]
    finally:
        late.close()


def test_a_changed_state_is_published_at_once_and_the_end_before_disconnecting(camera, listener, run):
    interface = run(camera)
    camera.state = State.NO_SIGNAL
    listener.wait_for(lambda: [record["state"] for record in records(listener, "door/status")][-1:] == ["no signal"], 3)
    camera.state = State.ENDED
    interface.stop()
    listener.wait_for(lambda: listener.payloads("camapp/pi/availability") == [b"online", b"offline"])
    assert records(listener, "door/status")[-1]["state"] == "ended"


def test_all_is_published_again_to_a_restarted_broker(camera, broker, listener, run):
    run(camera)
    camera.predict(1, label="3")
    listener.wait_for(lambda: records(listener, "door/prediction"))
    broker.kill()
    broker.start()
    late = Listener(broker)
    try:
        late.wait_for(lambda: records(late, "door/prediction") and records(late, "door/status"))
        late.wait_for(lambda: late.payloads("homeassistant/device/camapp_pi/config"))
        assert late.payloads("camapp/pi/availability")[-1] == b"online"
    finally:
        late.close()


def test_changes_without_a_broker_arrive_in_order_when_it_is_back(camera, broker, run):
    interface = run(camera)
    broker.kill()
    wait_for(lambda: not interface.client.connected)
    for seq in range(60):
        camera.predict(seq, label=str(seq // 20))
    listener_broker = broker.start()
    listener = Listener(listener_broker)
    try:
        listener.wait_for(lambda: [r["label"] for r in records(listener, "door/prediction")][-1:] == ["2"])
        wait_for(lambda: not len(interface.client.queue))
        labels = [record["label"] for record in records(listener, "door/prediction")]
        assert labels == sorted(labels)
        assert interface.client.queue.lost == 0
    finally:
        listener.close()


@pytest.mark.slow
def test_home_assistants_birth_message_is_answered_and_not_too_often(camera, listener, run):
    run(camera, announce=0.5)
    topic = "homeassistant/device/camapp_pi/config"
    listener.wait_for(lambda: len(listener.payloads(topic)) == 1)
    listener.client.publish("homeassistant/status", "offline")
    time.sleep(0.7)
    assert len(listener.payloads(topic)) == 1
    for _ in range(20):
        listener.client.publish("homeassistant/status", "online")
    listener.wait_for(lambda: len(listener.payloads(topic)) == 2)
    time.sleep(1.2)
    assert len(listener.payloads(topic)) == 2
    assert listener.payloads("camapp/pi/availability") == [b"online", b"online"]


def test_pause_and_resume_are_run_answered_and_records(camera, listener, run):
    run(camera)
    send_command(listener, "pause", "ON")
    reply = answer(listener)
    assert (reply["ok"], reply["order"], reply["message"]) == (True, "pause", "paused")
    listener.wait_for(lambda: records(listener, "door/status")[-1]["paused"], 3)
    send_command(listener, "pause", "OFF")
    assert answer(listener, 2)["message"] == "resumed"
    listener.wait_for(lambda: not records(listener, "door/status")[-1]["paused"], 3)


def test_a_model_is_chosen_by_name_without_options_of_the_old_one_and_back(tmp_path, listener, run):
    camera = Camera(tmp_path, model="/home/pi/my.npz", labels="a,b", mean="0.5")
    run(camera)
    send_command(listener, "model", "lenet")
    assert answer(listener)["message"] == "model lenet"
    assert (camera.settings.model, camera.settings.labels, camera.settings.mean) == ("lenet", None, None)
    listener.wait_for(lambda: records(listener, "door/status")[-1]["model"] == "lenet", 3)
    send_command(listener, "model", "my.npz")
    assert answer(listener, 2)["ok"]
    assert (camera.settings.model, camera.settings.labels) == ("/home/pi/my.npz", "a,b")
    options = components(listener)["door_model"]["options"]
    assert records(listener, "door/status")[-1]["model"] in options
    assert {"my.npz", "lenet"} <= set(options), "the names that the command takes"


def test_the_entities_follow_the_task_of_the_model(camera, listener, run):
    run(camera)
    topic = "homeassistant/device/camapp_pi/config"

    def components():
        return json.loads(listener.payloads(topic)[-1])["components"]

    listener.wait_for(lambda: listener.payloads(topic))
    assert "door_offset_m" not in components()
    send_command(listener, "model", "track")
    listener.wait_for(lambda: "unique_id" in components().get("door_offset_m", {}), 5)
    send_command(listener, "model", "mnist")
    listener.wait_for(lambda: components()["door_offset_m"] == {"platform": "sensor"}, 5)


TOPIC = "homeassistant/device/camapp_pi/config"


def components(listener):
    found = listener.payloads(TOPIC)
    return json.loads(found[-1])["components"] if found else {}


def retained(broker):
    """Return the retained messages of the broker that are not empty, by topic."""
    late = Listener(broker)
    try:
        time.sleep(0.5)
        return {topic: payload for topic, payload, is_retained in late.messages if is_retained and payload}
    finally:
        late.close()


def test_a_changed_label_is_published_with_the_score_of_its_frame_and_the_heartbeat_with_the_smoothed_one(
    camera, listener, run
):
    run(camera, heartbeat=0.3)
    camera.predict(0, "cat", raw_score=0.99)
    time.sleep(0.4)
    camera.predict(1, "cat", raw_score=0.99)
    listener.wait_for(lambda: len(records(listener, "door/prediction")) == 2)
    assert [record["score"] for record in records(listener, "door/prediction")] == [0.99, 0.9]


def test_counts_are_published_when_they_change_at_a_limited_rate_and_without_flicker(camera, listener, run):
    camera.task, camera.labels = "detect", ("person", "dog")
    run(camera, heartbeat=60)
    began = time.monotonic()
    for seq in range(60):
        # Every third time nothing is found.
        camera.count(seq, **({"person": 1 + seq // 30} if seq % 3 else {}))
        time.sleep(0.01)
    took = time.monotonic() - began
    time.sleep(0.2)
    camera.count(60, person=2)
    listener.wait_for(lambda: [record["total"] for record in records(listener, "door/objects")][-1:] == [2])
    counts = [record["counts"] for record in records(listener, "door/objects")]
    assert counts in ([{"person": 1}, {"person": 2}], [{}, {"person": 1}, {"person": 2}])
    assert len(records(listener, "door/prediction")) <= 3 + took / 0.2
    assert "outlines" not in records(listener, "door/prediction")[-1]["boxes"][0]
    assert {"door_count_person", "door_count_dog", "door_person_present"} <= components(listener).keys()


def test_entities_follow_the_classes_zones_and_lines_of_the_settings(listener, run, tmp_path):
    places = {"zone": "porch=0,0 1,0 1,1", "line": "gate=0,0,1,1"}
    camera = Camera(tmp_path, task="detect", classes="dog,cat", **places)
    camera.labels = ("person", "dog", "cat")
    run(camera)
    listener.wait_for(lambda: components(listener))
    assert {"door_count_dog", "door_zone_porch_entered", "door_line_gate_in"} <= components(listener).keys()
    assert not {"door_count_person", "door_person_present"} & components(listener).keys()
    camera.settings = replace(camera.settings, zone=())
    listener.wait_for(lambda: components(listener)["door_zone_porch_entered"] == {"platform": "sensor"}, 5)


def test_of_many_classes_those_seen_get_a_sensor_also_after_a_restart(camera, listener, run, tmp_path):
    camera.task, camera.labels = "detect", tuple(f"class {number}" for number in range(80))
    state = tmp_path / "state"
    first = run(camera, state=state)
    listener.wait_for(lambda: components(listener))
    assert not [name for name in components(listener) if "count" in name]
    camera.count(1, **{"class 7": 1, "nonsense": 1})
    listener.wait_for(lambda: [name for name in components(listener) if "count_class_7" in name], 5)
    first.stop()
    camera.forget_sinks()
    before = len(listener.payloads(TOPIC))
    run(camera, state=state)
    listener.wait_for(lambda: len(listener.payloads(TOPIC)) > before)
    (name,) = (name for name in components(listener) if "count" in name)
    assert "unique_id" in components(listener)[name]


def test_after_a_restart_with_another_camera_and_task_nothing_of_the_old_one_remains(broker, listener, run, tmp_path):
    state = tmp_path / "state"
    front = Camera(tmp_path, "front", "track")
    first = run(front, state=state)
    front.predict(1, "lane", offset_m=0.1)
    listener.wait_for(lambda: records(listener, "front/values") and records(listener, "front/prediction"))
    first.client.stop()  # as if it were killed: no further message
    back = Camera(tmp_path, "back", "digits")
    second = run(back, state=state)
    back.predict(1)
    listener.wait_for(lambda: components(listener).get("front_offset_m") == {"platform": "sensor"})
    found = components(listener)
    assert found["front_label"] == {"platform": "sensor"}
    assert found["front_pause"] == {"platform": "switch"}
    assert "unique_id" in found["back_label"]
    wait_for(lambda: not [topic for topic in retained(broker) if "/front/" in topic])
    second.stop()
    # The third start has the second one's camera with another task; and Home Assistant may have been away so far.
    back = Camera(tmp_path, "back", "track")
    run(back, state=state)
    listener.wait_for(lambda: "unique_id" in components(listener).get("back_offset_m", {}))
    assert components(listener)["front_label"] == {"platform": "sensor"}


def test_values_of_the_task_of_before_are_removed_in_the_run_and_after_a_restart(
    camera, broker, listener, run, tmp_path
):
    state = tmp_path / "state"
    camera.task = "track"
    first = run(camera, state=state)
    camera.predict(1, "lane", offset_m=0.1)
    listener.wait_for(lambda: records(listener, "door/values"))
    first.stop()
    camera.forget_sinks()
    camera.task, camera.labels = "detect", ("person",)
    run(camera, state=state)
    camera.count(2, person=1)
    wait_for(lambda: "camapp/pi/door/objects" in (found := retained(broker)) and "camapp/pi/door/values" not in found)
    camera.task = "digits"
    camera.predict(3, "5")
    wait_for(lambda: "camapp/pi/door/objects" not in retained(broker))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"broker": 3}', '{"broker": "elsewhere:1883/camapp"}', "\xff"])
def test_a_damaged_memory_or_that_of_another_broker_is_ignored(camera, listener, run, tmp_path, content):
    (tmp_path / "mqtt-pi.json").write_text(content)
    run(camera, state=tmp_path)
    listener.wait_for(lambda: components(listener))
    assert json.loads((tmp_path / "mqtt-pi.json").read_text())["tasks"] == {"door": "digits"}


def test_a_state_folder_that_cannot_be_written_costs_only_the_memory(camera, listener, run, tmp_path, caplog):
    (tmp_path / "file").touch()
    run(camera, state=tmp_path / "file" / "state")
    listener.wait_for(lambda: components(listener))
    assert "will stay in Home Assistant" in caplog.text


def test_a_snapshot_is_saved_and_the_answer_names_its_file(camera, listener, run, tmp_path):
    run(camera)
    send_command(listener, "snapshot", "PRESS")
    deadline = time.monotonic() + 5
    while not records(listener, "door/answer") and time.monotonic() < deadline:
        camera.predict(1)
        time.sleep(0.02)
    reply = answer(listener)
    (saved,) = (tmp_path / "pictures").glob("*.png")
    assert reply["message"] == f"saved {saved}"


def test_a_snapshot_without_an_image_is_refused(camera, listener, run):
    run(camera, image=0.3)
    send_command(listener, "snapshot", "PRESS")
    assert answer(listener)["message"] == "refused: no image came; it is saved when one does"


@pytest.mark.parametrize(
    ("what", "payload", "why"),
    [
        ("pause", "maybe", "pause takes ON or OFF"),
        ("pause", "", "pause takes ON or OFF"),
        ("pause", b"\xff\xfe", "it is not UTF-8"),
        ("model", "../../etc/passwd", "no such model; there are cifar10"),
        ("model", "x" * 300, "300 bytes are too many"),
    ],
)
def test_a_bad_command_is_refused_with_a_reason_and_changes_nothing(camera, listener, run, caplog, what, payload, why):
    run(camera)
    before = camera.settings
    send_command(listener, what, payload)
    reply = answer(listener)
    assert not reply["ok"]
    assert why in reply["message"]
    assert camera.settings is before
    assert camera.state is State.RUNNING
    assert any(why in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_commands_for_an_unknown_camera_are_logged_and_not_answered(camera, listener, run, caplog):
    run(camera)
    send_command(listener, "pause", "ON", camera="yard")
    wait_for(lambda: "no such camera; there are door" in caplog.text)
    assert not any("yard" in topic and "answer" in topic for topic, _, _ in listener.messages)


@pytest.mark.parametrize(
    ("error", "message"),
    [(ModelError("damaged"), "refused: not changed: damaged"), (ZeroDivisionError("a fault"), "failed: a fault")],
)
def test_a_model_that_cannot_be_used_is_answered_and_the_next_command_runs(camera, listener, run, error, message):
    camera.broken = error
    run(camera)
    send_command(listener, "model", "lenet")
    reply = answer(listener)
    assert (reply["ok"], reply["message"]) == (False, message)
    assert camera.settings.model == Settings().model
    send_command(listener, "pause", "ON")
    assert answer(listener, 2)["ok"]


def test_retained_commands_are_never_run(camera, broker, listener, run):
    for what, payload in (("pause", "ON"), ("model", "lenet"), ("snapshot", "PRESS"), ("pause", b"\xff" * 60_000)):
        send_command(listener, what, payload, retain=True)
    time.sleep(0.3)
    interface = run(camera)
    time.sleep(0.5)
    broker.kill()
    broker.start()
    wait_for(lambda: interface.client.connected)
    time.sleep(0.5)
    assert camera.state is State.RUNNING
    assert not camera.changes
    assert not records(listener, "door/answer")


def test_a_retained_command_of_a_broker_that_ignores_the_subscription_option_is_refused(camera):
    answers = []
    MqttCommands([camera], lambda *answer: answers.append(answer)).submit("door", "pause", b"ON", True)
    assert "it was retained" in answers[0][-1]
    assert camera.state is State.RUNNING


def test_commands_beyond_the_capacity_are_refused_and_the_log_stays_short(camera, listener, run, caplog):
    camera.change_s = 0.3
    run(camera)
    for _ in range(60):
        send_command(listener, "model", "lenet")
    wait_for(lambda: len(camera.changes) >= 4)
    time.sleep(0.5)
    assert len(camera.changes) <= 6
    refusals = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(refusals) == 1
    assert "others are waiting" in refusals[0].getMessage()


def test_a_second_device_of_one_name_is_logged_once_and_an_old_will_is_corrected(
    camera, listener, run, caplog, tmp_path
):
    run(camera)
    listener.client.publish("camapp/pi/availability", "offline", qos=1, retain=True)
    listener.wait_for(lambda: listener.payloads("camapp/pi/availability") == [b"online", b"offline", b"online"])
    assert "another camapp" not in caplog.text
    other = run(Camera(tmp_path))
    wait_for(lambda: "another camapp calls itself device 'pi'" in caplog.text)
    other.stop()
    listener.wait_for(lambda: listener.payloads("camapp/pi/availability")[-1] == b"online")
    assert caplog.text.count("another camapp") == 1


def test_several_cameras_share_a_connection_and_have_separate_topics(tmp_path, listener, run):
    cameras = [Camera(tmp_path, name) for name in ("door", "yard")]
    run(*cameras)
    cameras[1].predict(0, label="4")
    listener.wait_for(lambda: records(listener, "yard/prediction"))
    assert not records(listener, "door/prediction")
    send_command(listener, "pause", "ON", camera="yard")
    wait_for(lambda: cameras[1].state is State.PAUSED)
    assert cameras[0].state is State.RUNNING
    listener.wait_for(lambda: records(listener, "health"))
    assert records(listener, "health")[0]["cameras"] == ["door", "yard"]


def test_waiting_messages_are_bounded_and_the_dropped_ones_counted(camera, broker, run):
    interface = run(camera)
    broker.kill()
    wait_for(lambda: not interface.client.connected)
    for seq in range(CAPACITY + 500):
        camera.predict(seq, label=str(seq))
    assert interface.client.queue.lost >= 500
    assert len(interface.client.queue) == CAPACITY


def test_nan_and_infinity_become_null():
    assert encoded({"a": [float("inf"), 1.5], "b": {"c": float("nan")}}) == b'{"a":[null,1.5],"b":{"c":null}}'


def test_the_picture_is_published_when_what_is_seen_changes_and_not_too_often(tmp_path, broker, listener, run):
    camera = Camera(tmp_path, mqtt_image="0.4")
    run(camera)

    def pictures():
        return listener.payloads("camapp/pi/door/image")

    camera.predict(0, "open")
    listener.wait_for(lambda: len(pictures()) == 1)
    assert cv2.imdecode(np.frombuffer(pictures()[0], np.uint8), cv2.IMREAD_COLOR).shape == (4, 4, 3)
    assert components(listener)["door_picture"]["image_topic"] == "camapp/pi/door/image"
    # Two changes within the interval are one picture, after it; no change is none.
    began = time.monotonic()
    camera.predict(1, "closed")
    camera.predict(2, "open")
    assert len(pictures()) == 1 or time.monotonic() - began > 0.3

    def later():
        camera.predict(3, "open")
        return len(pictures()) == 2

    listener.wait_for(later)
    time.sleep(0.5)
    camera.predict(4, "open")
    time.sleep(0.1)
    assert len(pictures()) == 2


def test_a_picture_shows_the_change_and_not_the_frame_before(tmp_path):
    published = []
    sink = PictureSink(0.01, published.append)
    sink.start()
    grey = np.full((900, 1600, 3), 99, np.uint8)
    assert not sink.wanted()
    sink.request(5)
    assert sink.wanted()
    for trace in (None, Trace(4)):
        sink.show(grey, trace)
    assert sink.wanted()
    sink.show(grey, Trace(6))
    sink.stop()
    (jpeg,) = published
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (720, 1280, 3)


def test_a_change_while_a_picture_is_taken_gets_a_picture_of_its_own(monkeypatch):
    sink = PictureSink(0.0, print)
    sink.request(5)
    with monkeypatch.context() as patch:
        # The predictions' thread requests another between two steps of the drawing thread.
        patch.setattr("camapp.remote.mqtt.picture.time.monotonic", lambda: sink.request(9) or 1.0)
        sink.show(np.zeros((2, 2, 3), np.uint8), Trace(6))
    assert sink.wanted()


def test_the_picture_of_an_earlier_run_is_removed_if_none_is_published_any_more(tmp_path, listener, run):
    camera = Camera(tmp_path, mqtt_image="0.1")
    first = run(camera, state=tmp_path)
    camera.predict(0, "open")
    listener.wait_for(lambda: listener.payloads("camapp/pi/door/image"))
    first.stop()
    run(Camera(tmp_path), state=tmp_path)
    listener.wait_for(lambda: listener.payloads("camapp/pi/door/image")[-1] == b"")
    listener.wait_for(lambda: components(listener)["door_picture"] == {"platform": "image"})


def test_labels_that_the_settings_name_have_sensors_also_in_a_model_with_many(tmp_path, listener, run):
    camera = Camera(tmp_path, task="classify", clip_on="n30,score<0.5", on_label_when="*,n31,n30")
    camera.labels = tuple(f"n{number}" for number in range(1000))
    run(camera)
    listener.wait_for(lambda: components(listener))
    assert [name for name in components(listener) if name.startswith("door_is_")] == ["door_is_n30", "door_is_n31"]
