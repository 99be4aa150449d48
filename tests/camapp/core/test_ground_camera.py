import math

import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera

CAMERAS = [
    GroundCamera.of((640, 480), 0.3, 0.3, 1.2),
    GroundCamera.of((720, 1280), 1.4, 0.5, 1.1, roll=0.1),
    GroundCamera.of((160, 120), 0.2, 0.4, 2.4, roll=-0.2, bend=0.9),
    GroundCamera.of((640, 360), 0.2, 0.2, 1.9, bend=0.6).resized((160, 120)),
]


@pytest.mark.parametrize("camera", CAMERAS)
def test_unprojecting_the_pixels_of_ground_points_returns_the_points(camera):
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0.5, 12, 20))
    ground = np.stack([x, y], axis=-1) * camera.height * 3
    pixels, seen = camera.project(ground)
    back, sees_ground = camera.unproject(pixels)
    assert seen.all()
    assert sees_ground.all()
    assert np.allclose(back, ground, rtol=1e-6, atol=1e-6)


def test_right_is_right_near_is_low_and_the_pitch_places_the_horizon():
    camera = GroundCamera.of((640, 480), 0.3, 0.3, 1.2)
    pixels, _ = camera.project(np.array([[0.5, 2.0], [-0.5, 2.0], [0.0, 1.0], [0.0, 1e9]]))
    assert pixels[0, 0] > 320 > pixels[1, 0]
    assert pixels[2, 1] > pixels[0, 1]
    assert pixels[3] == pytest.approx((320, 240 - camera.focal[1] * math.tan(0.3)), abs=1e-3)


def test_with_a_roll_to_the_right_the_horizon_rises_to_the_right():
    camera = GroundCamera.of((640, 480), 0.3, 0.3, 1.2, roll=0.2)
    (left, right), _ = camera.project(np.array([[-1e6, 1e7], [1e6, 1e7]]))
    assert right[1] < left[1]


@pytest.mark.parametrize("bend", [0.0, 0.8])
def test_the_field_of_view_is_the_requested_one(bend):
    camera = GroundCamera.of((640, 480), 1.0, 0.0, 2.0, bend=bend)
    (edge,), _ = camera.project(np.array([[math.tan(1.0) * 1e6, 1e6]]))
    assert edge[0] == pytest.approx(640, abs=0.01)


def test_sky_is_not_ground_and_points_behind_the_camera_are_not_visible():
    camera = GroundCamera.of((640, 480), 0.3, 0.3, 1.2)
    _, sees_ground = camera.unproject(np.array([[320.0, 5.0], [320.0, 470.0]]))
    assert sees_ground.tolist() == [False, True]
    _, seen = camera.project(np.array([[0.0, -5.0]]))
    assert not seen[0]


@pytest.mark.parametrize(
    "numbers",
    [(0.0, 0.3, 1.2, 0.0), (math.nan, 0.3, 1.2, 0.0), (0.3, 1.7, 1.2, 0.0), (0.3, 0.3, 3.2, 0.0), (0.3, 0.3, 1.2, 1.6)],
)
def test_impossible_cameras_are_refused(numbers):
    height, pitch, across, bend = numbers
    with pytest.raises(ValueError, match=r"camera|field of view"):
        GroundCamera.of((640, 480), height, pitch, across, bend=bend)
