"""The preview of a Pi camera on a console, with a fake picamera2 and a fake screen."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from camapp import app
from camapp.capture import picamera2
from camapp.capture.auto import AutoSource
from camapp.capture.retry import ReadLimit
from camapp.capture.source import SourceOptions
from camapp.capture.thread import CaptureThread
from camapp.core.errors import SinkError, SourceLost
from camapp.core.predictions import Box, Polyline, Prediction
from camapp.core.settings import load_settings
from camapp.core.stats import Stats
from camapp.core.status import Hud
from camapp.overlay.alpha import with_alpha
from camapp.overlay.overlay import Overlay
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.drm_display import DrmDisplaySink
from camapp.system import displays
from camapp.system.displays import Display, DisplayKind
from tests.programs import wait_until

ROOT = Path(__file__).parents[3]
FAKES = ROOT / "tests/fakes"
SCREEN = (1920, 1080)


@pytest.fixture
def camera(fake):
    source = picamera2.PicameraSource("picamera://0", SourceOptions(size=(320, 240)))
    source.open()
    yield source
    source.close()


def read(source, frames):
    for _ in range(frames):
        source.read(0.3)


# The camera


def test_the_image_is_moved_to_the_screen_and_back_between_two_frames(fake, camera):
    preview = camera.drm_preview
    read(camera, 2)
    preview.request(SCREEN)
    assert not preview.showing
    read(camera, 4)
    device = fake.plan.opened[-1]
    assert preview.showing
    assert device.preview_window == {"x": 0, "y": 0, "width": 1920, "height": 1080}
    preview.request(None)
    read(camera, 2)
    assert not preview.showing
    assert device.previews == [fake.Preview.NULL, fake.Preview.DRM, fake.Preview.NULL]
    assert len(fake.plan.opened) == 1


@pytest.mark.parametrize("fault", ["absent", "busy"])
def test_an_unavailable_screen_costs_no_frame_and_has_a_reason(fake, camera, fault):
    fake.plan.screen = fault
    preview = camera.drm_preview
    preview.request(SCREEN)
    read(camera, 5)
    assert not preview.showing
    assert not preview.requested
    assert "could not find a usable DRM device" in preview.trouble
    fake.plan.screen = ""
    preview.request(SCREEN)
    read(camera, 4)
    assert preview.showing
    assert preview.trouble == ""


def test_a_screen_that_kills_the_event_loop_loses_the_source_and_is_given_up_after_three_attempts(fake, camera):
    fake.plan.screen = "render"
    preview = camera.drm_preview
    for attempt in range(3):
        assert not preview.given_up
        preview.request(SCREEN)
        with pytest.raises(SourceLost, match="gave no frame"):
            read(camera, 9)
        assert not preview.showing
        camera.close()
        camera.open()
        # Without the screen.
        read(camera, 5)
        assert "no frame came while" in preview.trouble, attempt
    assert preview.given_up
    preview.request(SCREEN)
    read(camera, 5)
    assert not preview.requested
    fake.plan.screen = ""
    # Another screen is tried again.
    preview.request(None)
    preview.request(SCREEN)
    read(camera, 5)
    assert preview.showing


def test_a_reopened_camera_shows_its_image_again(fake, camera):
    preview = camera.drm_preview
    preview.request(SCREEN)
    read(camera, 4)
    camera.close()
    assert not preview.showing
    camera.open()
    read(camera, 4)
    assert preview.showing
    assert fake.plan.opened[-1].previews == [fake.Preview.NULL, fake.Preview.DRM]


def test_a_preview_switch_that_hangs_is_bounded(fake, camera, monkeypatch):
    camera.timeouts = picamera2.CameraTimeouts(close_s=0.1)
    monkeypatch.setattr(fake.Picamera2, "stop_preview", lambda self: time.sleep(5))
    camera.drm_preview.request(SCREEN)
    began = time.monotonic()
    with pytest.raises(SourceLost, match="event loop hangs"):
        read(camera, 1)
    assert time.monotonic() - began < 2


def test_an_image_that_must_be_rotated_has_no_preview(fake):
    source = picamera2.PicameraSource("picamera://0", SourceOptions(rotate=90))
    source.open()
    assert source.drm_preview is None
    source.close()


# The overlay


def test_the_overlay_keeps_its_colours_and_opacity_on_any_image():
    prediction = Prediction(
        1, "digits", "7", 0.9, "7", 0.9, (("7", 0.9),),
        boxes=(Box(100, 80, 200, 160, "7", 0.9),), lines=(Polyline(((10, 200), (300, 20)), "left"),),
    )  # fmt: skip
    hud = Hud(30.0, 29.0, 30.0, 30.0, {"total": 9.0})
    overlay = Overlay(clock=lambda: 0)

    def drawn(background):
        canvas = np.broadcast_to(np.asarray(background, np.uint8), (480, 640, 3)).copy()
        overlay.draw(canvas, prediction, hud, 0.0, False)
        return canvas

    rgba = with_alpha(drawn(0), drawn(255)).astype(float)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (480, 640, 3))
    share = rgba[..., 3:] / 255
    blended = rgba[..., 2::-1] * share + image * (1 - share)
    assert np.abs(blended - drawn(image)).max() <= 3
    assert 0.02 < (rgba[..., 3] > 0).mean() < 0.6


# The sink


@pytest.fixture
def console(tmp_path, monkeypatch):
    """A machine with one screen, whose graphics card is free while `console.free` is true."""

    class Console:
        root = tmp_path
        free = True

        def plug(self, status, mode="1920x1080"):
            folder = tmp_path / "sys/class/drm/card1-HDMI-A-1"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "status").write_text(f"{status}\n")
            (folder / "modes").write_text(f"{mode}\n1280x720\n" if mode else "")

    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/card1").touch()
    made = Console()
    monkeypatch.setattr(displays, "_is_free", lambda card: made.free)
    return made


class Run:
    """A camera read by a capture thread, with a prediction for each frame, and the sink that shows it."""

    def __init__(self, source, root, hud=None, **options):
        self.stats = Stats()
        self.label = "cup"
        self.sink = DrmDisplaySink(
            lambda: source.drm_preview, lambda: hud, lambda: 200.0, retry_s=0.1, root=root, **options
        )
        self.sink.start()
        self.capture = CaptureThread(source, self.stats, self._deliver)
        self.capture.start()

    def _deliver(self, frame, trace):
        self.stats.predicted(trace)
        self.sink.accept(Prediction(frame.seq, "classify", self.label, 0.9, self.label, 0.9, ()), frame, trace)

    def end(self):
        self.capture.stop()
        self.capture.join(5)
        self.sink.stop()


@pytest.fixture
def start(fake, console):
    made = []

    def start_run(**options):
        source = picamera2.PicameraSource("picamera://0", SourceOptions(size=(320, 240)))
        made.append(Run(source, console.root, **options))
        return made[-1]

    yield start_run
    for each in made:
        each.end()


def device(fake):
    return fake.plan.opened[-1] if fake.plan.opened else None


def is_on(fake):
    return device(fake) is not None and device(fake).preview is fake.Preview.DRM and device(fake).overlays


def test_the_overlay_is_sent_only_if_it_has_changed(fake, console, start):
    console.plug("connected")
    run = start()
    wait_until(lambda: is_on(fake), 30)
    overlays = device(fake).overlays
    assert overlays[0].shape == (240, 320, 4)
    assert overlays[0][..., 3].any()
    # A hundred frames of the same label.
    time.sleep(0.5)
    assert len(overlays) == 1
    began, frames = time.monotonic(), run.stats.predictions()
    for name in "abcdefghij":
        run.label = name
        time.sleep(0.05)
    wait_until(lambda: (overlays[-1] != overlays[0]).any(), 30)
    assert 2 <= len(overlays) <= 2 + (time.monotonic() - began) / 0.1
    assert run.stats.predictions() > frames


def test_an_overlay_that_cannot_be_drawn_is_logged_and_the_next_one_is_shown(fake, console, start, caplog):
    console.plug("connected")
    calls = []

    def paused():
        calls.append(None)
        if len(calls) < 3:
            raise ValueError("cannot be drawn")
        return False

    start(paused=paused)
    wait_until(lambda: is_on(fake), 10)
    assert caplog.text.count("DrmDisplaySink failed: ValueError: cannot be drawn") == 1


def test_a_pause_is_shown_also_without_statistics(fake, console, start):
    console.plug("connected")
    paused = threading.Event()
    run = start(paused=paused.is_set)
    wait_until(lambda: is_on(fake), 30)
    overlays = device(fake).overlays
    corner = overlays[0][:40, -120:, 3].copy()
    paused.set()
    wait_until(lambda: (overlays[-1][:40, -120:, 3] != corner).any(), 30)
    paused.clear()
    wait_until(lambda: (overlays[-1][:40, -120:, 3] == corner).all(), 30)
    assert run.stats.predictions()


def test_a_screen_that_is_plugged_in_late_is_found_and_costs_no_frame(fake, console, start, caplog):
    console.plug("disconnected")
    run = start()
    wait_until(lambda: run.stats.predictions() > 20, 30)
    assert "no screen is connected" in caplog.text
    console.plug("connected")
    wait_until(lambda: is_on(fake), 30)
    assert len(fake.plan.opened) == 1
    assert run.stats.balance().is_conserved


def test_an_unplugged_cable_costs_nothing(fake, console, start):
    console.plug("connected")
    run = start()
    wait_until(lambda: is_on(fake), 30)
    console.plug("disconnected", mode="")
    before = run.stats.predictions()
    time.sleep(0.4)
    console.plug("connected")
    wait_until(lambda: run.stats.predictions() > before + 20, 30)
    assert device(fake).previews == [fake.Preview.NULL, fake.Preview.DRM]


def test_another_screen_is_opened_again(fake, console, start):
    console.plug("connected")
    start()
    wait_until(lambda: is_on(fake), 30)
    console.plug("connected", mode="1280x720")
    wait_until(lambda: device(fake).preview_window.get("width") == 1280, 30)
    assert len(fake.plan.opened) == 1


def test_a_screen_in_use_by_a_desktop_is_opened_once_it_is_free(fake, console, start, caplog):
    console.plug("connected")
    console.free = False
    run = start()
    wait_until(lambda: run.stats.predictions() > 50, 30)
    assert device(fake).previews == [fake.Preview.NULL]
    assert "in use by" in caplog.text
    console.free = True
    wait_until(lambda: is_on(fake), 30)


def test_refused_overlays_are_reported_once_and_the_image_stays(fake, console, start, caplog):
    fake.plan.overlay_error = "No space left on device"
    console.plug("connected")
    run = start(max_refusals=3)
    wait_until(lambda: "no overlay over the image" in caplog.text, 30)
    before = run.stats.predictions()
    wait_until(lambda: run.stats.predictions() > before + 100, 30)
    assert device(fake).preview is fake.Preview.DRM
    assert caplog.text.count("no overlay over the image") == 1


def test_a_screen_that_cannot_be_drawn_on_leaves_a_run_without_it(fake, console, start, caplog):
    fake.plan.screen = "render"
    console.plug("connected")
    run = start()
    run.capture.read_limit = ReadLimit(0.2)
    wait_until(lambda: run.capture.source.drm_preview and run.capture.source.drm_preview.given_up, 30)
    before = run.stats.predictions()
    wait_until(lambda: run.stats.predictions() > before + 50, 30)
    assert "no frame came while the image was on the screen" in caplog.text


# Choosing


@pytest.mark.parametrize(
    ("source", "screens", "x11", "kind"),
    [
        ("picamera://0", True, False, DisplayKind.DRM),
        ("picamera://0", False, False, DisplayKind.NONE),
        ("picamera://0", True, True, DisplayKind.X11),
        ("pattern://digits", True, False, DisplayKind.NONE),
        ("auto", True, False, DisplayKind.DRM),
    ],
)
def test_auto_selects_the_console_only_for_a_pi_camera_without_a_desktop(fake, monkeypatch, source, screens, x11, kind):
    monkeypatch.setattr(displays, "probe", lambda: Display(DisplayKind.X11 if x11 else DisplayKind.NONE, ":0"))
    monkeypatch.setattr(displays, "connectors", lambda: {"card1-HDMI-A-1": False} if screens else {})
    assert app.screen_for(load_settings({"source": source}, environment={})) is kind


def test_drm_is_refused_for_another_source():
    pipeline = Pipeline(load_settings({"source": "pattern://digits", "display": "drm"}, environment={}))
    with pytest.raises(SinkError, match="give --source picamera://0, or --display kiosk"):
        app.add_drm_display(pipeline)


def test_an_unusable_console_has_a_reason(console, monkeypatch):
    assert "no screen connector" in displays.probe_drm(console.root / "nowhere").reason
    console.plug("disconnected")
    assert "no screen is connected" in displays.probe_drm(console.root).reason
    console.plug("connected", mode="")
    assert "names no size" in displays.probe_drm(console.root).reason
    console.plug("connected", mode="1920x1080i")
    assert displays.probe_drm(console.root) == Display(DisplayKind.DRM, "card1-HDMI-A-1 1920x1080", (1920, 1080))
    console.free = False
    assert "in use by" in displays.probe_drm(console.root).reason
    (console.root / "dev/dri/card1").unlink()
    monkeypatch.undo()
    assert "cannot be opened" in displays.probe_drm(console.root).reason


def test_a_card_that_grants_no_drm_master_is_not_free(tmp_path):
    (tmp_path / "card0").touch()
    assert not displays._is_free(tmp_path / "card0")


def test_an_automatically_chosen_source_has_the_preview_too(fake):
    source = AutoSource("auto", SourceOptions(size=(320, 240)))
    assert source.drm_preview is None
    source.open()
    source.drm_preview.request(SCREEN)
    read(source, 4)
    assert source.drm_preview.showing
    source.close()


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        pytest.param("picamera://0", 0, "the run continues without an image", marks=pytest.mark.slow),
        ("pattern://digits", 78, "give --source picamera://0, or --display kiosk"),
    ],
)
def test_the_program_runs_without_a_screen_and_refuses_an_unsuitable_source(tmp_path, source, code, message):
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    command = ["run", "--source", source, "--size", "320x240", "--display", "drm", "--duration", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "camapp", *command],
        cwd=tmp_path, env=environment | {"PYTHONPATH": f"{FAKES}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if displays.probe_drm():
        pytest.skip("this machine has a free console screen")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
