"""A broker's address, a device's name, and the settings that hold them."""

import json

import pytest

from camapp.core.errors import SettingsError, SinkError
from camapp.core.mqtt_address import Address, device_id, parse_address
from camapp.core.settings import load_cameras, load_settings, to_toml
from camapp.remote.interfaces import check_interfaces


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mqtt://broker", Address("broker", 1883, False, "", "camapp")),
        ("mqtts://broker", Address("broker", 8883, True, "", "camapp")),
        ("mqtt://pi@10.0.0.7:1884/", Address("10.0.0.7", 1884, False, "pi", "camapp")),
        ("mqtt://a%40b@[::1]/home/cams/", Address("::1", 1883, False, "a@b", "home/cams")),
    ],
)
def test_the_parts_of_an_address(uri, address):
    assert parse_address(uri) == address


@pytest.mark.parametrize(
    "uri",
    [
        *("", "broker", "http://broker", "mqtt://", "mqtt://:1883", "mqtt://b:0", "mqtt://b:port", "mqtt://b:70000"),
        *("mqtt://b/a+b", "mqtt://b/a/%23", "mqtt://b/$SYS", "mqtt://b/a//b", "mqtt://b/a%0ab", "mqtt://b?x=1"),
        f"mqtt://b/{'x' * 101}",
    ],
)
def test_what_is_no_address_is_refused(uri):
    with pytest.raises(ValueError, match=r"mqtt://|cannot begin topics"):
        parse_address(uri)


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


def test_the_passwords_variable_is_no_setting_and_is_not_printed():
    settings = load_settings({"mqtt": "mqtt://u@b"}, environment={"CAMAPP_MQTT_PASSWORD": "hush"})
    assert "hush" not in to_toml(settings)
    assert "hush" not in repr(settings)


def test_the_broker_is_of_the_whole_run(tmp_path):
    config = tmp_path / "camapp.toml"
    config.write_text('[[camera]]\nname = "a"\nmqtt = "mqtt://b"\n')
    with pytest.raises(SettingsError, match="'mqtt' is for the whole run"):
        load_cameras({}, config, {})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a+", "#", "x" * 64])
def test_a_devices_name_is_fit_for_a_topic(name):
    with pytest.raises(SettingsError, match="letters, digits"):
        load_settings({"device_name": name}, environment={})


def test_a_device_is_called_by_its_name_else_by_host_and_machine(tmp_path, monkeypatch):
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


def test_check_config_looks_at_the_brokers_files(tmp_path):
    pytest.importorskip("paho.mqtt.client", reason="the extra 'mqtt' is not installed")
    settings = {"mqtt": "mqtts://b", "mqtt_ca": str(tmp_path / "none.pem")}
    with pytest.raises(SinkError, match="No such file"):
        check_interfaces(load_settings(settings, environment={}))
