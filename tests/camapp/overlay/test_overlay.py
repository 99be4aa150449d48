from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from camapp.core.keys import RUN
from camapp.core.predictions import Box, Polyline, Prediction
from camapp.core.status import Hud, Rating, rating_of
from camapp.overlay.no_signal import no_signal
from camapp.overlay.overlay import Overlay
from camapp.overlay.style import AMBER, GREEN, RED
from camapp.overlay.text import Font, Layer, plain

STAGES = {"capture": 3.0, "prepare": 1.0, "queue": 0.5, "infer": 9.0, "decode": 0.2, "total": 13.7}
HUD = Hud(30.0, 25.0, 10.0, 30.0, STAGES, {"mailbox": 12, "late": 2}, 0.6, 2, 1, "pattern://digits", "mnist")
SEVEN = Prediction(1, "digits", "7", 0.9, "7", 0.9, (("7", 0.9), ("1", 0.06), ("9", 0.04)))
SIZES = [(160, 120), (320, 240), (640, 480), (1280, 720), (720, 1280), (1920, 1080), (3840, 2160)]


def image(width: int = 1280, height: int = 720, shade: int = 90) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def drawn(prediction: Prediction | None, hud: Hud | None = None, stale: bool = False, **size: int) -> np.ndarray:
    canvas = image(**size)
    Overlay().draw(canvas, prediction, hud, 500.0, stale)
    return canvas


def has(canvas: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(canvas.astype(int) - colour) <= 1).all(axis=2).any())


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_label_and_numbers_are_drawn_at_every_size(width: int, height: int) -> None:
    blank = image(width, height)
    label = drawn(SEVEN, width=width, height=height)
    both = drawn(SEVEN, HUD, width=width, height=height)
    assert (label[height // 2 :] != blank[height // 2 :]).any()
    assert (both[: height // 2] != blank[: height // 2]).any()
    share = (both != blank).any(axis=2).mean()
    assert 0.01 < share < 0.75, "the image must stay visible"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (16, 9), (40, 300), (300, 40)])
def test_tiny_frames_can_be_drawn_on(width: int, height: int) -> None:
    boxes = (Box(0, 0, width, height, "a", 1.0),)
    drawn(replace(SEVEN, boxes=boxes, region=boxes[0]), HUD, width=width, height=height)
    assert no_signal((width, height), "gone").shape == (height, width, 3)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_keys_are_listed_in_the_middle_of_the_image(width: int, height: int) -> None:
    canvas = image(width, height)
    Overlay().draw(canvas, None, None, 0.0, False, keys=RUN)
    rows, columns = np.nonzero((canvas != image(width, height)).any(axis=2))
    assert abs(rows.min() + rows.max() - height) <= 2
    assert abs(columns.min() + columns.max() - width) <= 2
    assert columns.min() > 0


@pytest.mark.parametrize("state", ["paused", "ended"])
def test_rates_are_no_alarm_during_a_pause_and_at_the_end_of_a_film(state: str) -> None:
    slow = replace(HUD, camera_fps=0.0, infer_fps=0.0, display_fps=0.0)
    assert has(drawn(None, slow), RED)
    assert not has(drawn(None, replace(slow, **{state: True})), RED)


def test_nothing_to_draw_leaves_the_image_unchanged() -> None:
    np.testing.assert_array_equal(drawn(None), image())


@pytest.mark.parametrize(
    ("fps", "expected"), [(29.1, Rating.GOOD), (29.0, Rating.FAIR), (24.0, Rating.FAIR), (23.9, Rating.POOR)]
)
def test_rates_are_rated_against_the_target(fps: float, expected: Rating) -> None:
    assert rating_of(fps, 30.0) is expected
    assert rating_of(fps, 0.0) is Rating.UNRATED


@pytest.mark.parametrize(("fps", "colour"), [(30.0, GREEN), (25.0, AMBER), (10.0, RED)])
def test_rates_are_coloured_by_their_rating(fps: float, colour: tuple[int, int, int]) -> None:
    hud = Hud(camera_fps=fps, infer_fps=fps, display_fps=fps, target_fps=30.0)
    canvas = drawn(None, hud)
    assert {c for c in (GREEN, AMBER, RED) if has(canvas, c)} == {colour}


def test_every_field_of_the_hud_changes_the_image() -> None:
    plain_panel = drawn(None, HUD)
    changes = {
        "camera_fps": 12.0, "infer_fps": 12.0, "display_fps": 12.0, "target_fps": 60.0,
        "latency_ms": {**STAGES, "infer": 20.0}, "drops": {"mailbox": 13}, "workers_busy": 0.1, "workers": 3,
        "restarts": 2, "source": "v4l2://0", "model": "cifar10", "paused": True,
    }  # fmt: skip
    for name, value in changes.items():
        assert (drawn(None, replace(HUD, **{name: value})) != plain_panel).any(), name


def test_the_truth_is_green_if_the_label_matches_and_amber_otherwise() -> None:
    quiet = Hud(30.0, 30.0, 30.0)
    assert has(drawn(SEVEN, replace(quiet, truth="7")), GREEN)
    assert has(drawn(SEVEN, replace(quiet, truth="8")), AMBER)


def test_stale_predictions_are_dimmed() -> None:
    marked = replace(SEVEN, boxes=(Box(700, 100, 900, 300, "7", 0.9),), lines=(Polyline(((600, 700), (700, 400))),))
    fresh, old = drawn(marked, shade=0), drawn(marked, stale=True, shade=0)
    assert old[:500].sum() < 0.9 * fresh[:500].sum()
    assert has(old, AMBER), "the age stands out"
    assert not has(fresh, AMBER)


def test_boxes_and_lines_are_drawn_at_their_coordinates() -> None:
    found = replace(
        SEVEN, label="", top=(), boxes=(Box(700, 100, 900, 300),), lines=(Polyline(((950, 600), (1150, 600))),)
    )
    changed = (drawn(found) != image()).any(axis=2)
    assert changed[100, 700:900].all()
    assert changed[299, 700:900].all()
    assert changed[100:300, 700].all()
    assert changed[100:300, 899].all()
    assert changed[600, 955:1145].all()
    assert not changed[150:250, 750:850].any()


@pytest.mark.parametrize("far", [float("nan"), float("inf"), -float("inf"), 1e12, -1e12])
def test_points_outside_the_image_are_clipped(far: float) -> None:
    wild = replace(
        SEVEN,
        score=far,
        boxes=(Box(far, far, far, far, "x", far), Box(100, 100, far, far)),
        lines=(Polyline(((far, 3.0), (5.0, far), (600.0, 300.0))),),
        region=Box(-far, -far, far, far),
    )
    drawn(wild, HUD)


@pytest.mark.parametrize("label", ["x" * 5000, "Bär", "猫", "👩‍🚀 astronaut", "a\nb\tc\0d", " ", "%s{}"])
def test_labels_of_any_length_and_script_are_drawn(label: str) -> None:
    named = replace(SEVEN, label=label, top=((label, 0.5),), boxes=(Box(10, 400, 60, 450, label, 0.5),))
    for width, height in ((160, 120), (1280, 720)):
        drawn(named, replace(HUD, source=label, model=label, truth=label), width=width, height=height)


def test_long_labels_stay_inside_their_card() -> None:
    canvas = drawn(replace(SEVEN, label="W" * 300, top=(("W" * 300, 0.9),)))
    assert not (canvas[:, 640:] != 90).any()


@pytest.mark.parametrize(
    ("text", "expected"), [("Müll", "Mull"), ("Straße", "Strasse"), ("5°", "5 deg"), ("猫7", "?7"), ("a\nb", "a b")]
)
def test_text_is_converted_to_printable_ascii(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(("width", "height"), [(320, 240), (640, 480), (720, 1280), (1280, 720)])
def test_a_long_reason_is_drawn_to_its_end(width: int, height: int) -> None:
    reason = "no lane: the image seems upside down; turn the camera, or --rotate "
    one, other = (
        drawn(Prediction(0, "track", label=reason + end, values={"confidence": 0.0}), width=width, height=height)
        for end in ("180", "999")
    )
    assert (one != other).any()
    # No text ends at the edge: there is the image, or the even ground of a strip.
    edge = one[:, -3:].astype(int) - image(width, height)[:, -3:]
    assert (edge == edge[:, :1]).all()


def test_fitted_text_is_not_wider_than_its_limit() -> None:
    font = Font(11)
    for width in range(0, 200, 7):
        assert font.width(font.fit("a fairly long label", width)) <= width
    assert font.fit("short", 500) == "short"


def test_a_merged_layer_equals_two_layers_one_after_the_other() -> None:
    rng = np.random.default_rng(1)
    ground = Layer.of(rng.integers(0, 256, (30, 40), np.uint8), (200, 30, 90))
    mark = Layer.of(rng.integers(0, 256, (10, 50), np.uint8), (10, 250, 130))
    target = rng.integers(0, 256, (50, 60, 3), np.uint8)
    expected = target.copy()
    ground.lay_on(expected, 5, 6)
    Layer(mark.colour[:, 3:43], mark.keep[:, 3:43]).lay_on(expected, 5, 11)
    mark.merge_into(ground, -3, 5)
    ground.lay_on(target, 5, 6)
    assert np.abs(target.astype(int) - expected).max() <= 2


def test_numbers_are_redrawn_a_few_times_a_second_and_labels_at_once() -> None:
    now = [0]
    overlay = Overlay(clock=lambda: now[0])

    def frame(label: str, fps: float) -> np.ndarray:
        canvas = image()
        overlay.draw(canvas, replace(SEVEN, label=label), replace(HUD, camera_fps=fps), 0.0, False)
        return canvas

    first = frame("7", 30.0)
    now[0] += 10_000_000
    np.testing.assert_array_equal(frame("7", 11.0), first)
    assert (frame("8", 11.0) != first).any()
    now[0] += 400_000_000
    assert (frame("7", 11.0) != first).any()


def test_an_unchanged_overlay_takes_little_time() -> None:
    overlay, canvas = Overlay(), image()
    for _ in range(20):
        overlay.draw(canvas, SEVEN, HUD, 0.0, False)
    costs = []
    for _ in range(100):
        start = time.thread_time_ns()
        overlay.draw(canvas, SEVEN, HUD, 0.0, False)
        costs.append(time.thread_time_ns() - start)
    # 0.1 ms on the development machine; the bound allows for one that is ten times slower, or busy.
    assert np.median(costs) < 1_500_000


def test_no_signal_shows_the_reason_and_fits() -> None:
    short, long = no_signal((640, 480), "camera unplugged"), no_signal((640, 480), "word " * 500)
    assert (short != long).any()
    for shown in (short, long):
        assert (shown[[0, -1]] == shown[0, 0]).all()
        assert (shown[:, [0, -1]] == shown[0, 0]).all()
    assert (no_signal((640, 480), "gone", 5.0) != no_signal((640, 480), "gone", 6.0)).any()


def test_the_card_moves_beside_the_panel_if_both_do_not_fit_above_each_other() -> None:
    values = {f"value_{index}": 1.0 for index in range(6)}
    crowded, hud = replace(SEVEN, values=values), replace(HUD, truth="7")
    columns = [
        np.flatnonzero((drawn(crowded, hud, width=1280, height=height)[height - 20] != 90).any(axis=1))[0]
        for height in (720, 400)
    ]
    assert columns[0] < 30
    assert columns[1] > 150


def test_the_lane_between_left_and_right_is_tinted_and_nothing_else():
    lines = (Polyline(((80.0, 230.0), (140.0, 100.0)), "left"), Polyline(((250.0, 235.0), (180.0, 90.0)), "right"))
    canvas = np.full((240, 320, 3), 90, np.uint8)
    Overlay().draw(canvas, Prediction(0, "track", lines=lines), None, 0.0, False)
    assert (canvas[170, 165] != 90).any()
    assert (canvas[60, 160] == 90).all()
    assert (canvas[140, 300] == 90).all()


@pytest.mark.parametrize(
    "points",
    [((math.nan, 1.0), (5.0, 9.0)), ((-900.0, 50.0), (-800.0, 20.0)), ((5.0, 5.0),), ((9e9, 9e9), (1.0, -9e9))],
)
def test_a_lane_with_extreme_lines_can_be_drawn(points):
    lines = (Polyline(points, "left"), Polyline(((250.0, 235.0), (180.0, 90.0)), "right"))
    Overlay().draw(np.full((240, 320, 3), 90, np.uint8), Prediction(0, "track", lines=lines), None, 0.0, False)
