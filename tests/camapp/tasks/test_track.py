import math
from dataclasses import replace

import numpy as np
import pytest

from camapp.core.frames import Frame, Shot
from camapp.core.ground_camera import GroundCamera
from camapp.core.image import Image, Layout
from camapp.core.predictions import Polyline
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene
from camapp.tasks import line_decoder
from camapp.tasks.task import TaskOptions, create_task
from camapp.tasks.track import TrackTask
from engine import nets
from engine.nets.track import FIELDS, SUBCELLS

CARD = nets.default_card("track")
NOTHING = np.full((1, 20, 15, 20), -9.0, np.float32)


def output_of(lines, size):
    """Return the output of a perfect net for polylines in an image of this size."""
    shown = [([(x / size[0], y / size[1]) for x, y in line.points], line.label == "faint") for line in lines]
    field = line_decoder.encode(shown, (30, 40))
    raw = field[..., :FIELDS].copy()
    raw[..., 0] = np.where(field[..., 0] > 0, 5, -5)
    return raw.reshape(15, SUBCELLS, 20, SUBCELLS, FIELDS).transpose(1, 3, 4, 0, 2).reshape(1, -1, 15, 20)


def run(task, pixels, output=NOTHING, now_s=0.0, seq=0):
    image = Image.of(pixels, Layout.RGB)
    frame = Frame(seq, Shot(image, image))
    batch = np.zeros((1, *CARD.input_shape), np.float32)
    prepared = task.prepare(frame, batch)
    assert prepared.count == 1
    return task.decode(frame, [output], prepared, int(now_s * 1e9))


def noise(seed=0, size=(160, 120)):
    return np.random.default_rng(seed).integers(40, 200, (size[1], size[0], 3), dtype=np.uint8)


def no_lane(found, reason):
    return found.label.startswith(f"no lane: {reason}") and found.values == {"confidence": 0.0, "age_ms": 0.0}


OTHER_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, *OTHER_SEEDS])
def test_a_perfect_net_gives_the_position_of_the_car(seed):
    scene = TrackScene(SceneOptions(size=(640, 480), seed=seed, count=1))
    camera = scene.camera
    across = 2 * math.atan(320 / camera.focal[0])
    task = create_task(
        "track",
        CARD,
        TaskOptions(
            camera_height=camera.height, camera_pitch=math.degrees(camera.pitch), camera_hfov=math.degrees(across)
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
def test_lines_are_in_pixels_of_the_view(size):
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
        (np.zeros((120, 160, 3), np.uint8), "the image is black"),
        (np.full((120, 160, 3), 255, np.uint8), "the image is white"),
        (np.full((120, 160, 3), 90, np.uint8), "the image is blank"),
        (noise(), "no white line in sight; aim the camera at the track, or see --line-colour"),
    ],
)
def test_an_image_without_lines_has_a_reason(pixels, reason):
    assert no_lane(run(create_task("track", CARD, TaskOptions()), pixels), reason)


def test_lines_of_a_covered_camera_are_ignored():
    scene = TrackScene(SceneOptions(size=(160, 120), seed=0))
    lines = output_of(scene.render(0)[1].lines, (160, 120))
    task = create_task("track", CARD, TaskOptions())
    assert run(task, noise(), lines).label == "lane"
    covered = run(task, np.zeros((120, 160, 3), np.uint8), lines, now_s=0.03)
    assert no_lane(covered, "the image is black")
    assert covered.lines == ()


def test_an_image_that_never_changes_is_frozen():
    scene = TrackScene(SceneOptions(size=(160, 120), seed=0))
    lines = output_of(scene.render(0)[1].lines, (160, 120))
    task = create_task("track", CARD, TaskOptions())
    for frame in range(30):
        assert run(task, noise(), lines, frame / 30).label == "lane"
    assert no_lane(run(task, noise(), lines, 1.5), "the image is frozen")
    assert [run(task, noise(1 + i), lines, 1.6 + i / 30).label for i in range(5)][-1] == "lane"


def test_the_age_of_a_lane_is_that_of_its_image():
    # A frozen camera repeats its last image: a control program needs the age at once, not after a second.
    scene = TrackScene(SceneOptions(size=(160, 120), seed=0))
    lines = output_of(scene.render(0)[1].lines, (160, 120))
    task = create_task("track", CARD, TaskOptions())
    moving = [run(task, noise(frame), lines, frame / 30).values["age_ms"] for frame in range(5)]
    assert moving == [0.0] * 5
    still = [run(task, noise(4), lines, (4 + frame) / 30).values["age_ms"] for frame in range(1, 10)]
    assert still == pytest.approx([1000 * frame / 30 for frame in range(1, 10)], abs=0.1)


def test_lines_above_the_horizon_are_not_a_lane():
    # Level lines fit in neither orientation.
    line = type("Line", (), {"points": ((10.0, 30.0), (150.0, 30.0)), "label": ""})
    task = create_task("track", CARD, TaskOptions(camera_pitch=0.0))
    found = run(task, noise(), output_of([line], (160, 120)))
    assert no_lane(found, "all lines lie above the horizon (--camera-pitch is 0; see")


@pytest.mark.parametrize("seed", [4, *OTHER_SEEDS])
@pytest.mark.parametrize("known", [True, False])
def test_only_an_upside_down_camera_is_reported(seed, known):
    size = (320, 240)
    scene = TrackScene(SceneOptions(size=size, seed=seed))
    camera = scene.camera
    options = (
        TaskOptions(
            camera_height=camera.height,
            camera_pitch=math.degrees(camera.pitch),
            camera_hfov=math.degrees(camera.across),
        )
        if known
        else TaskOptions()
    )
    upright, hanging = create_task("track", CARD, options), create_task("track", CARD, options)
    for frame in range(12):
        pixels, truth = scene.render(30 * frame)
        found = run(upright, pixels, output_of(truth.lines, size), frame)
        assert found.label == "lane"
        turned = [replace(line, points=tuple((320 - x, 240 - y) for x, y in line.points)) for line in truth.lines]
        found = run(hanging, pixels[::-1, ::-1], output_of(turned, size), frame)
        assert frame == 0 or no_lane(found, "the image seems upside down")


def test_a_camera_turned_over_during_a_run_is_reported_within_seconds():
    size = (320, 240)
    scene = TrackScene(SceneOptions(size=size, seed=4))
    _, truth = scene.render(0)
    turned = [replace(line, points=tuple((320 - x, 240 - y) for x, y in line.points)) for line in truth.lines]
    task = create_task("track", CARD, TaskOptions())
    for frame in range(30):
        assert run(task, noise(frame), output_of(truth.lines, size), frame / 30).label == "lane"
    labels = [run(task, noise(frame), output_of(turned, size), frame / 30) for frame in range(30, 180)]
    assert no_lane(labels[-1], "the image seems upside down")


def test_without_any_setting_the_offset_in_lanes_and_the_heading_are_right_after_a_second():
    size = (320, 240)
    scene = TrackScene(SceneOptions(size=size, seed=3, count=1))
    across = math.degrees(scene.camera.across)
    task = create_task("track", CARD, TaskOptions(camera_hfov=across))
    errors = []
    for frame in range(60):
        _, truth = scene.render(5 * frame)
        found = run(task, noise(frame, size), output_of(truth.lines, size), frame / 10)
        if frame >= 30:
            errors.append([found.values[name] - truth.values[name] for name in ("offset_lanes", "heading_deg")])
    offset, heading = np.median(np.abs(errors), axis=0)
    assert offset < 0.05
    assert heading < 4


def driven(task, frames=90, seed=1):
    """Drive on a generated course with a perfect net; return the last prediction."""
    scene = TrackScene(SceneOptions(size=(160, 120), seed=seed, count=1))
    for frame in range(frames):
        truth = truth_at(scene, frame)
        found = run(task, noise(frame), output_of(truth, (160, 120)), frame / 30)
    return found


def truth_at(scene, frame):
    """Return the borders of the course as the scene's camera sees them, without drawing an image."""
    lines = []
    for stripe in (stripe.seen_from(scene.pose(frame / 30)) for stripe in scene.stripes if stripe.is_line):
        pixels, seen = scene.camera.project(stripe.path)
        near = seen & (np.hypot(*stripe.path.T) < 12) & ((pixels > 0) & (pixels < (160, 120))).all(axis=1)
        starts = np.flatnonzero(np.diff(near.astype(int), prepend=0, append=0))
        for first, last in zip(starts[::2], starts[1::2], strict=True):
            if last - first > 3:
                lines.append(Polyline(tuple(map(tuple, pixels[first:last].tolist()))))
    return lines


def test_what_was_learned_is_where_the_next_run_starts():
    first = create_task("track", CARD, TaskOptions())
    assert first.learned() == {}
    found = driven(first)
    learned = first.learned()
    assert found.values["camera_pitch_deg"] == pytest.approx(learned["camera_pitch_deg"], abs=0.01)
    second = create_task("track", CARD, TaskOptions())
    second.recall(learned | {"unknown": 1.0})
    assert driven(second, frames=1).values["camera_pitch_deg"] == pytest.approx(learned["camera_pitch_deg"], abs=2)
    third = create_task("track", CARD, TaskOptions())
    third.take_over(first)
    assert third.recalled == learned
    # Numbers that no estimate can have, such as from a file that was edited.
    second.recall({"camera_pitch_deg": 1e9, "lane_width_heights": -3.0})
    assert math.isfinite(driven(second, frames=2).values["offset_m"])


def test_a_given_pitch_outranks_what_was_learned_and_is_not_shown_as_estimated():
    task = create_task("track", CARD, TaskOptions(camera_pitch=21.0))
    task.recall({"camera_pitch_deg": 5.0, "lane_width_heights": 2.0})
    found = driven(task)
    assert found.label == "lane"
    assert "camera_pitch_deg" not in found.values
    assert task.learned() == {}


def test_an_estimate_that_diverges_is_logged_once(caplog):
    across = [Polyline(tuple((x, y) for x in range(10, 150, 5))) for y in (70.0, 95.0)]
    task = create_task("track", CARD, TaskOptions())
    for frame in range(150):
        found = run(task, noise(frame), output_of(across, (160, 120)), frame / 30)
    assert no_lane(found, "no line leads along the car's way (--camera-pitch is 18, estimated; see")
    assert [record.levelname for record in caplog.records if "fit no pitch" in record.message] == ["WARNING"]


def test_a_known_lane_width_gives_metres_without_the_height():
    size = (320, 240)
    scene = TrackScene(SceneOptions(size=size, seed=3, count=1))
    _, truth = scene.render(0)
    camera = scene.camera
    known = {"camera_hfov": math.degrees(camera.across), "camera_pitch": math.degrees(camera.pitch)}
    for options in ({"lane_width": truth.values["lane_width_m"]}, {"camera_height": camera.height}):
        task = create_task("track", CARD, TaskOptions(**known, **options))
        for frame in range(20):
            found = run(task, noise(frame, size), output_of(truth.lines, size), frame / 30)
        assert found.values["lane_width_m"] == pytest.approx(truth.values["lane_width_m"], rel=0.07)
        assert found.values["offset_m"] == pytest.approx(truth.values["offset_m"], abs=0.03)


def test_a_car_across_its_lane_is_not_upside_down():
    # Only one border, at 35 degrees to the car: an upside-down camera sees almost the same.
    camera = GroundCamera.of((640, 480), 0.3, math.radians(18), math.radians(66))
    away = np.linspace(0.2, 3, 50)[:, None] * [-math.sin(0.6), math.cos(0.6)] + [0.4, 0.0]
    pixels, _ = camera.project(away)
    shown = pixels[(pixels >= 0).all(axis=1) & (pixels < (640, 480)).all(axis=1)]
    line = Polyline(tuple(map(tuple, shown.tolist())))
    found = run(create_task("track", CARD, TaskOptions()), noise(size=(640, 480)), output_of([line], (640, 480)))
    assert found.label == "lane"
    assert found.values["heading_deg"] == pytest.approx(math.degrees(0.6), abs=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_nan_and_infinity_are_never_reported(value):
    found = run(create_task("track", CARD, TaskOptions()), noise(), np.full_like(NOTHING, value))
    assert all(math.isfinite(number) for number in found.values.values())
    assert all(math.isfinite(number) for line in found.lines for point in line.points for number in point)


def test_the_two_lines_beside_the_car_are_labelled():
    scene = TrackScene(SceneOptions(size=(640, 480), seed=1, count=1))
    across = math.degrees(2 * math.atan(320 / scene.camera.focal[0]))
    options = TaskOptions(
        camera_height=scene.camera.height, camera_pitch=math.degrees(scene.camera.pitch), camera_hfov=across
    )
    pixels, truth = scene.render(0)
    found = run(create_task("track", CARD, options), pixels, output_of(truth.lines, (640, 480)))
    near = {line.label: line.points[0][0] for line in found.lines if line.label}
    assert set(near) == {"left", "right"}
    assert near["left"] < near["right"]


@pytest.mark.parametrize("options", [{"camera_hfov": 190.0}, {"camera_pitch": 95.0}])
def test_impossible_cameras_raise_an_error(options):
    with pytest.raises(ValueError, match=r"camera|field of view"):
        create_task("track", CARD, TaskOptions(**options))


def test_the_camera_that_a_source_knows_is_used_unless_a_setting_of_the_camera_is_given():
    scene = TrackScene(SceneOptions(size=(640, 480), seed=1, count=1))
    pixels, truth = scene.render(30)
    output = output_of(truth.lines, (640, 480))
    image = Image.of(pixels, Layout.RGB)

    def offset(camera, **settings):
        task = create_task("track", CARD, TaskOptions(**settings))
        frame = Frame(0, Shot(image, image, camera=camera))
        prepared = task.prepare(frame, np.zeros((1, *CARD.input_shape), np.float32))
        return task.decode(frame, [output], prepared, 0).values["offset_m"]

    assert offset(scene.camera) == pytest.approx(truth.values["offset_m"], abs=0.03)
    assert offset(scene.camera, lane_width=1.22) == pytest.approx(truth.values["offset_m"], abs=0.03)
    given = {"camera_height": 0.9}
    assert offset(scene.camera, **given) == offset(None, **given)
