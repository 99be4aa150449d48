"""Laps drawn fast show the lines where the plain renderer shows them, and their truth is that of what they draw."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from camapp.capture.orientation import Orientation
from camapp.capture.pattern import PatternSource
from camapp.capture.source import SourceOptions
from camapp.scenes import track
from camapp.scenes.course import Pose
from camapp.scenes.lap import LapScene
from camapp.scenes.photograph import Look
from camapp.scenes.scene import SceneOptions, scene_class
from camapp.scenes.track import TrackScene

SIZE = (480, 360)


def distances(points, line):
    """Return the distance of each point (n, 2) to a polyline."""
    start, step = line[:-1], np.diff(line, axis=0)
    along = ((points[:, None] - start) * step).sum(axis=2) / np.maximum((step**2).sum(axis=1), 1e-9)
    nearest = start + np.clip(along, 0, 1)[..., None] * step
    return np.hypot(*np.moveaxis(points[:, None] - nearest, 2, 0)).min(axis=1)


def lines_of(truth):
    return [np.array(line.points) for line in truth.lines if line.label == "line"]


def test_the_registered_scene_of_a_track_is_the_fast_one():
    assert scene_class("track") is LapScene


@pytest.fixture
def plain_look(monkeypatch):
    """Make tracks with unworn white lines on even ground."""
    look = Look(ground=(60.0, 60.0, 60.0), grain=6.0, grain_size=0.02, backdrop=2, noise=1.0)
    monkeypatch.setattr(track, "random_look", lambda *args, **options: look)
    paint = track.paint
    fresh = {"wear": 0.0, "cover": 1.0, "colour": (235.0, 235.0, 235.0), "dash": None}
    monkeypatch.setattr(track, "paint", lambda *args: [replace(stripe, **fresh) for stripe in paint(*args)])


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.usefixtures("plain_look")
def test_values_lines_and_paint_are_those_of_the_plain_renderer(seed):
    fast, plain = (kind(SceneOptions(size=SIZE, seed=seed)) for kind in (LapScene, TrackScene))
    pose = plain.pose(3.3)
    (image, truth), (plain_image, reference) = fast.seen_from(pose), plain.seen_from(pose)
    assert truth.values == reference.values
    found, expected = lines_of(truth), lines_of(reference)
    assert len(found) == len(expected)
    for one, other in ((found, expected), (expected, found)):
        away = np.concatenate([np.min([distances(line, to) for to in other], axis=0) for line in one])
        # A line may end a little earlier or later: how far it is visible depends on the texture beside it.
        assert np.quantile(away, 0.9) < 0.7
    # The lower half holds no backdrop: what is white there is paint.
    levels = [cv2.blur(part, (3, 3))[SIZE[1] // 2 :].min(axis=2).astype(int) for part in (image, plain_image)]
    white, plain_white = (part > part.mean() + 55 for part in levels)

    def overlap(one):
        return (one & plain_white).sum() / (one | plain_white).sum()

    assert plain_white.sum() > 500
    assert overlap(white) > 0.7
    assert overlap(np.roll(white, 3, axis=1)) < overlap(white) - 0.1


@pytest.mark.usefixtures("plain_look")
def test_the_truth_is_in_the_middle_of_the_paint():
    scene = LapScene(SceneOptions(size=(640, 480), seed=1))
    image, truth = scene.seen_from(scene.pose(3.3))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    steps = np.linspace(-24, 24, 193)
    centres = []
    for points in lines_of(truth):
        along = np.gradient(points, axis=0)
        aside = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
        for point, side in zip(points, aside, strict=True):
            places = point + steps[:, None] * side - 0.5
            inside = (places > 1).all() and (places < np.array(scene.camera.size) - 2).all()
            if inside and point[1] > 200:
                levels = cv2.remap(grey, *places.T.astype(np.float32), cv2.INTER_LINEAR).ravel().astype(float)
                bright = levels > (levels.min() + levels.max()) / 2
                centres.append(steps[bright].mean())
    assert len(centres) > 20
    assert np.abs(np.median(centres)) < 0.3
    assert np.quantile(np.abs(centres), 0.9) < 1.0


@pytest.mark.usefixtures("plain_look")
def test_the_texture_stays_on_the_ground():
    scene = LapScene(SceneOptions(size=SIZE, seed=8))
    camera = scene.camera
    before, after = Pose(0.0, 0.0, 0.3), Pose(0.15 * math.sin(0.3), 0.15 * math.cos(0.3), 0.35)
    images = [scene._picture.draw([], pose, 0)[..., 0].astype(np.float32) for pose in (before, after)]
    x, y = np.meshgrid(np.arange(100, 380) + 0.5, np.arange(200, 300) + 0.5)
    ground, _ = camera.unproject(np.stack([x, y], axis=-1))
    turn = after.heading - before.heading
    ground = ground - (0.0, 0.15)
    moved = np.stack(
        [
            ground[..., 0] * math.cos(turn) - ground[..., 1] * math.sin(turn),
            ground[..., 0] * math.sin(turn) + ground[..., 1] * math.cos(turn),
        ],
        axis=-1,
    )
    pixels = camera.project(moved)[0].astype(np.float32) - 0.5
    expected = images[0][200:300, 100:380]

    def detail(image):
        return (image - cv2.blur(image, (31, 31))).ravel()

    carried = cv2.remap(images[1], pixels, None, cv2.INTER_LINEAR)
    same_place = images[1][200:300, 100:380]
    assert np.corrcoef(detail(carried), detail(expected))[0, 1] > 0.6
    assert abs(np.corrcoef(detail(same_place), detail(expected))[0, 1]) < 0.4


def test_a_standing_car_sees_new_noise_in_each_image():
    scene = LapScene(SceneOptions(size=(160, 120), seed=1))
    pose = scene.pose(1.0)
    (first, _), (second, _), (again, _) = (scene.seen_from(pose, moment) for moment in (1, 2, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


def test_a_turn_shows_another_direction_of_the_backdrop_and_a_full_turn_the_same():
    scene = LapScene(SceneOptions(size=(320, 240), seed=3))
    ahead, aside, again = (scene._picture.draw([], Pose(0.0, 0.0, turn), 0)[:15] for turn in (0.2, 1.8, 0.2 + math.tau))
    assert np.abs(ahead.astype(int) - aside).mean() > 5
    assert np.abs(ahead.astype(int) - again).mean() < 2


def test_the_source_passes_on_its_camera_unless_the_image_is_turned():
    source = PatternSource("pattern://track?size=160x120&seed=2", SourceOptions(realtime=False))
    source.open()
    shot = source.read(1.0)
    assert shot.camera == source.scene.camera
    assert Orientation(rotate=180).shot(shot).camera is None
    digits = PatternSource("pattern://digits?size=160x120", SourceOptions(realtime=False))
    digits.open()
    assert digits.read(1.0).camera is None
