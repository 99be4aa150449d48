"""The link to a real broker that is away, comes, is killed, refuses, is flooded or does not answer."""

import logging
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from camapp.core.errors import SinkError
from camapp.remote.mqtt import client as link_module
from camapp.remote.mqtt.client import Message, MqttClient, access, new_client
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto, make_certificates, needs_mosquitto, wait_for


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.kill()


@pytest.fixture
def linked(monkeypatch):
    """Makes links, and stops them."""
    monkeypatch.setattr(link_module, "_RETRY_S", 0.1)
    monkeypatch.setattr(link_module, "_RETRY_MOST_S", 0.3)
    links = []

    def make(uri, name="test", password_file=None, ca=None, **options):
        link = MqttClient(access(uri, password_file, ca), name, **options)
        links.append(link)
        link.start()
        return link

    yield make
    for link in links:
        link.stop()


@pytest.fixture
def listen():
    listeners = []

    def make(broker, *arguments, **options):
        listeners.append(Listener(broker, *arguments, **options))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.close()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_all_that_is_put_arrives_in_order_and_the_newest_of_a_state(broker, linked, listen):
    listener = listen(broker)
    link = linked(broker.uri)
    for number in range(200):
        link.put("a/event", b"%d" % number)
        link.set("a/state", b"%d" % number)
    listener.wait_for(lambda: len(listener.payloads("a/event")) == 200)
    assert listener.payloads("a/event") == [b"%d" % number for number in range(200)]
    assert listener.payloads("a/state")[-1] == b"199"
    wait_for(lambda: link.sent >= 201)
    assert link.lost == 0


def test_a_broker_that_is_away_at_the_start_is_waited_for_and_told_of_once(tmp_path, linked, listen, caplog):
    broker = Mosquitto(tmp_path / "broker")
    link = linked(broker.uri)
    link.put("a/event", b"early")
    time.sleep(1)
    assert not link.connected
    assert len(warnings(caplog)) == 1
    assert "nobody listens there (connection refused): is the broker running?" in warnings(caplog)[0]
    broker.start()
    listener = listen(broker)
    listener.wait_for(lambda: listener.payloads("a/event") == [b"early"])
    assert "is back" in warnings(caplog)[1]
    link.stop()
    broker.kill()
    assert len(warnings(caplog)) == 2


def test_while_the_broker_is_away_the_newest_are_kept_and_the_lost_are_counted(tmp_path, linked, listen, monkeypatch):
    monkeypatch.setattr(link_module, "KEEP", 50)
    broker = Mosquitto(tmp_path / "broker")
    link = linked(broker.uri)
    for number in range(170):
        link.put("a/event", b"%d" % number)
    assert link.lost == 120
    broker.start()
    listener = listen(broker)
    try:
        listener.wait_for(lambda: link.sent >= 50)
        wait_for(lambda: listener.payloads("a/event")[-1:] == [b"169"])
        assert link.lost == 120
    finally:
        link.stop()
        broker.kill()


def test_a_broker_that_is_killed_and_started_again_hears_everything_from_then_on(broker, linked, listen, caplog):
    connections = []

    def say_all():
        connections.append(link)
        link.set("a/state", b"here")

    def hears_again(listener):
        listener.wait_for(lambda: listener.payloads("a/event") == [b"meanwhile"])
        listener.wait_for(lambda: listener.payloads("a/state"))

    link = MqttClient(access(broker.uri, None, None), "test", on_connected=say_all)
    link.start()
    wait_for(lambda: link.connected)
    for _ in range(2):
        broker.kill()
        wait_for(lambda: not link.connected)
        link.put("a/event", b"meanwhile")
        broker.start()
        wait_for(lambda: link.connected)
        hears_again(listen(broker))
    assert len(connections) == 3
    assert sum("is back" in text for text in warnings(caplog)) == 2
    link.stop()


def test_an_error_in_what_it_calls_is_told_and_does_not_end_it(broker, linked, caplog):
    raised = [ZeroDivisionError("one"), ZeroDivisionError("two")]

    def say_all():
        if raised:
            raise raised.pop()

    link = linked(broker.uri, on_connected=say_all)
    wait_for(lambda: not raised and link.connected)
    link.put("a/event", b"")
    wait_for(lambda: link.sent == 1)
    assert "ZeroDivisionError: two" in caplog.text


def test_a_broker_that_hangs_costs_its_reader_nothing_and_bounded_memory(broker, linked, monkeypatch):
    monkeypatch.setattr(link_module, "KEEP", 100)
    link = linked(broker.uri)
    wait_for(lambda: link.connected)
    broker.suspend(signal.SIGSTOP)
    try:
        for _ in range(2000):
            link.put("a/event", bytes(2000))  # would not return, if it waited for the broker
        time.sleep(0.5)
        assert link.lost >= 2000 - 100 - link_module._IN_FLIGHT
    finally:
        broker.suspend(signal.SIGCONT)
    wait_for(lambda: link.sent + link.lost == 2000)


def test_what_the_broker_had_not_confirmed_is_sent_again(broker, linked, listen):
    link = linked(broker.uri)
    wait_for(lambda: link.connected)
    broker.suspend(signal.SIGSTOP)
    for number in range(10):
        link.put("a/event", b"%d" % number)
    time.sleep(0.3)
    broker.kill()
    wait_for(lambda: not link.connected)
    broker.start()
    listener = listen(broker)
    wait_for(lambda: link.sent == 10)
    listener.wait_for(lambda: listener.payloads("a/event")[-1:] == [b"9"])
    assert link.lost == 0


def test_the_will_is_left_by_who_vanishes_and_not_by_who_takes_leave(broker, linked, listen):
    listener = listen(broker)
    will = Message("a/availability", b"offline")
    link = linked(broker.uri, will=will)
    wait_for(lambda: link.connected)
    link.set("a/availability", b"bye")
    link.stop()
    listener.wait_for(lambda: listener.payloads("a/availability"))
    time.sleep(0.3)
    assert listener.payloads("a/availability") == [b"bye"]
    gone = new_client(link._paho.client, "gone", lambda *_: None, lambda *_: None, lambda *_: None)
    gone.will_set(will.topic, will.payload, qos=1, retain=True)
    gone.connect("localhost", broker.port)
    gone.loop(1)
    gone.socket().close()
    listener.wait_for(lambda: listener.payloads("a/availability") == [b"bye", b"offline"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    needs_mosquitto()
    broker = Mosquitto(tmp_path_factory.mktemp("guarded"), user=("pi", "secret word")).start()
    yield broker
    broker.kill()


def test_user_and_password_from_a_file(guarded, linked, tmp_path):
    file = tmp_path / "password"
    file.write_text("secret word\n")
    link = linked(f"mqtt://pi@localhost:{guarded.port}", password_file=file)
    wait_for(lambda: link.connected)


def test_a_password_from_the_environment_is_taken_out_of_it(guarded, linked, monkeypatch):
    monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "secret word")
    link = linked(f"mqtt://pi@localhost:{guarded.port}")
    wait_for(lambda: link.connected)
    import os

    assert "CAMAPP_MQTT_PASSWORD" not in os.environ
    assert "secret" not in repr(link._access)


@pytest.mark.parametrize("uri", ["mqtt://pi@localhost:{}", "mqtt://localhost:{}"])
def test_a_wrong_password_is_told_once_with_what_to_do_and_never_shown(guarded, linked, monkeypatch, caplog, uri):
    if "@" in uri:
        monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "wrong word")
    link = linked(uri.format(guarded.port))
    wait_for(lambda: link.reason)
    time.sleep(0.7)
    assert len(warnings(caplog)) == 1
    assert "user or password refused" in warnings(caplog)[0]
    assert "CAMAPP_MQTT_PASSWORD or --mqtt-password-file" in warnings(caplog)[0]
    assert "word" not in caplog.text.replace("password", "").replace("PASSWORD", "")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    needs_mosquitto()
    broker = Mosquitto(tmp_path_factory.mktemp("encrypted"), tls=True).start()
    yield broker
    broker.kill()


def test_with_tls_and_the_right_authority_messages_arrive(encrypted, linked):
    link = linked(f"mqtts://localhost:{encrypted.port}", ca=encrypted.ca)
    for _ in range(100):
        link.put("a/event", bytes(3000))
    wait_for(lambda: link.sent == 100)


@pytest.mark.parametrize(
    ("uri", "trusted", "told"),
    [
        ("mqtts://localhost:{}", "none", "its certificate is not to be trusted"),
        ("mqtts://localhost:{}", "other", "its certificate is not to be trusted"),
        ("mqtts://127.0.0.1:{}", "right", "IP address mismatch"),
        ("mqtt://localhost:{}", "none", "if that port is for TLS, write mqtts://"),
    ],
)
def test_tls_that_does_not_match_is_told_once_with_what_to_do(encrypted, linked, tmp_path, caplog, uri, trusted, told):
    make_certificates(tmp_path)
    ca = {"none": None, "other": tmp_path / "ca.pem", "right": encrypted.ca}[trusted]
    link = linked(uri.format(encrypted.port), ca=ca)
    wait_for(lambda: link.reason)
    time.sleep(0.7)
    assert told in link.reason
    assert len(warnings(caplog)) == 1


def test_tls_to_a_port_without_it(broker, linked, caplog):
    link = linked(f"mqtts://localhost:{broker.port}")
    wait_for(lambda: link.reason)
    assert "write mqtt:// in place of mqtts://" in link.reason


def test_a_name_that_does_not_exist(linked):
    link = linked("mqtt://no-such-machine.invalid")
    wait_for(lambda: link.reason)
    assert "no machine of the name 'no-such-machine.invalid'" in link.reason


def test_a_port_that_says_nothing(linked, monkeypatch):
    monkeypatch.setattr(link_module, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        link = linked(f"mqtt://127.0.0.1:{mute.getsockname()[1]}")
        wait_for(lambda: link.reason)
        assert "no answer within" in link.reason


def test_two_of_the_same_name_do_not_end_each_others_connection(broker, linked):
    links = [linked(broker.uri, name="same") for _ in range(2)]
    wait_for(lambda: all(link.connected for link in links))
    time.sleep(0.5)
    assert all(link.connected and not link.reason for link in links)


def test_a_broker_that_refuses_a_topic_is_told_of_once(tmp_path, linked, caplog):
    if not hasattr(pytest.importorskip("paho.mqtt.client"), "CallbackAPIVersion"):
        pytest.skip("paho-mqtt 1 does not tell why a message was refused")
    (tmp_path / "acl").write_text("topic read #\n")
    broker = Mosquitto(tmp_path / "broker", lines=[f"acl_file {tmp_path}/acl"]).start()
    try:
        link = linked(broker.uri)
        for _ in range(5):
            link.put("a/event", b"")
        wait_for(lambda: link.lost == 5)
        assert sum("refuses a/event" in text for text in warnings(caplog)) == 1
    finally:
        link.stop()
        broker.kill()


def test_what_was_retained_is_heard_only_by_who_asks_for_it(broker, linked, listen):
    listen(broker).client.publish("a/set/x", b"old", retain=True).wait_for_publish(5)
    heard = {True: [], False: []}
    for wanted, kept in heard.items():
        link = linked(
            broker.uri,
            name=f"hears-{wanted}",
            topics=["a/set/+"],
            with_retained=wanted,
            on_message=lambda topic, payload, retained, kept=kept: kept.append((payload, retained)),
        )
        wait_for(lambda link=link: link.connected)
    wait_for(lambda: heard[True])
    listen(broker).client.publish("a/set/x", b"new")
    wait_for(lambda: heard[False])
    assert heard == {True: [(b"old", True), (b"new", False)], False: [(b"new", False)]}


def test_messages_that_are_too_large_never_come(broker, linked, listen):
    heard = []
    link = linked(
        broker.uri, topics=["a/set/+"], on_message=lambda topic, payload, retained: heard.append(len(payload))
    )
    wait_for(lambda: link.connected)
    time.sleep(0.2)
    sender = listen(broker, "none").client
    for size in (10_000_000, link_module.LARGEST + 1, 10):
        sender.publish("a/set/x", bytes(size), qos=1)
    wait_for(lambda: heard)
    time.sleep(0.3)
    assert heard == [10]
    assert link.connected


def test_a_flood_closes_its_ears_for_a_while_and_what_is_sent_still_arrives(
    broker, linked, listen, monkeypatch, caplog
):
    monkeypatch.setattr(link_module, "DEAF_S", 1.5)
    heard = []
    link = linked(broker.uri, topics=["a/set/+"], on_message=lambda topic, payload, retained: heard.append(payload))
    wait_for(lambda: link.connected)
    time.sleep(0.2)
    listener = listen(broker, "a/event")
    sender = listen(broker, "none").client
    stopping = threading.Event()

    def flood():
        while not stopping.is_set():
            for _ in range(100):
                sender.publish("a/set/x", b"x")
            time.sleep(0.01)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        wait_for(lambda: any("messages a second came in" in text for text in warnings(caplog)))
        assert len(heard) <= link_module.FLOOD
        link.put("a/event", b"still here")
        listener.wait_for(lambda: listener.payloads("a/event") == [b"still here"], 5)
        assert len(heard) <= link_module.FLOOD
    finally:
        stopping.set()
        thread.join()
    time.sleep(2)
    heard.clear()
    sender.publish("a/set/x", b"again")
    wait_for(lambda: b"again" in heard)


def test_stopping_is_bounded_whatever_the_broker_does(broker, linked):
    link = linked(broker.uri)
    wait_for(lambda: link.connected)
    broker.suspend(signal.SIGSTOP)
    for _ in range(100):
        link.put("a/event", bytes(60_000))
    began = time.monotonic()
    link.stop()
    assert time.monotonic() - began < 5
    broker.suspend(signal.SIGCONT)


@pytest.mark.parametrize("wanted", ["missing", "binary", "empty certificate"])
def test_files_that_cannot_be_used_are_told(tmp_path, wanted):
    needs_mosquitto()
    file = tmp_path / "file"
    if wanted == "binary":
        file.write_bytes(b"\xff\xfe")
    if wanted == "empty certificate":
        file.write_text("nothing")
        with pytest.raises(SinkError, match="holds no certificate"):
            MqttClient(access("mqtts://h", None, file), "x")
        return
    with pytest.raises(SinkError, match="cannot read --mqtt-password-file"):
        access("mqtt://u@h", file, None)


def test_a_password_without_a_user_and_a_certificate_without_tls_are_told(monkeypatch):
    monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "x")
    with pytest.raises(SinkError, match="but no user: write mqtt://USER@HOST"):
        access("mqtt://h", None, None)
    with pytest.raises(SinkError, match="write mqtts://"):
        access("mqtt://h", None, __file__)


class Version1:
    """What paho-mqtt 1 has of a client."""

    MQTTv5 = 5

    class Client:
        def __init__(self, client_id="", clean_session=None, userdata=None, protocol=4):
            self.made_with = client_id, protocol


def test_each_version_of_paho_is_called_its_own_way():
    calls = []
    said = [lambda *values, name=name: calls.append((name, *values)) for name in ("answered", "put out", "taken")]
    one = new_client(Version1, "me", *said)
    assert one.made_with == ("me", 5)
    code = SimpleNamespace(value=142)
    one.on_connect(one, None, {}, 0)
    one.on_disconnect(one, None, 7)
    one.on_disconnect(one, None, code, None)
    one.on_publish(one, None, 3)
    assert [call[:2] for call in calls] == [("answered", 0), ("put out", 0), ("put out", 142), ("taken", 3)]

    class Version2(Version1):
        CallbackAPIVersion = SimpleNamespace(VERSION2="two")

        class Client:
            def __init__(self, callback_api_version, client_id="", protocol=4):
                self.made_with = callback_api_version, client_id, protocol

    calls.clear()
    two = new_client(Version2, "me", *said)
    assert two.made_with == ("two", "me", 5)
    two.on_connect(two, None, None, SimpleNamespace(value=135), SimpleNamespace(ReceiveMaximum=10))
    two.on_disconnect(two, None, SimpleNamespace(is_disconnect_packet_from_server=False), code, None)
    two.on_disconnect(two, None, SimpleNamespace(is_disconnect_packet_from_server=True), code, None)
    two.on_publish(two, None, 3, SimpleNamespace(value=16), None)
    assert [(call[0], call[1]) for call in calls] == [("answered", 135), ("put out", 0), ("put out", 142), ("taken", 3)]
    assert calls[0][3] == 10
    assert calls[3][2] == 16
