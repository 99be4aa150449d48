"""The table of all devices on a broker, with the messages of real runs and with invalid ones."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from camapp.commands.fleet import DeviceRow, Fleet, table_of
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto, wait_for

ROOT = Path(__file__).parents[3]
NOW = 1_800_000_000.0


def fleet_of(*messages, **options):
    fleet = Fleet("camapp", clock=lambda: NOW, **options)
    for topic, payload in messages:
        payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        fleet.receive(f"camapp/{topic}", payload, True)
    return fleet


def drawn(rows):
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - as long as the test
    console.print(table_of(rows))
    return console.export_text()


STATUS = {
    "time": "2027-01-15T07:59:30.000+00:00",
    "state": "running",
    "reason": "",
    "model": "mnist",
    "fps": {"inference": 29.61, "target": 30.0},
    "latency_ms": {"p95": 41.26},
    "frames": {"dropped_total": 5, "failed_total": 1},
    "restarts": 2,
}
HEALTH = {"time": "2027-01-15T07:59:00.000+00:00", "temperature_c": 82.4, "alerts": ["throttled"], "messages_lost": 3}


def test_a_row_is_made_of_retained_messages():
    fleet = fleet_of(
        ("pi/availability", b"online"),
        ("pi/health", HEALTH),
        ("pi/door/status", STATUS),
        ("pi/door/prediction", {"label": "7", "score": 0.98}),
    )
    (row,) = fleet.rows()
    assert row == DeviceRow(
        *("pi", "door", True, "running", "", "7", 0.98, "mnist"),
        *(29.61, 30.0, 41.26, 5, 1, 2, 82.4, ("throttled",), 3, 30.0),
    )
    text = drawn([row])
    for shown in ("pi", "door", "running", "7 98%", "29.6 of 30", "41.3", "82 °C, throttled", "30 s ago"):
        assert shown in text


def test_an_offline_device_is_shown_with_its_last_values():
    (row,) = fleet_of(("pi/availability", b"offline"), ("pi/door/status", STATUS)).rows()
    assert (row.online, row.state, row.fps) == (False, "offline", 29.61)


def test_a_live_message_has_age_zero_and_a_deleted_one_is_gone():
    fleet = fleet_of(("pi/availability", b"online"), ("pi/door/status", STATUS))
    fleet.receive("camapp/pi/door/status", json.dumps(STATUS).encode(), False)
    assert fleet.rows()[0].age_s == 0
    fleet.receive("camapp/pi/door/status", b"", False)
    assert [(row.device, row.camera) for row in fleet.rows()] == [("pi", "")]
    fleet.receive("camapp/pi/availability", b"", False)
    assert fleet.rows() == []
    assert "no devices seen yet" in drawn([])


def test_a_removed_camera_is_left_out():
    health = HEALTH | {"cameras": ["yard"]}
    rows = fleet_of(("pi/door/status", STATUS), ("pi/yard/status", STATUS), ("pi/health", health)).rows()
    assert [row.camera for row in rows] == ["yard"]


def test_rows_are_in_order_and_several_cameras_have_one_each():
    topics = ["pi2/yard/status", "pi1/door/status", "pi2/door/status"]
    rows = fleet_of(*((topic, STATUS) for topic in topics)).rows()
    assert [(row.device, row.camera) for row in rows] == [("pi1", "door"), ("pi2", "door"), ("pi2", "yard")]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"[" * 60_000,
        b"null",
        b'"text"',
        b"1e999",
        {"fps": 3, "latency_ms": [1], "frames": "x", "alerts": 7, "time": 12, "state": {}, "restarts": True},
        {"fps": {"inference": "fast"}, "alerts": [1, {}], "time": "yesterday", "temperature_c": 1e300},
        b'{"fps": {"inference": NaN}, "restarts": Infinity, "time": "9999-99-99"}',
        {"state": "\x1b[2J\x07[red]hello[/red]\n" + "x" * 500, "time": "0001-01-01T00:00:00+14:00"},
    ],
    ids=str,
)
def test_invalid_payloads_cause_no_error_and_cannot_control_the_terminal(payload):
    messages = [(topic, payload) for topic in ("pi/availability", "pi/health", "pi/door/status", "pi/door/prediction")]
    fleet = fleet_of(*messages, ("ok/availability", b"online"), ("ok/door/status", STATUS))
    fleet.receive("camapp/pi/availability", b"online", True)
    text = drawn(fleet.rows())
    assert "running" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    json.dumps([row.__dict__ if hasattr(row, "__dict__") else str(row) for row in fleet.rows()])


def test_the_names_of_devices_are_not_interpreted_as_markup():
    fleet = fleet_of(("[bold]pi\x1b[31m/availability", b"online"))
    assert "[bold]pi?[31m" in drawn(fleet.rows())


def test_a_flood_of_topics_does_not_fill_the_memory():
    fleet = fleet_of(*((f"pi{number}/availability", b"online") for number in range(5000)), max_topics=100)
    assert len(fleet.rows()) <= 101


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "camapp", "fleet", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_an_unreachable_broker_gives_one_line_and_an_exit_code(tmp_path):
    broker = Mosquitto(tmp_path / "broker")
    done = command("--broker", broker.uri, "--once")
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"camapp: MQTT broker localhost:{broker.port}: connection refused")


def test_a_wrong_address_is_a_usage_error_without_the_password():
    done = command("--broker", "mqtt://me:hush@h", "--once")
    assert done.returncode == 2
    assert "hush" not in done.stderr


@pytest.mark.slow
def test_the_live_table_ends_cleanly_on_control_c(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    terminal, programs_end = pty.openpty()
    command = [sys.executable, "-m", "camapp", "fleet", "--broker", broker.uri]
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    fleet = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=programs_end, stderr=programs_end)
    os.close(programs_end)
    shown = bytearray()

    def shows(text):
        while select.select([terminal], [], [], 0)[0]:
            try:
                shown.extend(os.read(terminal, 65536))
            # The end of the terminal is an error on Linux.
            except OSError:
                break
        return text in shown

    try:
        wait_for(lambda: shows(b"no devices seen yet"), 60)
        fleet.send_signal(signal.SIGINT)
        wait_for(lambda: shows(b"\x1b[?25h"), 20, lambda: "the cursor did not come back")
        assert fleet.wait(20) == 0
    finally:
        fleet.kill()
        fleet.wait(10)
        os.close(terminal)
        broker.kill()


@pytest.mark.slow
def test_two_real_runs_are_seen_alive_and_after_their_end(tmp_path):
    broker = Mosquitto(tmp_path / "broker", user=("pi", "hush")).start()
    uri = f"mqtt://pi@localhost:{broker.port}/home/cams"
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "camapp",
                "run",
                "--source",
                f"pattern://{scene}?size=320x240&fps=10",
                "--model",
                model,
                "--display",
                "none",
                "--workers",
                "1",
                "--mqtt",
                uri,
                "--device-name",
                device,
                "--name",
                "door",
            ],
            cwd=ROOT,
            env=os.environ | {"CAMAPP_MQTT_PASSWORD": "hush"},
            stderr=(tmp_path / device).open("wb"),
        )
        for device, scene, model in (("one", "digits", "mnist"), ("two", "objects", "cifar10"))
    ]
    try:
        deadline = time.monotonic() + 60
        rows = []
        while time.monotonic() < deadline and [row["state"] for row in rows] != ["running"] * 2:
            done = command("--broker", uri, "--json", CAMAPP_MQTT_PASSWORD="hush")
            rows = json.loads(done.stdout) if done.returncode == 0 else []
        assert [(row["device"], row["camera"], row["model"]) for row in rows] == [
            ("one", "door", "mnist"),
            ("two", "door", "cifar10"),
        ]
        assert all(row["online"] and row["age_s"] < 20 for row in rows)
        runs[0].send_signal(signal.SIGTERM)
        runs[0].wait(20)
        # The broker publishes the last will of this run.
        runs[1].kill()
        runs[1].wait(20)
        time.sleep(1)
        table = command("--broker", uri, "--once", CAMAPP_MQTT_PASSWORD="hush", COLUMNS="200").stdout
        assert table.count("offline") == 2
        listener = Listener(broker, "home/cams/one/door/status", "pi", "hush")
        listener.wait_for(lambda: listener.messages)
        assert json.loads(listener.messages[0][1])["state"] == "ended"
        listener.close()
    finally:
        for run in runs:
            run.kill()
            run.wait(10)
        broker.kill()
    # The password is in none of the logs.
    assert not any(b"hush" in (tmp_path / device).read_bytes() for device in ("one", "two"))


def test_the_table_is_readable_at_80_columns():
    rows = [
        DeviceRow("raspberrypi-ab12", "front-door", True, "no signal", "no image for 12 s", "person", 0.98, "yolox",
                  29.61, 30.0, 41.26, 5, 1, 2, 82.4, ("throttled",), 3, 30.0),
        DeviceRow("raspberrypi-cd34", "shelf", True, "running", "", "7", 1.0, "mnist",
                  30.0, 30.0, 4.1, 0, 0, 0, 51.0, (), 0, 1.0),
    ]  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=80).print(table_of(rows, 80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    # Words stay whole, and so do numbers.
    for shown in (
        "raspberrypi-ab12",
        "front-door",
        "no signal",
        "person 98%",
        "29.6 of 30",
        "30.0 of 30",
        "1 failed",
        "throttled",
        "30 s ago",
    ):
        assert any(shown in line for line in lines), out.getvalue()
    assert len(lines) <= 12
