import math

import numpy as np
import pytest

from camapp.core.predictions import Prediction
from camapp.overlay.birds_eye import draw_lane, has_lane, lane_ahead
from camapp.overlay.overlay import Overlay
from camapp.scenes.course import bending

LANE = {"offset_m": 0.0, "heading_deg": 0.0, "curvature_1_m": 0.0, "lane_width_m": 1.0}


@pytest.mark.parametrize(("offset", "turned", "bend"), [(0.2, 0.1, 0.15), (-0.3, -0.2, -0.1), (0.0, 0.0, 0.0)])
def test_the_lane_matches_the_course_of_the_scene(offset, turned, bend):
    course = bending(4.0, np.array([bend, bend]), (-0.5, 0.5), back=1.0)
    pose = course.pose(0.0, offset, turned)
    places = np.array([0.5, 1.0, 2.0])
    for beside in (-0.5, 0.0, 0.5):
        x, y = (np.interp(places, course.along, axis) for axis in course.beside(beside).T)
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        right, ahead = x - pose.x, y - pose.y
        expected = np.stack([right * cosine - ahead * sine, right * sine + ahead * cosine], axis=1)
        assert lane_ahead(course.values(pose), places, beside) == pytest.approx(expected, abs=0.01)


def test_a_car_on_the_right_of_its_lane_sees_the_lane_on_its_left():
    canvas = np.zeros((180, 140, 3), np.uint8)
    draw_lane(canvas, LANE | {"offset_m": 0.4}, (0, 0, 140, 180), (230, 196, 78), (26, 22, 20))
    bright = np.flatnonzero(canvas[90, :, 0] > 150)
    # Borders at -0.9 and 0.1 lane widths from the car.
    assert bright.min() < 20 < 70 < bright.max() < 85


def test_the_view_is_drawn_only_if_the_values_describe_a_lane():
    assert has_lane(LANE)
    assert not has_lane({"confidence": 0.0, "age_ms": 0.0})
    assert not has_lane(LANE | {"offset_m": math.nan})
    without, having = (np.full((720, 1280, 3), 90, np.uint8) for _ in range(2))
    Overlay().draw(without, Prediction(0, "track", values={"confidence": 0.0, "age_ms": 0.0}), None, 0.0, False)
    Overlay().draw(having, Prediction(0, "track", values=LANE), None, 0.0, False)
    assert (without[600:, 1130:] == 90).all()
    assert (having[600:, 1130:] != 90).any()


@pytest.mark.parametrize("change", [{"curvature_1_m": 50.0}, {"offset_m": 1e6}, {"lane_width_m": 1e-6}])
def test_extreme_lanes_can_be_drawn(change):
    draw_lane(np.zeros((60, 50, 3), np.uint8), LANE | change, (-10, -10, 40, 50), (1, 2, 3), (4, 5, 6))
