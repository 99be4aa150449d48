"""What stands on the ground hides lines, a floor mirrors lamps, and coloured tape is never a line."""

from dataclasses import replace

import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import Pose, Stripe, bending
from camapp.scenes.decoys import coloured, coverings, papers, scenery, tapes
from camapp.scenes.photograph import Band, Joints, Look, Thing, photograph
from camapp.scenes.track import truth_of
from camapp.scenes.trackside import View

CAMERA = GroundCamera.of((320, 240), 0.3, 0.3, 1.2)
PLAIN = Look(ground=(60.0, 60.0, 60.0), grain=0.0, grain_size=0.01, backdrop=2)
COURSE = bending(20.0, np.zeros(2), (-0.4, 0.4), back=2.0)
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)


def truth(look):
    stripes = tuple(Stripe(COURSE.beside(at), 0.06, (250.0,) * 3).seen_from(Pose(0, 0, 0)) for at in COURSE.borders)
    view = View(CAMERA, stripes, look, {})
    return [line for line in truth_of(view, photograph(stripes, look, CAMERA)).lines if line.label == "line"]


def box(x, y, half, height, colour=(200.0, 0.0, 0.0)):
    return Thing(SQUARE * half + (x, y), height, (Band(0, 1, colour),))


def length(lines):
    return sum(float(np.hypot(*np.diff(np.array(line.points), axis=0).T).sum()) for line in lines)


def test_a_line_continues_past_a_post_that_hides_a_short_part():
    free, hidden = truth(PLAIN), truth(replace(PLAIN, things=[box(0.4, 1.0, 0.05, 0.2)]))
    assert len(hidden) == len(free) == 2
    assert length(hidden) == pytest.approx(length(free), rel=0.03)


def test_a_line_ends_at_a_wall():
    wall = box(0.0, 1.6, 0.7, 2.0)
    lines = truth(replace(PLAIN, things=[wall]))
    assert len(lines) == 2
    top, _ = CAMERA.project(np.array([0.4, 0.9]))
    assert all(min(y for _, y in line.points) > top[1] - 4 for line in lines)


def test_the_car_hides_lines_but_its_cables_do_not():
    bonnet = np.array([[0.0, 1.1], [0.0, 0.6], [1.0, 0.6], [1.0, 1.1]])
    cable = np.array([[0.0, 0.7], [1.0, 0.7], [1.0, 0.705], [0.0, 0.705]])
    lines = truth(replace(PLAIN, body=[(bonnet, (200.0, 0.0, 0.0))]))
    assert len(lines) == 2
    assert all(point[1] <= 0.6 * 240 for line in lines for point in line.points)
    thin = truth(replace(PLAIN, body=[(cable, (200.0, 0.0, 0.0))]))
    assert length(thin) == pytest.approx(length(truth(PLAIN)), rel=0.05)


def test_a_thing_stands_upright_from_its_base_to_its_height():
    image = photograph([], replace(PLAIN, things=[box(0.0, 2.0, 0.1, 0.3)], light=np.ones((2, 2))), CAMERA)
    red = image[..., 0] > image[..., 1].astype(int) + 50
    rows = np.flatnonzero(red.any(axis=1))
    (foot, _), (level, _) = CAMERA.project(np.array([0.0, 1.9])), CAMERA.project(np.array([0.0, 1e6]))
    assert rows[-1] == pytest.approx(foot[1], abs=2)
    # It is as high as the camera: its top is on the horizon.
    assert rows[0] == pytest.approx(level[1], abs=2)


def test_lamps_are_mirrored_in_the_floor_only():
    look = replace(PLAIN, lamps=[(SQUARE * (0.1, 0.6) + (0, 6), 150.0)], ceiling=2.5, reach=8.0)
    bright = photograph([], look, CAMERA).astype(int) - photograph([], replace(look, lamps=()), CAMERA)
    rows = np.flatnonzero((bright > 100).any(axis=(1, 2)))
    below = replace(CAMERA, height=2.8)
    ends = [below.project(np.array([0.0, ahead]))[0][1] for ahead in (6.6, 5.4)]
    assert rows[[0, -1]] == pytest.approx(ends, abs=2)


def test_joints_of_tiles_are_as_far_apart_as_their_spacing():
    look = replace(PLAIN, joints=Joints(0.5, 0.02, 0.0, (0.0, 0.0, 0.0), 1.0, one_way=True))
    image = photograph([], look, CAMERA)
    for x, dark in ((0.0, True), (0.25, False), (0.5, True)):
        column, row = np.rint(CAMERA.project(np.array([x, 0.8]))[0] - 0.5).astype(int)
        assert (image[row, column, 0] < 40) == dark


def test_tape_that_is_not_white_is_no_line():
    rng = np.random.default_rng(0)
    for instead in (True, False):
        for _ in range(50):
            assert not any(
                stripe.is_line for stripe in tapes(COURSE, 90.0, rng, instead) + coverings(COURSE, 0.3, rng, instead)
            )
    # A colour has a channel well below white.
    assert all(min(coloured(rng)) < 180 for _ in range(300))


@pytest.mark.parametrize("kind", ["floor", "asphalt"])
def test_scenery_can_always_be_drawn(kind):
    rng = np.random.default_rng(1)
    camera = GroundCamera.of((64, 48), 0.3, 0.3, 2.0, bend=0.9)
    for _ in range(40):
        look = replace(PLAIN, **scenery(kind, camera, rng, empty=False), patches=papers(camera, rng))
        assert photograph([], look, camera).shape == (48, 64, 3)
