"""Whole runs on a fake Pi camera with faults: detected, logged, repaired, and every frame accounted for."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from camapp.capture.clock import SensorClock
from camapp.capture.picamera2 import CameraTimeouts, PicameraSource
from camapp.capture.rate_monitor import RateMonitor
from camapp.capture.retry import ReadLimit
from camapp.capture.source import SourceOptions
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
    """Runs a whole pipeline in a thread; `prepare` changes it before the start."""

    def __init__(self, prepare=lambda pipeline: None, **settings):
        given = {"source": "picamera://0", "size": "320x240", "model": "mnist", "workers": 1, **settings}
        self.pipeline = Pipeline(load_settings(given, environment={}))
        self.summary = None
        prepare(self.pipeline)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        self.summary = self.pipeline.run()

    def predictions(self):
        return self.pipeline.stats.predictions()

    def more(self, frames=20, seconds=20):
        """Wait for further predictions; return the seconds that it took."""
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

    def start(*prepare, **settings):
        fake.plan.period = 0.01
        made.append(Running(*prepare, **settings))
        return made[-1]

    yield start
    for each in made:
        if each.summary is None:
            each.stop()


def read_timeout(seconds):
    def prepare(pipeline):
        pipeline.capture.read_limit = ReadLimit(seconds)

    return prepare


def test_a_camera_whose_event_loop_dies_is_opened_again_and_frames_stay_accounted_for(fake, run):
    running = run(read_timeout(0.5))
    running.more(20)
    # The running event loop dies.
    fake.plan.frames = 0
    time.sleep(0.3)
    fake.plan.frames = None
    assert running.more(5) < 2.5
    assert len(fake.plan.opened) == 2
    assert fake.plan.opened[0].closed
    running.more(20)
    assert running.stop().code is ExitCode.OK


@pytest.mark.slow
def test_a_camera_without_frames_is_retried_with_growing_pauses_and_ends_with_69(fake, run):
    running = run(read_timeout(0.1), reconnect=2.0)
    running.more(10)
    fake.plan.frames = 0
    summary = running.end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "gave no frame" in summary.reason
    assert "gave up after" in summary.reason
    assert 3 <= len(fake.plan.opened) <= 8
    assert all(camera.closed for camera in fake.plan.opened)


def test_a_busy_camera_is_opened_as_soon_as_it_is_free(fake, run):
    fake.plan.init_error = "busy"
    running = run()
    while running.pipeline.reporter.lost() == "":
        time.sleep(0.01)
    assert "in use by" in running.pipeline.reporter.lost()
    assert "NO SIGNAL: picamera://0 is in use by" in running.pipeline.reporter.line()
    fake.plan.init_error = ""
    assert running.more(5) < 2
    running.stop()


def test_a_camera_that_hangs_when_closed_ends_the_run_so_that_another_process_can_try(fake, run):
    def prepare(pipeline):
        pipeline.source.timeouts = CameraTimeouts(close_s=0.2)
        pipeline.capture.read_limit = ReadLimit(0.2)

    running = run(prepare)
    running.more(5)
    fake.plan.close_hangs, fake.plan.frames = True, 0
    began = time.monotonic()
    summary = running.end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "start camapp again" in summary.reason
    assert time.monotonic() - began < 5
    assert "picamera-close" in timeouts.stuck_threads()


def test_a_camera_that_hangs_when_opened_ends_the_run_too(fake, run):
    def prepare(pipeline):
        pipeline.source.timeouts = CameraTimeouts(open_s=0.3)

    fake.plan.init_error = "hang"
    summary = run(prepare).end()
    assert summary.code is ExitCode.SOURCE_GONE
    assert "did not start within 0.3 s" in summary.reason


def test_memory_for_two_buffers_is_enough_for_a_run(fake, run, caplog):
    fake.plan.alloc_failures = 1
    running = run()
    running.more(20)
    assert "fewer buffers" in caplog.text
    running.stop()


@pytest.mark.slow
def test_a_program_whose_camera_hangs_ends_nevertheless(tmp_path):
    code = (
        "import picamera2, time, atexit; from camapp.cli import main\n"
        "picamera2.plan.close_hangs = True\n"
        # Like the shutdown of libcamera in this state.
        "atexit.register(time.sleep, 100)\n"
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


def test_the_camera_runs_at_the_target_rate_unless_another_is_requested(fake, run):
    running = run(target_fps=50)
    running.more(5)
    assert fake.plan.opened[-1].requested["controls"] == {"FrameDurationLimits": (20000, 20000)}
    running.stop()
    running = run(target_fps=50, fps=25)
    running.more(5)
    assert fake.plan.opened[-1].requested["controls"] == {"FrameDurationLimits": (40000, 40000)}


def monitor_of(fps, gaps_ms, exposure_us=0):
    monitor, now = RateMonitor(), 10**9
    for gap in gaps_ms:
        now += int(gap * 1e6)
        monitor.add("imx708", fps, now, exposure_us)
    return monitor


@pytest.mark.parametrize(
    ("gap_ms", "exposure_us", "reason"),
    [
        (33.3, 30000, ""),
        (36.0, 30000, ""),
        (66.6, 66000, "low light, the exposure takes 66 ms"),
        (66.6, 10000, "not low light"),
        (66.6, 0, "perhaps low light"),
    ],
)
def test_half_the_rate_is_explained_by_the_exposure_if_that_is_the_cause(gap_ms, exposure_us, reason):
    monitor = monitor_of(30, [gap_ms] * 60, exposure_us)
    assert monitor.reason.startswith(reason)
    assert bool(monitor.reason) == bool(reason)


def test_slowness_is_logged_once_and_revoked(caplog):
    caplog.set_level("INFO")
    monitor = monitor_of(30, [33.3] * 40 + [66.6] * 60 + [33.3] * 60, 66000)
    assert monitor.reason == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "imx708 gives" in caplog.text
    assert "at its rate again" in caplog.text


def test_a_cause_that_changes_is_logged_again(caplog):
    monitor, now = RateMonitor(), 10**9
    for exposure_us in [10_000] * 60 + [60_000] * 60 + [61_000] * 60:
        now += 66_600_000
        monitor.add("imx708", 30, now, exposure_us)
    assert monitor.reason.startswith("low light")
    assert [record.getMessage().split(": ")[1].split(",")[0] for record in caplog.records] == [
        "not low light", "low light"
    ]  # fmt: skip


def test_a_stall_of_one_frame_is_not_reported():
    assert monitor_of(30, [33.3] * 40 + [300] + [33.3] * 40).reason == ""


def test_low_light_is_on_the_screen_and_in_the_status_line(fake, run):
    def prepare(pipeline):
        pipeline.source.rate_monitor = RateMonitor(min_seconds=0.3)

    # Long enough to be the cause on a busy machine too, which is slower still.
    fake.plan.slow_period, fake.plan.exposure_us = 0.07, 300_000
    running = run(prepare)
    running.more(12)
    hud = running.pipeline.reporter.hud()
    assert hud.slowness.startswith("low light, the exposure takes 300 ms")
    assert "slow camera: low light" in running.pipeline.reporter.line()
    canvas = np.full((480, 640, 3), 90, np.uint8)
    Overlay().draw(canvas, None, hud, 0, False)
    corner = canvas[:60, 400:]
    assert (np.abs(corner.astype(int) - AMBER) <= 1).all(axis=2).any()
    plain = np.full((480, 640, 3), 90, np.uint8)
    Overlay().draw(plain, None, Hud(), 0, False)
    assert (plain[:60, 400:] == 90).all()


@pytest.mark.slow
def test_a_camera_with_a_frame_every_two_seconds_is_not_lost(fake, run, caplog):
    fake.plan.slow_period = 1.7
    running = run()
    running.more(2)
    assert len(fake.plan.opened) == 1
    assert running.pipeline.reporter.bounded_step() == "waiting for the next frame"
    assert "no image" not in caplog.text
    running.stop()
    # The wait for the next frame ends with the run.
    assert "abandoned" not in caplog.text
    assert fake.plan.opened[0].closed


def test_an_exposure_longer_than_the_frame_time_lowers_the_rate_and_says_so(fake, caplog):
    source = PicameraSource("picamera://0", SourceOptions(controls={"ExposureTime": "50000"}, target_fps=30))
    source.open()
    assert source.fps == 20
    assert "an ExposureTime of 50 ms leaves 20 of 30 frames/s" in caplog.text
    assert fake.plan.opened[0].requested["controls"]["FrameDurationLimits"] == (50000, 50000)
    source.close()


# Stamps


def test_the_time_stamp_of_a_long_exposure_is_old_and_right(monkeypatch):
    clock, now = SensorClock("imx708"), [time.monotonic_ns()]
    monkeypatch.setattr("camapp.capture.clock.time.monotonic_ns", lambda: now[0])
    for _ in range(3):
        now[0] += 20_000_000_000
        assert clock.checked(now[0] - 19_000_000_000) == now[0] - 19_000_000_000
    assert clock.checked(now[0] + 1) == 0


def test_time_stamps_that_do_not_advance_are_ignored_with_one_warning(caplog):
    clock, now = SensorClock("imx708"), time.monotonic_ns()
    assert [clock.checked(now - back) for back in (3000, 2000, 2000, 2500, 1000)] == [
        now - 3000,
        now - 2000,
        0,
        0,
        now - 1000,
    ]
    assert caplog.text.count("no later than the one before") == 1
