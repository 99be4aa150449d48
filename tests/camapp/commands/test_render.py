import json
import math
import resource

import cv2
import numpy as np
import pytest

from camapp.commands.render import run_render
from camapp.core.errors import PermanentSourceError, SettingsError
from camapp.core.settings import load_settings
from camapp.scenes.lap import LapScene
from camapp.scenes.scene import SceneOptions

SMALL = "pattern://track?seed=3&size=160x120&fps=5&count=1"


@pytest.mark.parametrize("name", ["lap.mp4", "lap.avi"])
def test_a_video_has_the_truth_of_each_image_beside_it(tmp_path, name):
    line = run_render(SMALL, tmp_path / name, 1.0)
    assert "5 images" in line
    records = [json.loads(text) for text in (tmp_path / "lap.truth.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(5))
    scene = LapScene(SceneOptions((160, 120), 5.0, 3, 1))
    reader = cv2.VideoCapture(str(tmp_path / name))
    for number, record in enumerate(records):
        pixels, truth = scene.render(number)
        assert record["seconds"] == pytest.approx(number / 5)
        assert record["values"] == truth.values
        assert len(record["lines"]) == len(truth.lines)
        shown = reader.read()[1][..., ::-1]
        assert np.abs(shown.astype(int) - pixels).mean() < 12
    assert not reader.read()[0]
    reader.release()
    assert {path.name for path in tmp_path.iterdir()} == {name, "lap.truth.jsonl", "lap.toml"}


def test_the_camera_of_a_track_is_written_as_settings(tmp_path):
    run_render(SMALL, tmp_path / "lap.avi", 0.2)
    settings, camera = load_settings({}, tmp_path / "lap.toml"), LapScene(SceneOptions((160, 120), 5.0, 3, 1)).camera
    assert settings.camera_height == pytest.approx(camera.height, abs=1e-3)
    assert settings.camera_pitch == pytest.approx(math.degrees(camera.pitch), abs=1e-3)
    assert settings.camera_hfov == pytest.approx(math.degrees(camera.across), abs=1e-3)


def test_a_video_of_a_track_is_one_lap_long(tmp_path):
    scene = LapScene(SceneOptions((64, 64), 1.0, 3, 1))
    start, end = scene.pose(0.0), scene.pose(scene.seconds)
    assert math.hypot(start.x - end.x, start.y - end.y) < 1.0
    run_render("pattern://track?seed=3&size=64x64&fps=1&count=1", tmp_path / "lap.avi", None)
    assert len((tmp_path / "lap.truth.jsonl").read_text().splitlines()) == round(scene.seconds)


def test_other_scenes_have_no_camera_settings(tmp_path):
    line = run_render("pattern://digits?size=64x64&fps=5", tmp_path / "digits.avi", 0.4)
    assert "config" not in line
    assert not (tmp_path / "digits.toml").exists()
    assert json.loads((tmp_path / "digits.truth.jsonl").read_text().splitlines()[0])["boxes"]


def test_scenes_and_files_that_cannot_be_rendered_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"ends in .mp4 or .avi"):
        run_render(SMALL, tmp_path / "lap.mov", 1.0)
    with pytest.raises(SettingsError, match="only synthetic scenes"):
        run_render("v4l2://0", tmp_path / "lap.avi", 1.0)
    with pytest.raises(PermanentSourceError, match="unknown option 'lanes'"):
        run_render("pattern://track?lanes=3", tmp_path / "lap.avi", 1.0)
    with pytest.raises(SettingsError, match="No such file"):
        run_render(SMALL, tmp_path / "none" / "lap.avi", 1.0)


@pytest.mark.parametrize("name", ["digits.mp4", "digits.avi"])
def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path, name):
    """A limit on the size of files fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    try:
        with pytest.raises(SettingsError, match="File too large"):
            run_render("pattern://digits?size=320x240&fps=5", tmp_path / name, 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
