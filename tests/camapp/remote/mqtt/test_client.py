"""The client with a real broker that is absent, starts, is killed, refuses, floods or does not answer."""

import gc
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from camapp.core.errors import SinkError
from camapp.remote.mqtt.client import MAX_PACKET, MqttClient, Subscription, Timeouts, access, new_client
from camapp.remote.mqtt.queue import Message
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto, make_certificates, needs_mosquitto, wait_for


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.kill()


TIMEOUTS = Timeouts(retry=0.1, retry_max=0.3)


@pytest.fixture
def connect():
    """Returns a function that starts a client; stops them all at the end."""
    clients = []

    def start(uri, name="test", password_file=None, ca=None, **options):
        client = MqttClient(access(uri, password_file, ca), name, **{"timeouts": TIMEOUTS, **options})
        clients.append(client)
        client.start()
        return client

    yield start
    for client in clients:
        client.stop()


@pytest.fixture
def listen():
    listeners = []

    def start(broker, *arguments, **options):
        listeners.append(Listener(broker, *arguments, **options))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_client_that_is_dropped_leaves_no_descriptor():
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        MqttClient(access("mqtt://127.0.0.1", None, None), "test")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_all_events_arrive_in_order_and_the_newest_of_a_state(broker, connect, listen):
    listener = listen(broker)
    client = connect(broker.uri)
    for number in range(200):
        client.put("a/event", b"%d" % number)
        client.set("a/state", b"%d" % number)
    listener.wait_for(lambda: len(listener.payloads("a/event")) == 200)
    assert listener.payloads("a/event") == [b"%d" % number for number in range(200)]
    assert listener.payloads("a/state")[-1] == b"199"
    wait_for(lambda: client.queue.sent >= 201)
    assert client.queue.lost == 0


def test_an_absent_broker_is_waited_for_and_logged_once(tmp_path, connect, listen, caplog):
    broker = Mosquitto(tmp_path / "broker")
    client = connect(broker.uri)
    client.put("a/event", b"early")
    time.sleep(1)
    assert not client.connected
    assert len(warnings(caplog)) == 1
    assert "connection refused: is the broker running?" in warnings(caplog)[0]
    broker.start()
    listener = listen(broker)
    listener.wait_for(lambda: listener.payloads("a/event") == [b"early"])
    assert "is back" in warnings(caplog)[1]
    client.stop()
    broker.kill()
    assert len(warnings(caplog)) == 2


def test_without_a_broker_the_newest_are_kept_and_the_lost_counted(tmp_path, connect, listen):
    broker = Mosquitto(tmp_path / "broker")
    client = connect(broker.uri, capacity=50)
    for number in range(170):
        client.put("a/event", b"%d" % number)
    assert client.queue.lost == 120
    broker.start()
    listener = listen(broker)
    try:
        listener.wait_for(lambda: client.queue.sent >= 50)
        wait_for(lambda: listener.payloads("a/event")[-1:] == [b"169"])
        assert client.queue.lost == 120
    finally:
        client.stop()
        broker.kill()


def test_a_restarted_broker_gets_all_that_follows(broker, listen, caplog):
    connections = []

    def publish_state():
        connections.append(client)
        client.set("a/state", b"present")

    def check_received(listener):
        listener.wait_for(lambda: listener.payloads("a/event") == [b"meanwhile"])
        listener.wait_for(lambda: listener.payloads("a/state"))

    client = MqttClient(access(broker.uri, None, None), "test", on_connected=publish_state, timeouts=TIMEOUTS)
    client.start()
    wait_for(lambda: client.connected)
    for _ in range(2):
        broker.kill()
        wait_for(lambda: not client.connected)
        client.put("a/event", b"meanwhile")
        broker.start()
        wait_for(lambda: client.connected)
        check_received(listen(broker))
    assert len(connections) == 3
    assert sum("is back" in text for text in warnings(caplog)) == 2
    client.stop()


def test_an_error_in_a_callback_is_logged_and_the_client_continues(broker, connect, caplog):
    raised = [ZeroDivisionError("one"), ZeroDivisionError("two")]

    def fail():
        if raised:
            raise raised.pop()

    client = connect(broker.uri, on_connected=fail)
    wait_for(lambda: not raised and client.connected)
    client.put("a/event", b"")
    wait_for(lambda: client.queue.sent == 1)
    assert "ZeroDivisionError: two" in caplog.text


def test_a_broker_that_hangs_blocks_no_sender_and_costs_bounded_memory(broker, connect):
    client = connect(broker.uri, capacity=100)
    wait_for(lambda: client.connected)
    broker.suspend(signal.SIGSTOP)
    try:
        # A sender that waited for the broker would not get past this.
        for _ in range(2000):
            client.put("a/event", bytes(2000))
        time.sleep(0.5)
        assert client.queue.lost >= 2000 - 100 - client.queue.in_flight
    finally:
        broker.suspend(signal.SIGCONT)
    wait_for(lambda: client.queue.sent + client.queue.lost == 2000)


def test_messages_without_acknowledgement_are_sent_again(broker, connect, listen):
    client = connect(broker.uri)
    wait_for(lambda: client.connected)
    broker.suspend(signal.SIGSTOP)
    for number in range(10):
        client.put("a/event", b"%d" % number)
    time.sleep(0.3)
    broker.kill()
    wait_for(lambda: not client.connected)
    broker.start()
    listener = listen(broker)
    wait_for(lambda: client.queue.sent == 10)
    listener.wait_for(lambda: listener.payloads("a/event")[-1:] == [b"9"])
    assert client.queue.lost == 0


def test_the_broker_sends_the_will_of_a_vanished_client_and_not_of_a_stopped_one(broker, connect, listen):
    listener = listen(broker)
    will = Message("a/availability", b"offline")
    client = connect(broker.uri, will=will)
    wait_for(lambda: client.connected)
    client.set("a/availability", b"bye")
    client.stop()
    listener.wait_for(lambda: listener.payloads("a/availability"))
    time.sleep(0.3)
    assert listener.payloads("a/availability") == [b"bye"]
    gone = new_client(
        pytest.importorskip("paho.mqtt.client"), "gone", lambda *_: None, lambda *_: None, lambda *_: None
    )
    gone.will_set(will.topic, will.payload, qos=1, retain=True)
    gone.connect("localhost", broker.port)
    gone.loop(1)
    gone.socket().close()
    listener.wait_for(lambda: listener.payloads("a/availability") == [b"bye", b"offline"])


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    needs_mosquitto()
    broker = Mosquitto(tmp_path_factory.mktemp("protected"), user=("pi", "secret word")).start()
    yield broker
    broker.kill()


def test_user_and_password_from_a_file_are_accepted(protected, connect, tmp_path):
    file = tmp_path / "password"
    file.write_text("secret word\n")
    client = connect(f"mqtt://pi@localhost:{protected.port}", password_file=file)
    wait_for(lambda: client.connected)


def test_a_password_from_the_environment_is_removed_from_it(protected, monkeypatch):
    monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "secret word")
    found = access(f"mqtt://pi@localhost:{protected.port}", None, None)
    assert found.password == "secret word"
    assert "secret" not in repr(found)
    client = MqttClient(found, "test", timeouts=TIMEOUTS)
    client.start()
    wait_for(lambda: client.connected)
    client.stop()
    assert "CAMAPP_MQTT_PASSWORD" not in os.environ


@pytest.mark.parametrize("uri", ["mqtt://pi@localhost:{}", "mqtt://localhost:{}"])
def test_a_wrong_password_is_logged_once_with_the_remedy_and_never_shown(protected, connect, monkeypatch, caplog, uri):
    if "@" in uri:
        monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "wrong word")
    client = connect(uri.format(protected.port))
    wait_for(lambda: client.reason)
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


def test_messages_arrive_by_tls_from_a_trusted_authority(encrypted, connect):
    client = connect(f"mqtts://localhost:{encrypted.port}", ca=encrypted.ca)
    for _ in range(100):
        client.put("a/event", bytes(3000))
    wait_for(lambda: client.queue.sent == 100)


@pytest.mark.parametrize(
    ("uri", "trusted", "reason"),
    [
        ("mqtts://localhost:{}", "none", "its certificate is not trusted"),
        ("mqtts://localhost:{}", "other", "its certificate is not trusted"),
        ("mqtts://127.0.0.1:{}", "right", "IP address mismatch"),
        ("mqtt://localhost:{}", "none", "if that port is for TLS, write mqtts://"),
    ],
)
def test_tls_that_does_not_match_is_logged_once_with_the_remedy(
    encrypted, connect, tmp_path, caplog, uri, trusted, reason
):
    make_certificates(tmp_path)
    ca = {"none": None, "other": tmp_path / "ca.pem", "right": encrypted.ca}[trusted]
    client = connect(uri.format(encrypted.port), ca=ca)
    wait_for(lambda: client.reason)
    time.sleep(0.7)
    assert reason in client.reason
    assert len(warnings(caplog)) == 1


def test_tls_to_a_port_without_it_is_reported(broker, connect):
    client = connect(f"mqtts://localhost:{broker.port}")
    wait_for(lambda: client.reason)
    assert "write mqtt:// in place of mqtts://" in client.reason


def test_a_host_name_that_does_not_exist_is_reported(connect):
    client = connect("mqtt://no-such-machine.invalid")
    wait_for(lambda: client.reason)
    assert "no machine named 'no-such-machine.invalid'" in client.reason


def test_a_port_that_sends_nothing_is_reported(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"mqtt://127.0.0.1:{silent.getsockname()[1]}", timeouts=replace(TIMEOUTS, answer=0.3))
        wait_for(lambda: client.reason)
        assert "no answer within" in client.reason


def test_two_clients_of_one_name_keep_their_connections(broker, connect):
    clients = [connect(broker.uri, name="same") for _ in range(2)]
    wait_for(lambda: all(client.connected for client in clients))
    time.sleep(0.5)
    assert all(client.connected and not client.reason for client in clients)


def test_a_topic_that_the_broker_refuses_is_logged_once(tmp_path, connect, caplog):
    if not hasattr(pytest.importorskip("paho.mqtt.client"), "CallbackAPIVersion"):
        pytest.skip("paho-mqtt 1 has no reason code of a refused message")
    (tmp_path / "acl").write_text("topic read #\n")
    broker = Mosquitto(tmp_path / "broker", lines=[f"acl_file {tmp_path}/acl"]).start()
    try:
        client = connect(broker.uri)
        for _ in range(5):
            client.put("a/event", b"")
        wait_for(lambda: client.queue.lost == 5)
        assert sum("refuses a/event" in text for text in warnings(caplog)) == 1
    finally:
        client.stop()
        broker.kill()


def test_retained_messages_arrive_only_if_requested(broker, connect, listen):
    listen(broker).client.publish("a/set/x", b"old", retain=True).wait_for_publish(5)
    received = {True: [], False: []}
    for wanted, kept in received.items():
        client = connect(
            broker.uri,
            name=f"retained-{wanted}",
            subscription=Subscription(
                ["a/set/+"],
                lambda topic, payload, retained, kept=kept: kept.append((payload, retained)),
                with_retained=wanted,
            ),
        )
        wait_for(lambda client=client: client.connected)
    wait_for(lambda: received[True])
    listen(broker).client.publish("a/set/x", b"new")
    wait_for(lambda: received[False])
    assert received == {True: [(b"old", True), (b"new", False)], False: [(b"new", False)]}


def test_messages_that_are_too_large_never_arrive(broker, connect, listen):
    received = []
    subscription = Subscription(["a/set/+"], lambda topic, payload, retained: received.append(len(payload)))
    client = connect(broker.uri, subscription=subscription)
    wait_for(lambda: client.connected)
    time.sleep(0.2)
    sender = listen(broker, "none").client
    for size in (10_000_000, MAX_PACKET + 1, 10):
        sender.publish("a/set/x", bytes(size), qos=1)
    wait_for(lambda: received)
    time.sleep(0.3)
    assert received == [10]
    assert client.connected


@pytest.mark.slow
def test_a_flood_is_ignored_for_a_while_and_outgoing_messages_still_arrive(broker, connect, listen, caplog):
    received = []
    subscription = Subscription(["a/set/+"], lambda topic, payload, retained: received.append(payload))
    client = connect(broker.uri, subscription=subscription, timeouts=replace(TIMEOUTS, mute=1.5))
    wait_for(lambda: client.connected)
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
        assert len(received) <= subscription.max_rate
        client.put("a/event", b"still present")
        listener.wait_for(lambda: listener.payloads("a/event") == [b"still present"], 5)
        assert len(received) <= subscription.max_rate
    finally:
        stopping.set()
        thread.join()
    received.clear()

    def heard():
        # Repeatedly: the client subscribes again at one of its ticks, up to a second after the mute time.
        sender.publish("a/set/x", b"again")
        time.sleep(0.1)
        return b"again" in received

    wait_for(heard)


def test_stop_is_bounded_if_the_broker_hangs(broker, connect):
    client = connect(broker.uri)
    wait_for(lambda: client.connected)
    broker.suspend(signal.SIGSTOP)
    for _ in range(100):
        client.put("a/event", bytes(60_000))
    began = time.monotonic()
    client.stop()
    assert time.monotonic() - began < 5
    broker.suspend(signal.SIGCONT)


@pytest.mark.parametrize("wanted", ["missing", "binary", "empty certificate"])
def test_files_that_cannot_be_used_are_reported(tmp_path, wanted):
    needs_mosquitto()
    file = tmp_path / "file"
    if wanted == "binary":
        file.write_bytes(b"\xff\xfe")
    if wanted == "empty certificate":
        file.write_text("nothing")
        with pytest.raises(SinkError, match="contains no certificate"):
            MqttClient(access("mqtts://h", None, file), "x")
        return
    with pytest.raises(SinkError, match="cannot read --mqtt-password-file"):
        access("mqtt://u@h", file, None)


def test_a_password_without_a_user_and_a_certificate_without_tls_are_reported(monkeypatch):
    monkeypatch.setenv("CAMAPP_MQTT_PASSWORD", "x")
    with pytest.raises(SinkError, match="but no user: write mqtt://USER@HOST"):
        access("mqtt://h", None, None)
    with pytest.raises(SinkError, match="write mqtts://"):
        access("mqtt://h", None, __file__)


class Version1:
    """The parts of paho-mqtt 1 that make a client."""

    MQTTv5 = 5

    class Client:
        def __init__(self, client_id="", clean_session=None, userdata=None, protocol=4):
            self.made_with = client_id, protocol


def test_clients_of_both_versions_of_paho_call_back_alike():
    calls = []
    names = ("connect", "disconnect", "publish")
    callbacks = [lambda *values, name=name: calls.append((name, *values)) for name in names]
    one = new_client(Version1, "me", *callbacks)
    assert one.made_with == ("me", 5)
    code = SimpleNamespace(value=142)
    one.on_connect(one, None, {}, 0)
    one.on_disconnect(one, None, 7)
    one.on_disconnect(one, None, code, None)
    one.on_publish(one, None, 3)
    assert [call[:2] for call in calls] == [("connect", 0), ("disconnect", 0), ("disconnect", 142), ("publish", 3)]

    class Version2(Version1):
        CallbackAPIVersion = SimpleNamespace(VERSION2="two")

        class Client:
            def __init__(self, callback_api_version, client_id="", protocol=4):
                self.made_with = callback_api_version, client_id, protocol

    calls.clear()
    two = new_client(Version2, "me", *callbacks)
    assert two.made_with == ("two", "me", 5)
    two.on_connect(two, None, None, SimpleNamespace(value=135), SimpleNamespace(ReceiveMaximum=10))
    two.on_disconnect(two, None, SimpleNamespace(is_disconnect_packet_from_server=False), code, None)
    two.on_disconnect(two, None, SimpleNamespace(is_disconnect_packet_from_server=True), code, None)
    two.on_publish(two, None, 3, SimpleNamespace(value=16), None)
    assert [(call[0], call[1]) for call in calls] == [
        ("connect", 135),
        ("disconnect", 0),
        ("disconnect", 142),
        ("publish", 3),
    ]
    assert calls[0][3] == 10
    assert calls[3][2] == 16
