"""At car sizes, one strip in words stands above the road, and nothing else hides it."""

from dataclasses import replace

import numpy as np
import pytest

from camapp.core.predictions import Prediction
from camapp.core.status import Hud
from camapp.overlay.drive_strip import in_words
from camapp.overlay.overlay import Overlay

VALUES = {"offset_m": 0.123, "heading_deg": -3.2, "curvature_1_m": 0.1, "lane_width_m": 0.6, "confidence": 0.9}
LANE = Prediction(0, "track", label="lane", score=0.9, values=VALUES)
NO_LANE = Prediction(0, "track", label="no lane: the image is black; is the lens covered?", values={"confidence": 0.0})
HUD = Hud(camera_fps=30.0, infer_fps=29.8, target_fps=30.0)


def drawn(prediction, size, hud=HUD, **options):
    canvas = np.full((size[1], size[0], 3), 90, np.uint8)
    Overlay().draw(canvas, prediction, hud, 5.0, options.pop("stale", False), **options)
    return canvas


@pytest.mark.parametrize(
    ("offset", "heading", "words"),
    [
        (0.123, -3.2, "12 cm right, 3 deg left"),
        (-0.3, 10.0, "30 cm left, 10 deg right"),
        (0.002, 0.3, "in the middle, straight"),
        (-1.5, 0.0, "150 cm left, straight"),
    ],
)
def test_the_place_is_told_in_words(offset, heading, words):
    assert in_words(VALUES | {"offset_m": offset, "heading_deg": heading}) == words


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480)])
@pytest.mark.parametrize("prediction", [LANE, NO_LANE])
def test_the_road_is_free_below_the_strip(size, prediction):
    for stale in (False, True):
        canvas = drawn(prediction, size, stale=stale)
        # A reason may need more than one line; they still end above the road.
        strip = size[1] // (8 if prediction is LANE else 4)
        assert (canvas[strip:] == 90).all()
        assert canvas[:strip].max() > 150


def test_larger_images_and_other_tasks_keep_their_panels():
    assert (drawn(LANE, (1280, 720))[360:] != 90).any()
    assert (drawn(Prediction(0, "digits", label="3", score=0.9), (320, 240))[120:] != 90).any()


def test_another_place_is_drawn_at_once_where_a_lane_is_lost():
    overlay, canvas = Overlay(), np.full((240, 320, 3), 90, np.uint8)
    overlay.draw(canvas, LANE, HUD, 5.0, False)
    lost = np.full((240, 320, 3), 90, np.uint8)
    overlay.draw(lost, NO_LANE, HUD, 5.0, False)
    assert (canvas != lost).any()


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480)])
def test_a_badge_does_not_hide_the_rate_and_the_rate_of_a_pause_is_no_alarm(size):
    slow = replace(HUD, infer_fps=3.0)
    held = drawn(LANE, size, replace(slow, paused=True))
    # What differs from the road is the strip, and the badge in its corner below it.
    used = (held != 90).any(axis=(1, 2))
    strip = int(np.argmin(used))
    assert 0 < strip < size[1] // 8
    assert used[strip:].any()

    def red(canvas):
        blue, green, level = canvas[:strip].astype(int).transpose(2, 0, 1)
        return ((level > green + 60) & (level > blue + 60)).any()

    assert red(drawn(LANE, size, slow))
    assert not red(held)
    assert not red(drawn(LANE, size, replace(slow, ended=True)))
