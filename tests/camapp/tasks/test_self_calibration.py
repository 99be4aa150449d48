import math

import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera
from camapp.tasks.lane import Lane
from camapp.tasks.self_calibration import LaneWidthEstimator, PitchEstimator

SIZE = (320, 240)


def camera(size, pitch):
    return GroundCamera.of(size, 1.0, math.radians(pitch), math.radians(66))


def view(pitch, rng, width=3.0, lines=2):
    """Borders `width` camera heights apart, at a random place of a random bend, with noise of half a pixel."""
    true = camera(SIZE, pitch)
    ahead = np.geomspace(1.2, 20, 60)
    offset, heading, bend = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(-0.03, 0.03)
    shown = []
    for beside in (-width / 2, width / 2)[:lines]:
        x = beside - offset * width + ahead * heading + bend * ahead**2 / 2
        pixels, _ = true.project(np.stack([x, ahead], axis=1))
        inside = (pixels >= 0).all(axis=1) & (pixels < SIZE).all(axis=1)
        shown.append(pixels[inside] + rng.normal(0, 0.5, (int(inside.sum()), 2)))
    return [line for line in shown if len(line) > 5]


def estimated(pitch, frames=150, expected=18.0, lines=2):
    rng, estimator = np.random.default_rng(round(pitch)), PitchEstimator(expected, camera)
    path = []
    for _ in range(frames):
        seen = view(pitch, rng, lines=lines)
        if seen:
            estimator.update(seen, [1.0] * len(seen), SIZE)
        path.append(estimator.pitch)
    return path


@pytest.mark.parametrize("pitch", [8.0, 18.0, 28.0, 36.0])
def test_the_pitch_is_found_from_the_lines(pitch):
    path = estimated(pitch)
    assert path[-1] == pytest.approx(pitch, abs=6.0)
    assert abs(path[-1] - pitch) <= max(3.0, 0.65 * abs(18.0 - pitch))


def test_a_single_line_hardly_moves_the_pitch():
    assert estimated(30.0, frames=40, lines=1)[-1] == pytest.approx(18.0, abs=9.0)


def test_lines_that_make_no_lane_leave_the_pitch_as_it_was_expected():
    rng, estimator = np.random.default_rng(0), PitchEstimator(18.0, camera)
    for _ in range(60):
        scribble = [np.cumsum(rng.normal(0, 25, (20, 2)), axis=0) + rng.uniform((0, 0), SIZE) for _ in range(3)]
        estimator.update(scribble, [1.0] * 3, SIZE)
        assert math.isfinite(estimator.pitch)
        assert -9 <= estimator.pitch <= 51
    assert estimator.agreement < 0.5


def test_an_estimate_is_sure_or_has_diverged_once_many_lines_were_seen():
    rng, good, bad = np.random.default_rng(3), PitchEstimator(18.0, camera), PitchEstimator(18.0, camera)
    assert not good.is_sure
    for frame in range(150):
        good.update(view(12.0, rng), [1.0, 1.0], SIZE)
        # Lines across the way.
        across = np.stack([np.linspace(20, 300, 40), np.full(40, 150 + 30 * (frame % 3))], axis=1)
        bad.update([across, across + np.array([0, 20])], [1.0, 1.0], SIZE)
    assert (good.is_sure, good.has_diverged) == (True, False)
    assert (bad.is_sure, bad.has_diverged) == (False, True)
    assert bad.pitch == bad.expected == 18.0


def test_nearly_level_lines_at_the_horizon_are_no_error():
    estimator = PitchEstimator(18.0, camera)
    level = np.stack([np.linspace(0, 300, 20), np.full(20, 5.0)], axis=1)
    for _ in range(5):
        estimator.update([level, level + np.array([0.0, 3.0])], [1.0, 1.0], SIZE)
    assert estimator.pitch == 18.0


def lane(*borders):
    return Lane(0.0, 0.0, 0.0, 1.0, 1.0, points=60, borders=borders)


def test_the_width_is_that_between_the_borders_around_the_car_in_camera_heights():
    estimator = LaneWidthEstimator(4.0)
    assert estimator.width == pytest.approx(4.0, rel=0.05)
    for _ in range(20):
        estimator.update(lane(-1.4, -0.2, 0.35), height=0.2)
    assert estimator.width == pytest.approx(0.55 / 0.2, rel=0.06)


def test_a_border_on_one_side_only_does_not_change_the_width():
    estimator = LaneWidthEstimator(4.0)
    before = estimator.width
    for borders in ((), (0.3,), (-0.3,), (0.2, 0.9)):
        estimator.update(lane(*borders), height=0.2)
    assert estimator.width == before


def test_some_wrong_borders_do_not_change_a_known_width():
    estimator = LaneWidthEstimator(4.0)
    for frame in range(300):
        right = 0.9 if frame % 5 == 0 else 0.3
        estimator.update(lane(-0.3, right), height=0.2)
    assert estimator.width == pytest.approx(3.0, rel=0.06)


@pytest.mark.parametrize("width", [1e-3, 1e3])
def test_impossible_widths_are_bounded(width):
    estimator = LaneWidthEstimator(4.0)
    for _ in range(50):
        estimator.update(lane(-width / 2, width / 2), height=1.0)
    assert 0.25 < estimator.width < 16
