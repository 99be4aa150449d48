"""A real run with a hostile client on its broker: no frame is lost uncounted, and the log stays short."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camapp.core.settings import Settings
from tests.camapp.remote.mqtt.mosquitto import Listener, Mosquitto

ROOT = Path(__file__).parents[4]
COMMANDS = "camapp/pi/camera/set"


@pytest.mark.slow
def test_a_run_survives_invalid_and_huge_messages_floods_and_a_dying_broker(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    attacker = Listener(broker, "camapp/#")

    def publish(topic, payload=b"", count=1, **options):
        for _ in range(count):
            attacker.client.publish(topic, payload, qos=1, **options)

    for what in ("pause", "model", "snapshot", "no-such-command"):
        publish(f"{COMMANDS}/{what}", b"ON", retain=True)
    publish("homeassistant/status", b"online", retain=True)
    arguments = ["--source", "pattern://digits?size=320x240&fps=15", "--display", "none", "--workers", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "camapp", "run", *arguments, "--mqtt", broker.uri, "--device-name", "pi", "--debug"],
        cwd=ROOT,
        stderr=(tmp_path / "log").open("wb"),
    )
    try:
        attacker.wait_for(lambda: attacker.payloads("camapp/pi/camera/prediction"), 60)
        publish(f"{COMMANDS}/pause", b"\xff\xfe\x00")
        publish(f"{COMMANDS}/model", b"../../../etc/passwd")
        publish(f"{COMMANDS}/model", b"mnist\x00")
        publish(f"{COMMANDS}/snapshot", b"x" * 300)
        publish(f"{COMMANDS}/pause", bytes(20_000_000))
        publish(f"{COMMANDS}/pause/deeper", b"ON")
        publish("camapp/pi/yard/set/pause", b"ON")
        publish("camapp/pi/" + "y" * 5000 + "/set/pause", b"ON")
        publish("camapp/pi/availability", b"gone", retain=True)
        attacker.wait_for(lambda: attacker.payloads("camapp/pi/availability")[-1] == b"online", 20)
        publish("homeassistant/status", b"online", count=50)
        publish(f"{COMMANDS}/model", b"rubbish", count=20_000)
        time.sleep(3)
        broker.kill()
        time.sleep(2)
        broker.start()
        late = Listener(broker, "camapp/pi/camera/status")
        late.wait_for(lambda: late.messages, 60)
        time.sleep(2)
        state = json.loads(late.messages[-1][1])
        late.close()
        assert state["state"] == "running"
        assert state["model"] == Settings().model
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.wait(10)
        attacker.close()
        broker.kill()
    logged = (tmp_path / "log").read_text()
    assert "DOES NOT ADD UP" not in logged
    captured, predicted = map(int, re.search(r"captured (\d+) = predicted (\d+)", logged).groups())
    assert predicted > captured / 2
    assert "Traceback" not in logged
    assert sum("refused" in line for line in logged.splitlines()) <= 8
    assert len(logged.splitlines()) < 80, logged
