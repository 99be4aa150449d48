"""Tests health from recorded /proc and /sys trees, its log lines, and its drawing on the image."""

import logging
import queue
import threading

import numpy as np
import pytest

from camapp.core.status import Health, Hud
from camapp.overlay.overlay import Overlay
from camapp.system.health import HealthMonitor, describe, flags_of, read_temperature, read_throttled


@pytest.fixture
def pi(tmp_path):
    """Make a Raspberry Pi's file tree."""
    (tmp_path / "sys/class/thermal/thermal_zone0").mkdir(parents=True)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("54321\n")
    (tmp_path / "sys/devices/platform/soc/soc:firmware").mkdir(parents=True)
    (tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("0\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    return tmp_path


def throttle(tree, value):
    (tree / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text(f"{value:x}\n")


@pytest.mark.parametrize(
    ("value", "now", "since_boot"),
    [
        (0x0, (), ()),
        (0x50000, (), ("under-voltage", "throttled")),
        (0x50005, ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        (0xE0008, ("soft temperature limit",), ("frequency capped", "throttled", "soft temperature limit")),
    ],
)
def test_the_firmwares_bits_have_names(value, now, since_boot):
    assert flags_of(value) == (now, since_boot)


def test_a_pis_files_are_read(pi):
    throttle(pi, 0x50005)
    assert read_throttled(pi) == 0x50005
    assert read_temperature(pi) == pytest.approx(54.321)


def test_a_machine_without_these_files_has_no_alerts(tmp_path):
    health = HealthMonitor(root=tmp_path).sample()
    assert health == Health()
    assert health.alerts == ()
    assert describe(health) == ""


def test_an_unreadable_thermal_zone_is_left_out(pi):
    (pi / "sys/class/thermal/thermal_zone1").mkdir()
    (pi / "sys/class/thermal/thermal_zone1/temp").write_text("n/a")
    assert read_temperature(pi) == pytest.approx(54.321)


def test_cpu_is_the_share_of_time_since_the_last_sample(pi):
    monitor = HealthMonitor(root=pi)
    assert monitor.sample().cpu is None
    (pi / "proc/stat").write_text("cpu  160 0 100 720 120 0 0 0 0 0\n")
    assert monitor.sample().cpu == pytest.approx(0.6)


def test_changes_are_logged_once_and_past_flags_are_kept(pi, caplog):
    caplog.set_level(logging.INFO)
    monitor = HealthMonitor(root=pi)
    for value in (0, 0, 0x50005, 0x50005, 0, 0):
        throttle(pi, value)
        monitor.sample()
    assert [record.getMessage() for record in caplog.records] == [
        "the machine is slowed down: under-voltage, throttled, 54 C",
        "the machine is no longer slowed down: 54 C",
    ]
    assert monitor.latest.since_boot == ("under-voltage", "throttled")


def test_several_runs_share_one_monitor_which_samples_until_the_last_has_ended(tmp_path):
    sampled = queue.SimpleQueue()
    monitor = HealthMonitor(0.001, tmp_path, lambda root: sampled.put(threading.current_thread()))
    monitor.start()
    monitor.start()
    thread = sampled.get(timeout=10)
    monitor.stop()
    assert {sampled.get(timeout=10) for _ in range(9)} == {thread}
    monitor.stop()
    thread.join(10)
    assert not thread.is_alive()
    monitor.start()  # a camera may start after the others have ended
    while sampled.get(timeout=10) is thread:
        pass
    monitor.stop()


def test_heat_is_an_alert_before_the_firmware_acts():
    assert Health(temperature_c=81.0).alerts == ("hot",)
    assert Health(temperature_c=81.0, now=("throttled",)).alerts == ("throttled",)


@pytest.mark.parametrize("size", [(240, 180), (640, 480), (1280, 720)])
def test_an_alert_is_on_the_image(size):
    def drawn(health):
        canvas = np.full((size[1], size[0], 3), 90, np.uint8)
        Overlay().draw(canvas, None, Hud(health=health), 0.0, False)
        return canvas[: size[1] // 6, size[0] * 2 // 3 :].astype(int)

    red = (drawn(Health(now=("under-voltage",))) - drawn(Health()))[..., 2]
    assert (red > 100).sum() > 50


def test_temperature_and_cpu_are_on_the_panel():
    def drawn(health):
        canvas = np.zeros((720, 1280, 3), np.uint8)
        Overlay().draw(canvas, None, Hud(health=health), 0.0, False)
        return canvas

    assert (drawn(Health(54.0, 0.63)) != drawn(Health(54.0, 0.64))).any()
    assert (drawn(Health(54.1, 0.631)) == drawn(Health(54.2, 0.632))).all()
