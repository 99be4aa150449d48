import math

import cv2
import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import Pose, Stripe, bending, circuit
from camapp.scenes.photograph import Look, photograph
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene, random_image, truth_of
from camapp.scenes.trackside import KINDS, View

BORDERS = (-0.61, 0.61)
PLAIN = Look(ground=(60.0, 60.0, 60.0), grain=0.0, grain_size=0.01, backdrop=2)
CAMERA = GroundCamera.of((320, 240), 0.3, 0.3, 1.2)


def view_of(course, pose, camera=CAMERA, look=PLAIN):
    stripes = tuple(Stripe(course.beside(at), 0.06, (250.0,) * 3).seen_from(pose) for at in course.borders)
    return View(camera, stripes, look, course.values(pose))


def visible_lines(view):
    return truth_of(view, photograph(view.stripes, view.look, view.camera)).lines


def test_the_truth_is_in_the_middle_of_the_paint():
    course = bending(20.0, np.array([0.1, -0.15]), BORDERS, back=2.0)
    view = view_of(course, course.pose(0.0, 0.2, 0.1))
    image = photograph(view.stripes, view.look, view.camera)
    lines = [line for line in truth_of(view, image).lines if line.label == "line"]
    assert len(lines) == 2
    checked = 0
    for line in lines:
        points = np.array(line.points)
        along = np.gradient(points, axis=0)
        aside = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
        for point, side in zip(points[2:-8], aside[2:-8], strict=True):
            # The bright pixels across the line are centred on the truth.
            positions = point + np.linspace(-14, 14, 113)[:, None] * side - 0.5
            if (positions < 1).any() or (positions > np.array(CAMERA.size) - 2).any():
                continue
            bright = cv2.remap(image[..., 0], *positions.T.astype(np.float32), cv2.INTER_LINEAR).ravel() > 155
            assert np.linspace(-14, 14, 113)[bright].mean() == pytest.approx(0, abs=0.5)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(("offset", "turned"), [(0.3, 0.0), (-0.3, 0.0), (0.0, 0.2), (0.1, -0.3)])
def test_values_have_the_documented_signs(offset, turned):
    course = bending(20.0, np.array([0.08, 0.08]), BORDERS, back=2.0)
    values = course.values(course.pose(0.0, offset, turned))
    assert values["offset_m"] == pytest.approx(offset, abs=1e-3)
    assert values["offset_lanes"] == pytest.approx(offset / 1.22, abs=1e-3)
    assert values["heading_deg"] == pytest.approx(math.degrees(turned), abs=0.1)
    assert values["curvature_1_m"] == pytest.approx(0.08, rel=0.02)
    # A positive curvature bends to the right.
    assert course.beside(0.0)[-1, 0] > 0


def test_from_the_right_side_of_the_lane_the_lines_are_on_the_left():
    course = bending(20.0, np.zeros(2), BORDERS, back=2.0)
    lines = visible_lines(view_of(course, course.pose(0.0, 0.4)))
    middle = sum(line.points[len(line.points) // 2][0] for line in lines) / len(lines)
    assert middle < 160


def test_the_curvature_of_a_lane_is_that_of_its_middle():
    course = bending(20.0, np.array([0.1, 0.1]), (-1.0, 0.0, 1.0), back=2.0)
    inner = course.values(course.pose(0.0, 0.5))
    assert inner["curvature_1_m"] == pytest.approx(1 / 9.5, rel=0.02)
    assert course.values(course.pose(0.0, 1.5)) == {}


@pytest.mark.parametrize("seed", range(5))
def test_circuits_are_closed_and_bend_both_ways(seed):
    course = circuit(80.0, np.random.default_rng(seed), BORDERS)
    assert np.allclose(course.centre[0], course.centre[-1])
    assert course.along[-1] == pytest.approx(80.0)
    assert course.curvature.min() < -0.01
    assert course.curvature.max() > 0.01
    assert np.abs(course.curvature).max() < 1.2
    turned = math.remainder(course.heading[-1] - course.heading[0], math.tau)
    assert turned == pytest.approx(0, abs=0.02)


def test_every_image_of_a_lap_has_a_truth():
    scene = TrackScene(SceneOptions(size=(160, 120), seed=3, count=2))
    for index in range(0, 3000, 300):
        _, truth = scene.render(index)
        assert set(truth.values) == {"offset_m", "offset_lanes", "heading_deg", "curvature_1_m", "lane_width_m"}
        assert abs(truth.values["offset_lanes"]) < 0.5
        assert abs(truth.values["heading_deg"]) < 15
        assert any(line.label == "line" for line in truth.lines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(160, 120), (90, 160), (320, 180)])
def test_random_images_are_reproducible_and_contain_their_truth(kind, size):
    for seed in range(6):
        image, truth, _ = random_image(seed, size, kind)
        again, truth_again, _ = random_image(seed, size, kind)
        assert np.array_equal(image, again)
        assert truth == truth_again
        assert image.shape == (size[1], size[0], 3)
        assert image.dtype == np.uint8
        for line in truth.lines:
            points = np.array(line.points)
            assert np.isfinite(points).all()
            assert (points >= 0).all()
            assert (points <= size).all()
            assert points[0, 1] >= points[-1, 1]


def test_random_images_without_lines_have_no_values():
    samples = [random_image(seed, (64, 48)) for seed in range(60)]
    empty = [truth for _, truth, view in samples if not any(stripe.is_line for stripe in view.stripes)]
    assert 2 <= len(empty) <= 20
    assert all(not truth.lines and not truth.values for truth in empty)


def test_a_stretched_image_has_the_lines_of_the_unstretched_image():
    _, truth, view = random_image(11, (160, 120), "rubber", shape=(9, 16))
    _, same, unstretched = random_image(11, (90, 160), "rubber")
    assert view.camera.resized((90, 160)).focal == pytest.approx(unstretched.camera.focal)
    assert truth.values == same.values


def test_thin_lines_are_faint():
    course = bending(60.0, np.zeros(2), BORDERS, back=2.0)
    thin = tuple(Stripe(course.beside(at), 0.01, (250.0,) * 3).seen_from(Pose(0, 0, 0)) for at in BORDERS)
    lines = visible_lines(View(CAMERA, thin, PLAIN, {}))
    near = {label: max(line.points[0][1] for line in lines if line.label == label) for label in ("line", "faint")}
    assert near["line"] > near["faint"]
    # Even thinner parts are left out: no line reaches the horizon.
    far = min(point[1] for line in lines for point in line.points)
    assert far > 240 / 2 - CAMERA.focal[1] * 0.3


def test_lines_with_the_colour_of_the_ground_are_faint():
    course = bending(20.0, np.zeros(2), BORDERS, back=2.0)
    for tone, label in ((61.0, "faint"), (120.0, "line")):
        stripes = tuple(Stripe(course.beside(at), 0.06, (tone,) * 3).seen_from(Pose(0, 0, 0)) for at in BORDERS)
        assert max(visible_lines(View(CAMERA, stripes, PLAIN, {})), key=lambda line: len(line.points)).label == label


def test_a_dashed_line_is_one_line_across_its_gaps():
    stripe = Stripe(bending(6.0, np.zeros(2), BORDERS, back=1.0).beside(0.0), 0.06, (250.0,) * 3, dash=(0.2, 0.5))
    lines = [line for line in visible_lines(View(CAMERA, (stripe,), PLAIN, {})) if line.label == "line"]
    assert len(lines) == 1
    assert lines[0].points[0][1] - lines[0].points[-1][1] > 60


def test_an_open_course_never_overlaps_itself():
    course = bending(20.0, np.array([0.6, 0.6]), BORDERS, back=8.0)
    assert np.ptp(course.heading) < 2 * np.pi
    assert np.abs(course.heading).max() > 3
    assert course.along[0] < -2
    assert course.along[-1] > 2
    assert np.allclose(course.centre[int(np.searchsorted(course.along, 0.0))], 0)
