"""Whole runs on a stand-in for a Pi camera with faults planted: found, said, mended, and every frame accounted for."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from camapp.capture import picamera2, rate_monitor, thread
from camapp.capture.clock import SensorClock
from camapp.capture.rate_monitor import RateMonitor
from camapp.core import timeouts
from camapp.core.errors import ExitCode
from camapp.core.settings import load_settings
from camapp.core.status import Hud
from camapp.overlay.overlay import Overlay
from camapp.overlay.style import AMBER
from camapp.pipeline.pipeline import Pipeline

ROOT = Path(__file__).parents[3]
FAKES = ROOT / "tests/fakes"


class Running:
    """A whole run in a thread of its own."""

    def __init__(self, **settings):
        given = {"source": "picamera://0", "size": "320x240", "model": "mnist", "workers": 1, **settings}
        self.pipeline = Pipeline(load_settings(given, environment={}))
        self.summary = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        self.summary = self.pipeline.run()

    def predictions(self):
        return self.pipeline.stats.predictions()

    def more(self, frames=20, seconds=20):
        """Wait for so many more predictions; how long that took."""
        began, before = time.monotonic(), self.predictions()
        while self.predictions() < before + frames:
            assert self._thread.is_alive(), self.summary
            assert time.monotonic() < began + seconds, self.pipeline.reporter.line()
            time.sleep(0.01)
        return time.monotonic() - began

    def end(self, seconds=20):
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        assert self.summary.balance.is_conserved
        assert self.summary.balance.in_flight == 0
        return self.summary

    def stop(self):
        self.pipeline.request_stop("test")
        return self.end()


@pytest.fixture
def run(fake):
    made = []

    def start(**settings):
        fake.plan.period = 0.01
        made.append(Running(**settings))
        return made[-1]

    yield start
    for each in made:
        if each.summary is None:
            each.stop()


def test_an_event_loop_that_dies_is_found_opened_again_and_costs_no_account(fake, run, monkeypatch):
    monkeypatch.setattr(thread, "READ_TIMEOUT", 0.5)
    running = run()
    running.more(20)
    fake.plan.frames = 0  # whatever loop runs, dies
    time.sleep(0.3)
    fake.plan.frames = None
    assert running.more(5) < 2.5
    assert len(fake.plan.opened) == 2
    assert fake.plan.opened[0].closed
    running.more(20)
    assert running.stop().code is ExitCode.OK


def test_a_camera_that_stays_silent_is_tried_with_growing_pauses_and_ends_with_69(fake, run, monkeypatch):
    monkeypatch.setattr(thread, "READ_TIMEOUT", 0.1)
    running = run(reconnect=2.0)
    running.more(10)
    fake.plan.frames = 0
    summary = running.end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "gave no frame" in summary.reason
    assert "gave up after" in summary.reason
    assert 3 <= len(fake.plan.opened) <= 8
    assert all(camera.closed for camera in fake.plan.opened)


def test_a_busy_camera_is_taken_as_soon_as_it_is_free(fake, run):
    fake.plan.init_error = "busy"
    running = run()
    while running.pipeline.reporter.lost() == "":
        time.sleep(0.01)
    assert "in use by" in running.pipeline.reporter.lost()
    assert "NO SIGNAL: picamera://0 is in use by" in running.pipeline.reporter.line()
    fake.plan.init_error = ""
    assert running.more(5) < 2
    running.stop()


def test_a_camera_that_hangs_when_closed_ends_the_run_for_another_process_to_try(fake, run, monkeypatch):
    monkeypatch.setattr(picamera2, "_CLOSE_LIMIT", 0.2)
    monkeypatch.setattr(thread, "READ_TIMEOUT", 0.2)
    running = run()
    running.more(5)
    fake.plan.close_hangs, fake.plan.frames = True, 0
    began = time.monotonic()
    summary = running.end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "start camapp again" in summary.reason
    assert time.monotonic() - began < 5
    assert "picamera-close" in timeouts.left_behind()


def test_a_camera_that_hangs_when_opened_ends_it_too(fake, run, monkeypatch):
    monkeypatch.setattr(picamera2, "_OPEN_LIMIT", 0.3)
    fake.plan.init_error = "hang"
    summary = run().end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "did not start within 0.3 s" in summary.reason


def test_memory_for_two_buffers_is_enough_to_run_on(fake, run, caplog):
    fake.plan.alloc_failures = 1
    running = run()
    running.more(20)
    assert "fewer buffers" in caplog.text
    running.stop()


def test_a_program_whose_camera_hangs_ends_all_the_same(tmp_path):
    code = (
        "import picamera2, time, atexit; from camapp.capture import picamera2 as ours; from camapp.cli import main\n"
        "ours._CLOSE_LIMIT = 0.2; picamera2.plan.close_hangs = True\n"
        "atexit.register(time.sleep, 100)\n"  # what libcamera's own end does then
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{FAKES}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--source", "picamera://0", "--size", "320x240", "--max-frames", "5"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=80,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ending although picamera-close hangs" in done.stderr
    assert "in flight 0" in done.stderr


# Rates


def test_the_camera_is_set_to_the_target_unless_a_rate_is_asked_for(fake, run):
    running = run(target_fps=50)
    running.more(5)
    assert fake.plan.opened[-1].asked["controls"] == {"FrameDurationLimits": (20000, 20000)}
    running.stop()
    running = run(target_fps=50, fps=25)
    running.more(5)
    assert fake.plan.opened[-1].asked["controls"] == {"FrameDurationLimits": (40000, 40000)}


def watched(fps, gaps_ms, exposure_us=0):
    watch, now = RateMonitor(), 10**9
    for gap in gaps_ms:
        now += int(gap * 1e6)
        watch.note("imx708", fps, now, exposure_us)
    return watch


@pytest.mark.parametrize(
    ("gap_ms", "exposure_us", "reason"),
    [
        (33.3, 30000, ""),
        (36.0, 30000, ""),
        (66.6, 66000, "low light, it exposes 66 ms"),
        (66.6, 10000, "not for the light"),
        (66.6, 0, "perhaps low light"),
    ],
)
def test_half_the_rate_is_explained_by_the_exposure_where_that_is_the_cause(gap_ms, exposure_us, reason):
    watch = watched(30, [gap_ms] * 60, exposure_us)
    assert watch.reason.startswith(reason)
    assert bool(watch.reason) == bool(reason)


def test_slowness_is_said_once_and_taken_back(caplog):
    caplog.set_level("INFO")
    watch = watched(30, [33.3] * 40 + [66.6] * 60 + [33.3] * 60, 66000)
    assert watch.reason == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "imx708 gives" in caplog.text
    assert "at its rate again" in caplog.text


def test_a_cause_that_changes_is_said_anew(caplog):
    watch, now = RateMonitor(), 10**9
    for exposure_us in [10_000] * 60 + [60_000] * 60 + [61_000] * 60:
        now += 66_600_000
        watch.note("imx708", 30, now, exposure_us)
    assert watch.reason.startswith("low light")
    assert [record.getMessage().split(": ")[1].split(",")[0] for record in caplog.records] == [
        "not for the light", "low light"
    ]  # fmt: skip


def test_a_stall_of_one_frame_is_no_slow_camera():
    assert watched(30, [33.3] * 40 + [300] + [33.3] * 40).reason == ""


def test_low_light_is_on_the_screen_and_in_the_status_line(fake, run, monkeypatch):
    monkeypatch.setattr(rate_monitor, "_AT_LEAST_S", 0.3)
    # So long that a busy machine, which is slower still, takes it for the cause too.
    fake.plan.slow_period, fake.plan.exposure_us = 0.07, 300_000
    running = run()
    running.more(12)
    hud = running.pipeline.reporter.hud()
    assert hud.slowness.startswith("low light, it exposes 300 ms")
    assert "slow camera: low light" in running.pipeline.reporter.line()
    canvas = np.full((480, 640, 3), 90, np.uint8)
    Overlay().draw(canvas, None, hud, 0, False)
    corner = canvas[:60, 400:]
    assert (np.abs(corner.astype(int) - AMBER) <= 1).all(axis=2).any()
    plain = np.full((480, 640, 3), 90, np.uint8)
    Overlay().draw(plain, None, Hud(), 0, False)
    assert (plain[:60, 400:] == 90).all()


# Stamps


def test_stamps_that_do_not_advance_are_left_out_with_one_warning(caplog):
    clock, now = SensorClock("imx708"), time.monotonic_ns()
    assert [clock.checked(now - back) for back in (3000, 2000, 2000, 2500, 1000)] == [
        now - 3000,
        now - 2000,
        0,
        0,
        now - 1000,
    ]
    assert caplog.text.count("no later than the one before") == 1
