import math

import numpy as np
import pytest

from camapp.scenes.course import bending
from camapp.tasks.lane import Lane, LaneFilter, find_lane

BORDERS = (-0.61, 0.61)


def lines_of(course, pose, reach=5.0):
    """Ground points of the borders as a car there sees them."""
    sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
    for at in course.borders:
        away = course.beside(at) - (pose.x, pose.y)
        x, y = away[:, 0] * cosine - away[:, 1] * sine, away[:, 0] * sine + away[:, 1] * cosine
        seen = (y > 0.4) & (np.hypot(x, y) < reach)
        yield np.stack([x, y], axis=1)[seen]


@pytest.mark.parametrize("bend", [0.0, 0.1, -0.2])
@pytest.mark.parametrize("offset", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("turned", [-15, 0, 8])
def test_a_car_in_a_clean_lane_knows_where_it_is(bend, offset, turned):
    course = bending(20.0, np.array([bend, bend]), BORDERS, back=2.0)
    pose = course.pose(0.0, offset, math.radians(turned))
    lane = find_lane(list(lines_of(course, pose)), [0.9, 0.8], 1.22, 4.0)
    assert lane is not None
    assert lane.offset == pytest.approx(offset, abs=0.015)
    assert math.degrees(lane.heading) == pytest.approx(turned, abs=0.7)
    assert lane.curvature == pytest.approx(bend, abs=0.02)
    assert lane.width == pytest.approx(1.22, abs=0.02)
    assert (lane.left, lane.right, lane.confidence) == (0, 1, 0.8)


def test_one_border_tells_by_the_expected_width_and_with_half_the_confidence():
    course = bending(20.0, np.zeros(2), BORDERS, back=2.0)
    left, right = lines_of(course, course.pose(0.0, 0.2))
    for line, names in ((left, (0, None)), (right, (None, 0))):
        lane = find_lane([line], [0.8], 1.22, 4.0)
        assert lane is not None
        assert lane.offset == pytest.approx(0.2, abs=0.01)
        assert (lane.left, lane.right) == names
        assert lane.confidence == pytest.approx(0.4)


def test_a_double_tape_is_one_border():
    course = bending(20.0, np.zeros(2), (-0.66, -0.56, 0.61), back=2.0)
    lane = find_lane(list(lines_of(course, course.pose(0.0, 0.1))), [0.9] * 3, 1.22, 4.0)
    assert lane is not None
    assert lane.offset == pytest.approx(0.1, abs=0.01)
    assert lane.width == pytest.approx(1.22, abs=0.01)
    assert lane.left == 1  # the nearer tape


def test_the_lane_is_the_one_around_the_car():
    course = bending(20.0, np.zeros(2), (-1.83, -0.61, 0.61, 1.83), back=2.0)
    lane = find_lane(list(lines_of(course, course.pose(0.0, 1.3))), [0.9] * 4, 1.22, 5.0)
    assert lane is not None
    assert lane.offset == pytest.approx(0.08, abs=0.01)
    assert (lane.left, lane.right) == (2, 3)


def test_lines_across_the_way_are_no_lane():
    across = np.stack([np.linspace(-2, 2, 30), np.full(30, 1.5)], axis=1)
    assert find_lane([across], [0.9], 1.22, 4.0) is None
    assert find_lane([], [], 1.22, 4.0) is None


def test_a_point_or_two_gone_astray_do_not_turn_the_lane():
    course = bending(20.0, np.zeros(2), BORDERS, back=2.0)
    left, right = lines_of(course, course.pose(0.0))
    right = right.copy()
    right[5] += (0.6, 0.0)
    lane = find_lane([left, right], [0.9, 0.9], 1.22, 4.0)
    assert lane is not None
    assert lane.offset == pytest.approx(0.0, abs=0.03)


LANE = Lane(offset=0.1, heading=0.05, curvature=0.02, width=1.22, confidence=0.9)


def test_the_filter_takes_the_first_lane_as_it_is_and_smooths_noise():
    rng = np.random.default_rng(0)
    watch = LaneFilter()
    first, _ = watch.update(LANE, 0)
    assert first == LANE
    noisy = [LANE.offset + rng.normal(0, 0.05) for _ in range(90)]
    smooth = []
    for frame, offset in enumerate(noisy, start=1):
        lane, age = watch.update(Lane(offset, 0.05, 0.02, 1.22, 0.9), frame * 33_000_000)
        assert lane is not None
        assert age == 0
        smooth.append(lane.offset)
    assert np.std(smooth[30:]) < 0.7 * np.std(noisy[30:])


def test_the_filter_follows_a_steady_drift():
    watch = LaneFilter()
    for frame in range(90):
        lane, _ = watch.update(Lane(0.3 * frame / 30, 0.0, 0.0, 1.22, 0.9), frame * 33_333_333)
    assert lane is not None
    assert lane.offset == pytest.approx(0.3 * 89 / 30, abs=0.02)


def test_a_lane_lost_is_held_for_a_moment_with_falling_confidence_and_then_gone():
    watch = LaneFilter()
    watch.update(LANE, 0)
    held, age = watch.update(None, 100_000_000)
    assert held is not None
    assert age == pytest.approx(0.1)
    assert held.confidence < LANE.confidence
    gone, _ = watch.update(None, 500_000_000)
    assert gone is None
    assert watch.update(None, 600_000_000)[0] is None


def test_one_leap_counts_little_and_a_lasting_one_is_believed():
    watch = LaneFilter()
    for frame in range(20):
        watch.update(LANE, frame * 33_000_000)
    leap = Lane(-0.5, 0.05, 0.02, 1.22, 0.9)
    once, _ = watch.update(leap, 20 * 33_000_000)
    assert once is not None
    assert once.offset > 0
    for frame in range(21, 24):
        lasting, _ = watch.update(leap, frame * 33_000_000)
    assert lasting is not None
    assert lasting.offset == pytest.approx(-0.5, abs=0.05)
