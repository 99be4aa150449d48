import math

import numpy as np
import pytest

from camapp.scenes.course import bending
from camapp.tasks.lane import find_lane


def borders_seen(course, pose, reach):
    """Return the points of both borders that a car at this pose sees, in its ground frame."""
    lines = []
    for border in course.borders:
        away = course.beside(border) - (pose.x, pose.y)
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        ground = np.stack([away[:, 0] * cosine - away[:, 1] * sine, away[:, 0] * sine + away[:, 1] * cosine], axis=1)
        fine = np.linspace(0, len(ground) - 1, 2000)
        ground = np.stack([np.interp(fine, np.arange(len(ground)), axis) for axis in ground.T], axis=1)
        ahead = (ground[:, 1] > 0.25 * reach / 14) & (np.abs(ground[:, 0]) < 0.8 * ground[:, 1])
        near = ground[ahead & (np.hypot(*ground.T) < reach)]
        lines.append(near[np.unique(np.geomspace(1, len(near), 30).astype(int) - 1)])
    return lines


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("bend", [-0.2, -0.08, 0.08, 0.2])
@pytest.mark.parametrize(("offset", "turned"), [(0.2, -0.1), (-0.2, 0.1), (0.0, 0.0)])
def test_exact_lines_give_the_exact_position_at_any_scale_of_the_course(scale, bend, offset, turned):
    """Offset and curvature in units of the lane width, and the heading, are the same for a toy track and a stadium."""
    course = bending(14 * scale, np.array([bend, bend]) / scale, (-scale / 2, scale / 2), back=2 * scale)
    pose = course.pose(0.0, offset * scale, turned)
    truth = course.values(pose)
    lane = find_lane(borders_seen(course, pose, 3.5 * scale), [1.0, 1.0], scale, 0.5 * scale)
    assert lane is not None
    assert lane.offset / scale == pytest.approx(truth["offset_lanes"], abs=0.003)
    assert math.degrees(lane.heading) == pytest.approx(truth["heading_deg"], abs=0.3)
    assert lane.curvature * scale == pytest.approx(bend, abs=0.012)
    assert lane.width == pytest.approx(scale, rel=0.01)
    assert lane.confidence > 0.95


def test_lines_that_are_not_parallel_make_a_poor_lane():
    away = np.linspace(0.3, 3, 40)[:, None]
    apart = [away * (-0.5, 1) + (-0.1, 0), away * (0.5, 1) + (0.1, 0)]
    lane = find_lane(apart, [1.0, 1.0], 1.0, 1.0)
    assert lane is None or lane.confidence < 0.5
    beside = [away * (0, 1) + (-0.5, 0), away * (0, 1) + (0.5, 0)]
    assert find_lane(beside, [1.0, 1.0], 1.0, 1.0).confidence > 0.95
