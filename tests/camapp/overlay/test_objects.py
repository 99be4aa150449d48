"""Objects on an image: boxes, labels that do not hide each other, key points, masks, zones."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from importlib import resources
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from camapp.core.predictions import Box, KeyPoint, LineState, Prediction, ZoneState
from camapp.core.status import Hud
from camapp.overlay.class_colours import PALETTE, class_colour, colour_index
from camapp.overlay.objects import Places, Plate, draw_objects
from camapp.overlay.overlay import Overlay
from camapp.overlay.panel import tag
from camapp.overlay.style import AMBER, DIM, GREEN, WHITE, style_of

SIZES = [(160, 120), (320, 240), (640, 480), (1280, 720), (720, 1280), (1920, 1080)]
SHADE = 90
SQUARE = ((20.0, 20.0), (100.0, 20.0), (100.0, 100.0), (20.0, 100.0))


def found(*boxes: Box, **more: Any) -> Prediction:
    return Prediction(0, "detect", boxes=boxes, counts={box.label: 1 for box in boxes}, **more)


def drawn(prediction: Prediction, width: int = 640, height: int = 480, stale: bool = False, **more: Any) -> np.ndarray:
    canvas = np.full((height, width, 3), SHADE, np.uint8)
    Overlay().draw(canvas, prediction, more.pop("hud", None), 0.0, stale, **more)
    return canvas


def changed(canvas: np.ndarray) -> np.ndarray:
    return (canvas != SHADE).any(axis=2)


def has(canvas: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(canvas.astype(int) - colour) <= 1).all(axis=2).any())


def crowd(width: int, height: int, count: int) -> list[Box]:
    rng = random.Random(count)
    boxes = []
    for number in range(count):
        w, h = rng.uniform(0.01, 0.2) * width, rng.uniform(0.01, 0.3) * height
        x, y = rng.uniform(-0.05, 0.95) * width, rng.uniform(-0.05, 0.95) * height
        boxes.append(Box(x, y, x + w, y + h, rng.choice(["person", "car", "traffic light"]), rng.random(), number))
    return boxes


def test_classes_that_are_seen_together_have_colours_of_their_own() -> None:
    often = ["person", "car", "dog", "cat", "bicycle", "truck", "bus", "motorcycle", "bird", "chair", "face", "bottle"]
    assert len({colour_index(label) for label in often}) == len(often)
    assert class_colour("person") == (0xE6, 0xC4, 0x4E), "the same in every version"
    assert 0 <= colour_index("") < len(PALETTE)
    assert colour_index("猫👩‍🚀" * 100) < len(PALETTE)


def test_the_page_has_the_same_colours() -> None:
    script = resources.files("camapp.remote.web").joinpath("static", "page.js").read_text(encoding="utf-8")
    listed = re.search(r'CLASS_COLOURS = "([0-9a-f ]+)"', script)
    assert listed is not None
    assert tuple(listed[1].split()) == PALETTE
    assert "* 3013" in script
    assert "% 65521" in script


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [3, 30, 300])
def test_labels_lie_inside_the_image_and_hide_neither_each_other_nor_the_panels(
    width: int, height: int, count: int
) -> None:
    style = style_of(width, height)
    reserved = (0, 0, width // 4, height // 4)
    places = Places(style, [reserved])
    draw_objects(np.zeros((height, width, 3), np.uint8), style, crowd(width, height, count), False, places)
    rects = [(x, y, x + plate.width, y + plate.height) for plate, x, y in places._plates]
    assert len(rects) >= min(3, count) - 1
    assert all(x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height for x0, y0, x1, y1 in rects if x1 - x0 <= width)
    rects.append((0, 0, *reserved[2:]))
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in combinations(rects, 2):
        assert ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0


def test_a_label_moves_below_its_box_if_the_place_above_is_taken() -> None:
    style = style_of(640, 480)
    plate = Plate(tag("person", style.body, (0, 0, 0), (9, 9, 9)))
    places = Places(style)
    assert places.put(plate, [(50, 50), (50, 100)])
    assert places.put(plate, [(52, 50), (50, 100)])
    assert not places.put(plate, [(52, 50), (48, 104)])
    assert [(x, y) for _, x, y in places._plates] == [(50, 50), (50, 100)]


def test_a_box_of_a_few_pixels_has_no_label() -> None:
    small, large = (
        changed(drawn(found(Box(300, 200, 306, 206, "cat")))),
        changed(drawn(found(Box(300, 200, 360, 260, "cat")))),
    )
    assert not small[150:199, 280:].any()
    assert large[180:199, 300:].any()
    assert small[200:206, 300:306].any(), "the box itself is drawn"


def test_each_class_has_its_colour_and_a_stale_object_is_dim() -> None:
    both = found(Box(50, 50, 150, 150, "dog"), Box(300, 50, 400, 150, "car"))
    canvas = drawn(both)
    assert has(canvas[:, :200], class_colour("dog"))
    assert has(canvas[:, 280:], class_colour("car"))
    old = drawn(both, stale=True)
    assert not has(old, class_colour("dog"))
    assert has(old, DIM)


def test_a_rotated_box_is_drawn_at_its_corners() -> None:
    canvas = changed(drawn(found(Box(200, 200, 300, 240, "ship", angle=90.0))))
    # Around its centre, (250, 220): 40 wide and 100 high.
    assert canvas[220, 228:233].any()
    assert canvas[220, 268:273].any()
    assert not canvas[220, 198:203].any()


def test_a_mask_tints_its_inside_only_and_once_where_masks_overlap() -> None:
    outline = ((210.0, 110.0), (390.0, 110.0), (390.0, 290.0), (210.0, 290.0))
    one = Box(200, 100, 400, 300, "cat", outlines=(outline,))
    canvas = drawn(found(one))
    expected = SHADE + 0.4 * (np.array(class_colour("cat")) - SHADE)
    assert np.abs(canvas[200, 300] - expected).max() <= 1
    assert (canvas[105, 300] == SHADE).all()
    smaller = replace(one, x0=250, label="dog")
    on_top = SHADE + 0.4 * (np.array(class_colour("dog")) - SHADE)
    assert np.abs(drawn(found(smaller, one))[200, 300] - on_top).max() <= 1


def test_a_skeleton_joins_the_17_points_that_are_sure_and_a_face_has_dots() -> None:
    points = [KeyPoint(250.0 + 20 * (index % 2), 120.0 + 10 * index) for index in range(17)]
    body = Box(200, 100, 320, 320, "person", points=tuple(points))
    between = (slice(205, 225), slice(262, 278))
    assert changed(drawn(found(body)))[between].any(), "from shoulder to elbow"
    unsure = replace(body, points=tuple(replace(point, score=0.1) for point in points))
    assert not changed(drawn(found(unsure)))[between].any()
    face = Box(200, 100, 320, 320, "face", points=tuple(points[:5]))
    canvas = changed(drawn(found(face)))
    assert canvas[120, 250]
    assert not canvas[125, 260]


def test_a_zone_with_something_in_it_is_green_and_its_counts_are_drawn() -> None:
    empty, full = ZoneState("porch", SQUARE), ZoneState("porch", SQUARE, {"cat": 1}, {"cat": 2}, {"cat": 1})
    assert not has(drawn(found(zones=(empty,))), GREEN)
    assert has(drawn(found(zones=(full,))), GREEN)
    more = replace(full, entered={"cat": 3})
    assert (drawn(found(zones=(full,))) != drawn(found(zones=(more,)))).any()


def test_the_counts_of_a_zone_move_to_another_corner_if_a_panel_is_at_the_first_one() -> None:
    zone = found(zones=(ZoneState("porch", ((20.0, 20.0), (500.0, 20.0), (500.0, 400.0))),))
    hud = Hud(30.0, 30.0, 30.0, 30.0, {"total": 5.0}, {}, 0.5, 2, 0, "v4l2://0", "yolox")
    canvas = drawn(zone, hud=hud)
    assert has(canvas[26:60, 508:], WHITE), "beside the corner at the upper right"


def test_a_counting_line_has_an_arrow_to_its_right() -> None:
    canvas = changed(drawn(found(counting_lines=(LineState("gate", (100.0, 300.0), (100.0, 100.0)),))))
    # From the lower end to the upper one, right is right in the image.
    assert canvas[200, 104:112].all()
    assert not canvas[200, 80:92].any()


@pytest.mark.parametrize("far", [float("nan"), float("inf"), -float("inf"), 1e12, -1e12])
def test_objects_outside_the_image_are_clipped(far: float) -> None:
    wild = found(
        Box(far, far, far, far, "x", far, 3, (KeyPoint(far, far, far),) * 17, (((far, 1.0), (5.0, far), (9.0, 9.0)),)),
        Box(5, 5, far, far, angle=far),
        Box(5, 5, far, 50, "y", angle=3.0),
        zones=(ZoneState("z", ((far, far), (1.0, far), (2.0, 2.0))),),
        counting_lines=(LineState("l", (far, 1.0), (1.0, far)), LineState("m", (5.0, 5.0), (5.0, 5.0))),
    )
    drawn(wild)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (16, 9), (40, 300), *SIZES])
def test_hundreds_of_objects_can_be_drawn_at_any_size(width: int, height: int) -> None:
    drawn(found(*crowd(width, height, 300), zones=(ZoneState("porch", SQUARE),)), width, height)


def test_the_card_lists_the_objects_and_says_that_there_are_none() -> None:
    none, one = drawn(found()), drawn(Prediction(0, "detect", counts={"person": 1}))
    assert (none[400:] != one[400:]).any()
    many = Prediction(0, "detect", counts={f"class {number}": number + 1 for number in range(50)})
    assert not changed(drawn(many))[:200].any(), "a long list is cut"
    assert has(one[400:], class_colour("person"))


def test_a_pause_is_shown_with_the_statistics_off() -> None:
    assert has(drawn(found(), paused=True), AMBER)
    assert not has(drawn(found()), AMBER)
    assert has(drawn(found(), hud=Hud(paused=True)), AMBER)
