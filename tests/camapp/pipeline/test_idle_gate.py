"""The idle gate on a simulated clock, and a whole run that slows down and wakes up."""

import numpy as np
import pytest

from camapp.core.errors import SettingsError
from camapp.core.frames import Frame, Shot
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.core.status import Hud
from camapp.overlay.overlay import Overlay
from camapp.overlay.style import RED, SOFT
from camapp.pipeline.idle_gate import IdleGate, tiles_of
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.sink import PredictionSink
from tests.camapp.scripted import ScriptedSource


def frame(pixels, layout=Layout.RGB):
    image = Image.of(np.ascontiguousarray(pixels), layout)
    return Frame(0, Shot(image, image))


def grey(level=100, noise=0.0, seed=0, size=(240, 320)):
    rng = np.random.default_rng(seed)
    return np.clip(level + rng.normal(0, noise, (*size, 3)), 0, 255).astype(np.uint8)


class Day:
    """Sends 30 frames per second through a gate, on a clock that only frames move."""

    def __init__(self, fps=1.0, after=5.0):
        self.now = 100.0
        self.gate = IdleGate(fps, after, lambda: self.now)

    def watch(self, seconds, pixels=None, label="nothing"):
        """Return the number of admitted frames."""
        admitted = 0
        for index in range(round(seconds * 30)):
            self.now += 1 / 30
            if self.gate.admits(frame(grey(noise=5, seed=index) if pixels is None else pixels)):
                admitted += 1
                self.gate.predicted(Prediction(0, "classify", label, 1.0, label, 1.0, ()))
        return admitted


def test_all_frames_are_admitted_until_nothing_has_changed_for_the_idle_time():
    day = Day()
    assert day.watch(4.9) == round(4.9 * 30)
    assert not day.gate.idle
    day.watch(1)
    assert day.gate.idle
    assert 9 <= day.watch(10) <= 11


@pytest.mark.slow
@pytest.mark.parametrize("level", [120, 60])
def test_the_first_frame_that_differs_is_admitted_and_all_after_it(level):
    day = Day()
    day.watch(20)
    changed = grey(noise=5)
    changed[100:130, 100:130] = level  # a hundredth of the image
    assert day.watch(1 / 30, changed) == 1
    assert not day.gate.idle
    assert day.watch(4, changed) == 120


@pytest.mark.slow
def test_a_changed_label_counts_as_a_change():
    day = Day()
    day.watch(20)
    day.watch(2, label="cup")
    assert not day.gate.idle


def test_sensor_noise_and_slow_dusk_are_no_change():
    day = Day()
    for step in range(20):
        day.watch(1, grey(100 - step, noise=10, seed=step))
    assert day.gate.idle


def test_movement_anywhere_prevents_the_idle_state():
    day = Day()
    for step in range(120):
        moving = grey()
        moving[50:80, step : step + 30] = 200
        assert day.watch(0.1, moving) == 3


@pytest.mark.parametrize("layout", list(Layout))
def test_every_layout_gives_tiles_of_its_brightness_and_none_of_its_padding(layout):
    if layout is Layout.GRAY:
        data = np.full((48, 64), 77, np.uint8)
    elif layout is Layout.I420:
        data = np.full((72, 80), 255, np.uint8)  # rows of 64 pixels and 16 bytes of padding
        data[:48, :64] = 77
    else:
        data = np.full((48, 64, 3 if layout in (Layout.RGB, Layout.BGR) else 4), 77, np.uint8)
        data[..., 3:] = 255
    tiles = tiles_of(Image(data, layout, 64, 48))
    assert tiles.shape == (24, 32)
    assert (tiles == 77).all()


class Keep(PredictionSink):
    def __init__(self):
        self.seqs = []

    def accept(self, prediction, frame, trace):
        self.seqs.append(prediction.seq)


@pytest.mark.slow
def test_a_run_slows_down_counts_the_frames_it_left_out_and_wakes_up():
    def light_up():
        source.level = 220

    source = ScriptedSource(250, light_up, 30, interval=0.012)
    given = {"idle_fps": 2.0, "idle_after": 0.5, "workers": 1, "size": "64x48"}
    pipeline = Pipeline(load_settings(given, environment={}), source=source)
    keep = Keep()
    pipeline.add_sink(keep)
    reported = []
    pipeline.on_tick(lambda: reported.append((pipeline.reporter.hud().idle, "idle" in pipeline.reporter.line())))
    balance = pipeline.run().balance
    assert balance.is_conserved
    assert (True, True) in reported
    assert (False, False) in reported
    assert 100 < balance.dropped["idle"] <= 250
    asleep = [seq for seq in keep.seqs if 150 <= seq < 250]
    assert 1 <= len(asleep) <= 40  # a busy machine takes longer over them, and so infers more
    assert 250 in keep.seqs, "the first frame that differs"
    assert len([seq for seq in keep.seqs if seq > 250]) > 3, "the rest too, but for what is pushed out by newer ones"


def test_files_are_never_idle():
    source = ScriptedSource(3, live=False)
    assert Pipeline(load_settings({"idle_fps": 1.0}, environment={}), source=source).idle is None


def test_an_idle_rate_too_low_for_the_watchdog_is_refused():
    with pytest.raises(SettingsError, match=r"idle_fps = '0\.1' is not allowed"):
        load_settings({}, environment={"CAMAPP_IDLE_FPS": "0.1"})


def test_the_idle_state_is_shown_and_its_low_rate_is_not_red():
    def drawn(hud):
        canvas = np.full((720, 1280, 3), 90, np.uint8)
        Overlay().draw(canvas, None, hud, 0, False)
        return canvas

    def has(canvas, colour):
        return bool((np.abs(canvas.astype(int) - colour) <= 1).all(axis=2).any())

    slow = Hud(30.0, 1.0, 30.0, 30.0, {"total": 5.0})
    assert has(drawn(slow), RED)
    idle = drawn(Hud(30.0, 1.0, 30.0, 30.0, {"total": 5.0}, idle=True))
    assert not has(idle, RED)
    assert has(idle[:60, 1000:], SOFT)
