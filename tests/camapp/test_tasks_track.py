import math

import numpy as np
import pytest

from camapp.picture import Layout, Picture
from camapp.records import Frame, Shot
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene
from camapp.tasks import linefield
from camapp.tasks.task import TaskOptions, create_task
from camapp.tasks.track import TrackTask
from engine import nets
from engine.nets.track import FIELDS, SUBCELLS

CARD = nets.default_card("track")
NOTHING = np.full((1, 20, 15, 20), -9.0, np.float32)


def output_of(lines, size):
    """What a perfect net says of polylines in a picture of that size."""
    shown = [([(x / size[0], y / size[1]) for x, y in line.points], line.label == "faint") for line in lines]
    field = linefield.write(shown, (30, 40))
    raw = field[..., :FIELDS].copy()
    raw[..., 0] = np.where(field[..., 0] > 0, 5, -5)
    return raw.reshape(15, SUBCELLS, 20, SUBCELLS, FIELDS).transpose(1, 3, 4, 0, 2).reshape(1, -1, 15, 20)


def run(task, pixels, output=NOTHING, now_s=0.0, seq=0):
    picture = Picture.of(pixels, Layout.RGB)
    frame = Frame(seq, Shot(picture, picture))
    batch = np.zeros((1, *CARD.input_shape), np.float32)
    prepared = task.prepare(frame, batch)
    assert prepared.count == 1
    return task.decode(frame, [output], prepared, int(now_s * 1e9))


def noise(seed=0, size=(160, 120)):
    return np.random.default_rng(seed).integers(40, 200, (size[1], size[0], 3), dtype=np.uint8)


def no_lane(found, reason):
    return found.label.startswith(f"no lane: {reason}") and found.values == {"confidence": 0.0, "age_ms": 0.0}


@pytest.mark.parametrize("seed", range(4))
def test_a_perfect_net_tells_where_the_car_is(seed):
    scene = TrackScene(SceneOptions(size=(640, 480), seed=seed, count=1))
    camera = scene.camera
    across = 2 * math.atan(320 / camera.focal[0])
    task = create_task(
        "track",
        CARD,
        TaskOptions(
            camera_height=camera.height, camera_pitch=math.degrees(camera.pitch), camera_view=math.degrees(across)
        ),
    )
    assert isinstance(task, TrackTask)
    errors = []
    for index in range(0, 600, 60):
        task.reset()
        pixels, truth = scene.render(index)
        found = run(task, pixels, output_of(truth.lines, (640, 480)))
        assert found.label == "lane"
        errors.append([found.values[name] - truth.values[name] for name in ("offset_lanes", "heading_deg")])
    offset, heading = np.median(np.abs(errors), axis=0)
    assert offset < 0.02
    assert heading < 0.7


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (720, 1280)])
def test_lines_come_in_the_views_pixels(size):
    line = type("Line", (), {"points": ((0.3 * size[0], 0.9 * size[1]), (0.4 * size[0], 0.4 * size[1])), "label": ""})
    found = run(create_task("track", CARD, TaskOptions()), noise(size=size), output_of([line], size))
    (shown,) = found.lines
    ends = np.array(shown.points[0]) / size, np.array(shown.points[-1]) / size
    assert ends[0] == pytest.approx((0.3, 0.9), abs=0.04)
    assert ends[1] == pytest.approx((0.4, 0.4), abs=0.04)
    assert shown.score > 0.9
    assert found.region.x1 == size[0]
    assert found.region.y1 == size[1]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((120, 160, 3), np.uint8), "the picture is black"),
        (np.full((120, 160, 3), 255, np.uint8), "the picture is white"),
        (np.full((120, 160, 3), 90, np.uint8), "the picture is blank"),
        (noise(), "no line in sight"),
    ],
)
def test_a_camera_that_sees_nothing_says_why(pixels, reason):
    assert no_lane(run(create_task("track", CARD, TaskOptions()), pixels), reason)


def test_lines_in_a_covered_camera_are_not_believed():
    scene = TrackScene(SceneOptions(size=(160, 120), seed=0))
    lines = output_of(scene.render(0)[1].lines, (160, 120))
    task = create_task("track", CARD, TaskOptions())
    assert run(task, noise(), lines).label == "lane"
    covered = run(task, np.zeros((120, 160, 3), np.uint8), lines, now_s=0.03)
    assert no_lane(covered, "the picture is black")
    assert covered.lines == ()


def test_a_picture_that_never_changes_is_frozen():
    scene = TrackScene(SceneOptions(size=(160, 120), seed=0))
    lines = output_of(scene.render(0)[1].lines, (160, 120))
    task = create_task("track", CARD, TaskOptions())
    for frame in range(30):
        assert run(task, noise(), lines, frame / 30).label == "lane"
    assert no_lane(run(task, noise(), lines, 1.5), "the picture is frozen")
    assert run(task, noise(1), lines, 1.6).label == "lane"


def test_lines_above_the_horizon_ask_whether_the_camera_is_upside_down():
    line = type("Line", (), {"points": ((60.0, 30.0), (100.0, 4.0)), "label": ""})
    task = create_task("track", CARD, TaskOptions(camera_pitch=0.0))
    found = run(task, noise(), output_of([line], (160, 120)))
    assert no_lane(found, "all lines lie above the horizon; is the camera upside down")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_numbers_that_are_none_never_get_out(value):
    found = run(create_task("track", CARD, TaskOptions()), noise(), np.full_like(NOTHING, value))
    assert all(math.isfinite(number) for number in found.values.values())
    assert all(math.isfinite(number) for line in found.lines for point in line.points for number in point)


def test_the_two_lines_beside_the_car_are_named():
    scene = TrackScene(SceneOptions(size=(640, 480), seed=1, count=1))
    across = math.degrees(2 * math.atan(320 / scene.camera.focal[0]))
    options = TaskOptions(
        camera_height=scene.camera.height, camera_pitch=math.degrees(scene.camera.pitch), camera_view=across
    )
    pixels, truth = scene.render(0)
    found = run(create_task("track", CARD, options), pixels, output_of(truth.lines, (640, 480)))
    near = {line.label: line.points[0][0] for line in found.lines if line.label}
    assert set(near) == {"left", "right"}
    assert near["left"] < near["right"]


@pytest.mark.parametrize("options", [{"camera_height": 0.0}, {"camera_view": 190.0}, {"camera_pitch": 95.0}])
def test_cameras_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=r"camera|field of view"):
        create_task("track", CARD, TaskOptions(**options))
