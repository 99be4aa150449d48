"""Addresses of the web page and the MQTT broker, the name of the device, and the settings that hold them."""

import json
import socket

import pytest

from camapp.core.addresses import MqttAddress, WebAddress, device_id, parse_mqtt, parse_web, plain_source
from camapp.core.errors import SettingsError, SinkError
from camapp.core.settings import load_cameras, load_settings, to_toml
from camapp.remote.interfaces import check_interfaces

# Sources


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "v4l2://0"),
        ("picamera", "picamera://0"),
        ("192.168.1.20/stream", "http://192.168.1.20/stream"),
        ("192.168.1.20", "http://192.168.1.20"),
        ("192.168.1.20:8554/door", "rtsp://192.168.1.20:8554/door"),
        ("me:secret@192.168.1.20:554/1", "rtsp://me:secret@192.168.1.20:554/1"),
        ("pi.local:8080/stream.mjpg", "http://pi.local:8080/stream.mjpg"),
        ("camera:1935/live", "rtmp://camera:1935/live"),
        # Files, and what has a scheme, stay as they are.
        *(
            (text, text)
            for text in ("video.mp4", "photos/a.jpg", "a:b.mp4", "auto", "webcam", "rtsp://h/x", "-", "*.png")
        ),
    ],
)
def test_a_source_in_plain_words_gets_its_scheme(text, expected):
    assert plain_source(text) == expected
    assert load_settings({"source": text}, environment={}).source == expected


def test_a_file_named_like_a_camera_or_an_address_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("0", "192.168.1.20", "picamera"):
        (tmp_path / name).touch()
        assert plain_source(name) == name


# Web


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", "127.0.0.1:8080"),
        (":9000", "127.0.0.1:9000"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:81", "[::1]:81"),
        ("localhost", "localhost:8080"),
        ("pi.local", "pi.local:8080"),
        ("[::]", "[::]:8080"),
    ],
)
def test_a_web_address_is_parsed(text, expected):
    assert str(parse_web(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "a b", "x:y", "300.1.1.1:80", "1.2.3:80", "[::1", "host:99999", "h:1:2", "http://x"]
)
def test_text_that_is_not_a_web_address_is_refused(text):
    if not text:
        assert parse_web(text) == WebAddress("127.0.0.1", 8080)
        return
    with pytest.raises(ValueError):  # noqa: PT011 - the texts differ, and `checked` puts them into a sentence
        parse_web(text)


def test_loopback_addresses_are_recognised():
    for text, loopback in {"127.0.0.1": True, "127.8.9.1": True, "[::1]": True, "localhost": True}.items():
        assert parse_web(text).is_loopback is loopback
    for text in ("0.0.0.0", "[::]", "192.168.1.5", "pi.local"):
        assert not parse_web(text).is_loopback


def test_the_web_setting_is_off_by_default_and_can_be_turned_off_again():
    assert load_settings({}, environment={}).web is None
    assert load_settings({"web": "8081"}, environment={}).web == "127.0.0.1:8081"
    assert load_settings({"web": "off"}, environment={"CAMAPP_WEB": "8081"}).web is None
    with pytest.raises(SettingsError, match="--web = 'nowhere:x' is not allowed: HOST:PORT, such as"):
        load_settings({"web": "nowhere:x"}, environment={})


# MQTT


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mqtt://broker", MqttAddress("broker", 1883, False, "", "camapp")),
        ("mqtts://broker", MqttAddress("broker", 8883, True, "", "camapp")),
        ("mqtt://pi@10.0.0.7:1884/", MqttAddress("10.0.0.7", 1884, False, "pi", "camapp")),
        ("mqtt://a%40b@[::1]/home/cams/", MqttAddress("::1", 1883, False, "a@b", "home/cams")),
    ],
)
def test_a_broker_uri_is_parsed(uri, address):
    assert parse_mqtt(uri) == address


@pytest.mark.parametrize(
    "uri",
    [
        *("", "broker", "http://broker", "mqtt://", "mqtt://:1883", "mqtt://b:0", "mqtt://b:port", "mqtt://b:70000"),
        *("mqtt://b/a+b", "mqtt://b/a/%23", "mqtt://b/$SYS", "mqtt://b/a//b", "mqtt://b/a%0ab", "mqtt://b?x=1"),
        f"mqtt://b/{'x' * 101}",
    ],
)
def test_text_that_is_not_a_broker_uri_is_refused(uri):
    with pytest.raises(ValueError, match=r"mqtt://|cannot begin topics"):
        parse_mqtt(uri)


@pytest.mark.parametrize("uri", ["mqtt://u:hush@b", "mqtt://u:hu#sh@b", "mqtt://u:hush/x@b:99999", "mqtts://:hush@b"])
@pytest.mark.parametrize("where", ["command line", "environment", "file"])
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path, uri, where):
    config = tmp_path / "camapp.toml"
    config.write_text(f"mqtt = {json.dumps(uri)}" if where == "file" else "")
    given = {"mqtt": uri} if where == "command line" else {}
    environment = {"CAMAPP_MQTT": uri} if where == "environment" else {}
    with pytest.raises(SettingsError) as raised:
        load_settings(given, config, environment)
    assert "hu" not in str(raised.value)
    assert "mqtt" in str(raised.value)


def test_the_password_variable_is_not_a_setting_and_is_not_printed():
    settings = load_settings({"mqtt": "mqtt://u@b"}, environment={"CAMAPP_MQTT_PASSWORD": "hush"})
    assert "hush" not in to_toml(settings)
    assert "hush" not in repr(settings)


def test_the_broker_is_set_for_the_whole_run(tmp_path):
    config = tmp_path / "camapp.toml"
    config.write_text('[[camera]]\nname = "a"\nmqtt = "mqtt://b"\n')
    with pytest.raises(SettingsError, match="'mqtt' is for the whole run"):
        load_cameras({}, config, {})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a+", "#", "x" * 64])
def test_a_device_name_that_does_not_fit_in_a_topic_is_refused(name):
    with pytest.raises(SettingsError, match="letters, digits"):
        load_settings({"device_name": name}, environment={})


def test_the_device_id_is_the_given_name_or_host_and_machine_id(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "raspberrypi.local")
    assert device_id("shed", tmp_path) == "shed"
    assert device_id(None, tmp_path) == "raspberrypi"
    ids = set()
    for machine in ("4ae0", "4ae1"):
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc/machine-id").write_text(f"{machine}\n")
        ids.add(device_id(None, tmp_path))
        assert device_id(None, tmp_path) in ids
        assert machine not in device_id(None, tmp_path)
    assert len(ids) == 2
    monkeypatch.setattr("socket.gethostname", lambda: "höst name")
    assert device_id(None, tmp_path).startswith("h-st-name-")


def test_check_config_reads_the_files_of_the_broker(tmp_path):
    pytest.importorskip("paho.mqtt.client", reason="the extra 'mqtt' is not installed")
    settings = {"mqtt": "mqtts://b", "mqtt_ca": str(tmp_path / "none.pem")}
    with pytest.raises(SinkError, match="No such file"):
        check_interfaces(load_settings(settings, environment={}))


def test_an_address_for_all_networks_has_a_url_that_other_machines_can_use():
    urls = parse_web("0.0.0.0:8080").urls
    assert urls[-1] == "http://127.0.0.1:8080/"
    assert "http://0.0.0.0:8080/" not in urls
    assert parse_web("192.168.7.7:80").urls == ["http://192.168.7.7:80/"]
    assert parse_web("[::]:8080").urls[-1] == "http://[::1]:8080/"


def test_without_a_network_the_url_is_that_of_this_machine(monkeypatch):
    class Unreachable(socket.socket):
        def connect(self, address):
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unreachable)
    assert parse_web("0.0.0.0:8080").urls == ["http://127.0.0.1:8080/"]
