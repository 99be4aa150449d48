"""The cameras on a real broker: what is told when, and what orders do."""

import json
import logging
import time

import numpy as np
import pytest

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Prediction
from camapp.core.settings import Settings, load_settings
from camapp.core.stats import Balance
from camapp.core.status import Health, Hud, State, Status
from camapp.remote.mqtt import client as link_module
from camapp.remote.mqtt import commands as orders_module
from camapp.remote.mqtt import interface as face_module
from camapp.remote.mqtt.client import access
from camapp.remote.mqtt.interface import MqttInterface, encoded
from camapp.sinks.sink import ImageSink, PredictionSink
from engine.model import ModelError
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto, wait_for

PIXEL = Image.of(np.zeros((4, 4, 3), np.uint8), Layout.RGB)


class Camera:
    """A run that does what a test says."""

    def __init__(self, tmp_path, name="door", task="digits", **settings):
        self.name = name
        self.settings = load_settings(
            {"name": name, "snapshots": str(tmp_path / "pictures"), **settings}, environment={}
        )
        self.prediction_sinks, self.image_sinks = [], []
        self.state, self.task = State.RUNNING, task
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
            self.name, self.state, "", figures, balance, latency, None, 0.0, self.task, (), (4, 4), None, 12.0
        )

    def add_sink(self, sink):
        if isinstance(sink, PredictionSink):
            self.prediction_sinks.append(sink)
        if isinstance(sink, ImageSink):
            self.image_sinks.append(sink)

    def pause(self):
        self.state = State.PAUSED

    def resume(self):
        self.state = State.RUNNING

    def apply(self, settings):
        time.sleep(self.change_s)
        if self.broken:
            raise self.broken
        self.settings = settings
        self.changes.append(settings)
        self.task = "track" if settings.model == "track" else "digits"

    def see(self, seq, label="7", **values):
        prediction = Prediction(
            seq, self.task, label, 0.9, label, 0.9, ((label, 0.9),), (Box(0, 0, 2, 2, label),), values=values
        )
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
def run(broker, monkeypatch):
    monkeypatch.setattr(link_module, "_RETRY_S", 0.1)
    faces = []

    def start(*cameras, device="pi"):
        face = MqttInterface(cameras, access(broker.uri, None, None), device)
        for camera in cameras:
            for sink in camera.image_sinks:
                sink.start()
        face.start()
        faces.append(face)
        wait_for(lambda: face.link.connected)
        time.sleep(0.1)  # its subscriptions reach the broker after its connection
        return face

    yield start
    for face in faces:
        face.stop()


@pytest.fixture
def camera(tmp_path):
    return Camera(tmp_path)


def told(listener, topic):
    return [json.loads(payload) for payload in listener.payloads(f"camapp/pi/{topic}")]


def order(listener, what, payload, camera="door", **options):
    listener.client.publish(f"camapp/pi/{camera}/set/{what}", payload, qos=1, **options)


def answer(listener, count=1):
    return listener.wait_for(lambda: len(told(listener, "door/answer")) >= count and told(listener, "door/answer")[-1])


def test_a_prediction_is_told_when_its_label_changes_and_now_and_then(camera, listener, run, monkeypatch):
    monkeypatch.setattr(face_module, "HEARTBEAT_S", 0.5)
    run(camera)
    began = time.monotonic()
    for seq in range(70):
        camera.see(seq, label="7" if seq < 30 else "8")
        time.sleep(0.01)
    took = time.monotonic() - began
    heard = listener.wait_for(lambda: told(listener, "door/prediction"))
    time.sleep(0.2)
    heard = told(listener, "door/prediction")
    assert [record["label"] for record in heard] == sorted(record["label"] for record in heard)
    assert next(record["seq"] for record in heard if record["label"] == "8") == 30
    assert 2 <= len(heard) <= 2 + took / 0.5
    assert heard[0]["score"] == 0.9
    assert heard[0]["boxes"][0]["label"] == "7"


def test_numbers_are_told_at_a_rate_that_a_house_can_bear_and_are_valid_json(camera, listener, run):
    run(camera)
    began = time.monotonic()
    for seq in range(80):
        camera.see(seq, offset_m=seq / 100, heading_deg=float("nan"))
        time.sleep(0.01)
    took = time.monotonic() - began
    heard = listener.wait_for(lambda: told(listener, "door/values"))
    time.sleep(0.2)
    heard = told(listener, "door/values")
    assert 3 <= len(heard) <= 2 + took / 0.2
    assert heard[-1]["offset_m"] > 0.3
    assert heard[-1]["heading_deg"] is None


def test_availability_status_and_health_are_retained(camera, broker, run):
    face = run(camera)
    camera.see(1)
    wait_for(lambda: face.link.sent >= 5)
    late = Listener(broker)
    try:
        late.wait_for(lambda: told(late, "door/prediction") and told(late, "health") and told(late, "door/status"))
        assert late.payloads("camapp/pi/availability") == [b"online"]
        assert all(retained for _, _, retained in late.messages)
        status = told(late, "door/status")[0]
        assert (status["state"], status["fps"]["inference"], status["fps"]["target"]) == ("running", 29, 30)
        assert status["latency_ms"] == {"p50": 10.0, "p95": 20.0, "p99": 30.0}
        assert (status["frames"]["captured"], status["frames"]["dropped_total"]) == (100, 9)
        assert told(late, "health")[0]["throttled"] == ["throttled"]
    finally:
        late.close()


def test_a_change_of_state_is_told_at_once_and_the_end_before_leaving(camera, listener, run):
    face = run(camera)
    camera.state = State.NO_SIGNAL
    listener.wait_for(lambda: [record["state"] for record in told(listener, "door/status")][-1:] == ["no signal"], 3)
    camera.state = State.ENDED
    face.stop()
    listener.wait_for(lambda: listener.payloads("camapp/pi/availability") == [b"online", b"offline"])
    assert told(listener, "door/status")[-1]["state"] == "ended"


def test_everything_is_said_again_to_a_broker_that_lost_its_memory(camera, broker, listener, run):
    run(camera)
    camera.see(1, label="3")
    listener.wait_for(lambda: told(listener, "door/prediction"))
    broker.kill()
    broker.start()
    late = Listener(broker)
    try:
        late.wait_for(lambda: told(late, "door/prediction") and told(late, "door/status"))
        late.wait_for(lambda: late.payloads("homeassistant/device/camapp_pi/config"))
        assert late.payloads("camapp/pi/availability")[-1] == b"online"
    finally:
        late.close()


def test_changes_while_the_broker_is_away_arrive_in_order_when_it_is_back(camera, broker, run):
    face = run(camera)
    broker.kill()
    wait_for(lambda: not face.link.connected)
    for seq in range(60):
        camera.see(seq, label=str(seq // 20))
    listener_broker = broker.start()
    listener = Listener(listener_broker)
    try:
        listener.wait_for(lambda: [r["label"] for r in told(listener, "door/prediction")][-1:] == ["2"])
        wait_for(lambda: not face.link._queue)
        labels = [record["label"] for record in told(listener, "door/prediction")]
        assert labels == sorted(labels)
        assert face.link.lost == 0
    finally:
        listener.close()


def test_home_assistants_birth_is_answered_with_all_it_needs_and_not_too_often(camera, listener, run, monkeypatch):
    monkeypatch.setattr(face_module, "_ANNOUNCE_EVERY_S", 0.5)
    run(camera)
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


def test_pause_and_going_on_are_ordered_answered_and_shown(camera, listener, run):
    run(camera)
    order(listener, "pause", "ON")
    said = answer(listener)
    assert (said["ok"], said["order"], said["message"]) == (True, "pause", "paused")
    listener.wait_for(lambda: told(listener, "door/status")[-1]["paused"], 3)
    order(listener, "pause", "OFF")
    assert answer(listener, 2)["message"] == "going on"
    listener.wait_for(lambda: not told(listener, "door/status")[-1]["paused"], 3)


def test_a_model_is_chosen_by_name_with_nothing_of_the_old_one_and_back(tmp_path, listener, run):
    camera = Camera(tmp_path, model="/home/pi/my.npz", labels="a,b", mean="0.5")
    run(camera)
    order(listener, "model", "lenet")
    assert answer(listener)["message"] == "model lenet"
    assert (camera.settings.model, camera.settings.labels, camera.settings.mean) == ("lenet", None, None)
    listener.wait_for(lambda: told(listener, "door/status")[-1]["model"] == "lenet", 3)
    order(listener, "model", "my.npz")
    assert answer(listener, 2)["ok"]
    assert (camera.settings.model, camera.settings.labels) == ("/home/pi/my.npz", "a,b")


def test_a_model_with_other_numbers_gets_other_entities_and_loses_them_again(camera, listener, run):
    run(camera)
    topic = "homeassistant/device/camapp_pi/config"

    def components():
        return json.loads(listener.payloads(topic)[-1])["components"]

    listener.wait_for(lambda: listener.payloads(topic))
    assert "door_offset_m" not in components()
    order(listener, "model", "track")
    listener.wait_for(lambda: "unique_id" in components().get("door_offset_m", {}), 5)
    order(listener, "model", "mnist")
    listener.wait_for(lambda: components()["door_offset_m"] == {"platform": "sensor"}, 5)


def test_a_snapshot_is_saved_and_named(camera, listener, run, tmp_path):
    run(camera)
    order(listener, "snapshot", "PRESS")
    deadline = time.monotonic() + 5
    while not told(listener, "door/answer") and time.monotonic() < deadline:
        camera.see(1)
        time.sleep(0.02)
    said = answer(listener)
    (saved,) = (tmp_path / "pictures").glob("*.png")
    assert said["message"] == f"saved {saved}"


def test_a_snapshot_that_never_comes_is_told(camera, listener, run, monkeypatch):
    monkeypatch.setattr(orders_module, "_IMAGE_S", 0.3)
    run(camera)
    order(listener, "snapshot", "PRESS")
    assert answer(listener)["message"] == "refused: no image came; it is saved when one does"


@pytest.mark.parametrize(
    ("what", "payload", "why"),
    [
        ("pause", "maybe", "pause takes ON or OFF"),
        ("pause", "", "pause takes ON or OFF"),
        ("pause", b"\xff\xfe", "it is no UTF-8"),
        ("model", "../../etc/passwd", "no such model; there are cifar10"),
        ("model", "x" * 300, "300 bytes are too many"),
    ],
)
def test_a_bad_order_is_refused_in_words_and_changes_nothing(camera, listener, run, caplog, what, payload, why):
    run(camera)
    before = camera.settings
    order(listener, what, payload)
    said = answer(listener)
    assert not said["ok"]
    assert why in said["message"]
    assert camera.settings is before
    assert camera.state is State.RUNNING
    assert any(why in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_orders_to_nobody_are_logged_and_not_answered(camera, listener, run, caplog):
    run(camera)
    order(listener, "pause", "ON", camera="yard")
    wait_for(lambda: "no such camera; there are door" in caplog.text)
    assert not any("yard" in topic and "answer" in topic for topic, _, _ in listener.messages)


@pytest.mark.parametrize(
    ("error", "told"),
    [(ModelError("damaged"), "refused: not changed: damaged"), (ZeroDivisionError("a fault"), "failed: a fault")],
)
def test_a_model_that_cannot_be_used_is_told_and_the_next_order_obeyed(camera, listener, run, error, told):
    camera.broken = error
    run(camera)
    order(listener, "model", "lenet")
    said = answer(listener)
    assert (said["ok"], said["message"]) == (False, told)
    assert camera.settings.model == Settings().model
    order(listener, "pause", "ON")
    assert answer(listener, 2)["ok"]


def test_retained_rubbish_is_never_obeyed(camera, broker, listener, run, caplog):
    for what, payload in (("pause", "ON"), ("model", "lenet"), ("snapshot", "PRESS"), ("pause", b"\xff" * 60_000)):
        order(listener, what, payload, retain=True)
    time.sleep(0.3)
    face = run(camera)
    time.sleep(0.5)
    broker.kill()
    broker.start()
    wait_for(lambda: face.link.connected)
    time.sleep(0.5)
    assert camera.state is State.RUNNING
    assert not camera.changes
    assert not told(listener, "door/answer")
    face._orders.take("door", "pause", b"ON", True)  # from a broker that does not know of that
    assert "it was retained" in caplog.text


def test_more_orders_than_can_wait_are_refused_and_the_log_stays_short(camera, listener, run, caplog):
    camera.change_s = 0.3
    run(camera)
    for _ in range(60):
        order(listener, "model", "lenet")
    wait_for(lambda: len(camera.changes) >= 4)
    time.sleep(0.5)
    assert len(camera.changes) <= 6
    refusals = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(refusals) == 1
    assert "others are waiting" in refusals[0].getMessage()


def test_a_namesake_is_told_of_once_and_the_old_connections_will_is_contradicted(
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


def test_several_cameras_share_a_connection_and_have_topics_of_their_own(tmp_path, listener, run):
    cameras = [Camera(tmp_path, name) for name in ("door", "yard")]
    run(*cameras)
    cameras[1].see(0, label="4")
    listener.wait_for(lambda: told(listener, "yard/prediction"))
    assert not told(listener, "door/prediction")
    order(listener, "pause", "ON", camera="yard")
    wait_for(lambda: cameras[1].state is State.PAUSED)
    assert cameras[0].state is State.RUNNING
    listener.wait_for(lambda: told(listener, "health"))
    assert told(listener, "health")[0]["cameras"] == ["door", "yard"]


def test_what_waits_for_a_broker_is_bounded_and_the_rest_counted(camera, broker, run):
    face = run(camera)
    broker.kill()
    wait_for(lambda: not face.link.connected)
    for seq in range(link_module.KEEP + 500):
        camera.see(seq, label=str(seq))
    assert face.link.lost >= 500
    assert len(face.link._queue) == link_module.KEEP


def test_what_is_no_number_becomes_null():
    assert encoded({"a": [float("inf"), 1.5], "b": {"c": float("nan")}}) == b'{"a":[null,1.5],"b":{"c":null}}'
