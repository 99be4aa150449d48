import math

import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera
from camapp.tasks.upside_down import UpsideDownDetector, convergence

SIZE = (320, 240)


def borders(pitch, offset=0.1, heading=0.1, curvature=0.0):
    """Two borders, a camera height apart each way, as a camera with this pitch (degrees) sees them."""
    camera = GroundCamera.of(SIZE, 0.3, math.radians(pitch), math.radians(70))
    ahead = np.geomspace(0.4, 6, 60)
    lines = []
    for beside in (-0.3, 0.3):
        x = beside - offset + ahead * heading + curvature * ahead**2 / 2
        pixels, _ = camera.project(np.stack([x, ahead], axis=1))
        lines.append(pixels[(pixels >= 0).all(axis=1) & (pixels < SIZE).all(axis=1)])
    return lines


@pytest.mark.parametrize("pitch", [0, 10, 20, 35])
@pytest.mark.parametrize("curvature", [-0.4, 0.0, 0.4])
def test_lines_of_a_track_come_together_towards_the_top_at_any_pitch(pitch, curvature):
    lines = borders(pitch, curvature=curvature)
    upright = convergence(lines)
    assert upright > 0.2
    assert convergence([SIZE - line for line in lines]) == pytest.approx(-upright, abs=1e-6)


def test_one_line_or_lines_beside_each_other_in_height_say_nothing():
    first, second = borders(20)
    assert convergence([first]) is None
    assert convergence([first, second - (0, 400)]) is None
    detector = UpsideDownDetector()
    for frame in range(100):
        detector.update([SIZE - first], frame * 33_000_000)
    assert not detector.upside_down


def test_a_second_of_the_opposite_is_no_turn_and_a_turned_camera_is_found_within_seconds():
    upright, turned = borders(20), [SIZE - line for line in borders(20)]
    detector, now = UpsideDownDetector(), 0

    def show(lines, seconds):
        nonlocal now
        for _ in range(round(30 * seconds)):
            now += 33_333_333
            detector.update(lines, now)
        return detector.upside_down

    assert not show(upright, 5)
    assert not show(turned, 1)
    assert show(turned, 5)
    assert show(turned, 60)
    assert not show(upright, 6)
