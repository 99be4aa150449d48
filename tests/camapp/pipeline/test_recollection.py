"""What a task learns of a live camera is kept for the next start, and never of a file."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pytest

from camapp.pipeline.recollection import Recollection
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene
from tests.benchmarks.common import ROOT


class Task:
    recalled = None

    def __init__(self, **learned):
        self.values = learned

    def learned(self):
        return self.values

    def recall(self, learned):
        self.recalled = learned


def pipeline(task, live=True, source="v4l2://0"):
    ticks = []
    settings = SimpleNamespace(source=source)
    return SimpleNamespace(
        name="camera",
        settings=settings,
        source=SimpleNamespace(live=live),
        task=task,
        on_tick=ticks.append,
        ticks=ticks,
    )


def kept(folder):
    return json.loads((folder / "remembered.json").read_text())["cameras"]["camera"]["learned"]


def test_the_next_run_with_that_source_starts_from_what_was_learned(tmp_path):
    first = Recollection(pipeline(Task(pitch=12.5)), tmp_path)
    first.save()
    assert kept(tmp_path) == [{"source": "v4l2://0", "pitch": 12.5}]
    for source, recalled in (("v4l2://0", {"pitch": 12.5}), ("v4l2://1", None)):
        run = pipeline(Task(), source=source)
        Recollection(run, tmp_path).save()
        assert run.task.recalled == recalled
    assert kept(tmp_path) == [{"source": "v4l2://0", "pitch": 12.5}]


def test_a_small_change_is_not_worth_a_write(tmp_path):
    run = Recollection(pipeline(task := Task(pitch=12.5)), tmp_path)
    for pitch, expected in ((12.5, 12.5), (12.9, 12.5), (14.0, 14.0)):
        task.values = {"pitch": pitch}
        run.save()
        assert kept(tmp_path)[0]["pitch"] == expected


def test_a_file_leaves_nothing_and_takes_nothing(tmp_path):
    Recollection(pipeline(Task(pitch=12.5)), tmp_path).save()
    run = pipeline(Task(pitch=3.0), live=False)
    Recollection(run, tmp_path).save()
    assert run.task.recalled is None
    assert run.ticks == []
    assert kept(tmp_path)[0]["pitch"] == 12.5


def test_a_folder_that_cannot_be_written_is_reported_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    run = Recollection(pipeline(Task(pitch=12.5)), tmp_path / "file")
    run.save()
    run.save()
    assert caplog.text.count("cannot be kept") == 1


@pytest.mark.slow
def test_a_drive_in_realtime_keeps_its_pitch(tmp_path):
    scene = TrackScene(SceneOptions(size=(160, 120), seed=1, count=1))
    (tmp_path / "tub" / "images").mkdir(parents=True)
    lines = []
    for index in range(100):
        cv2.imwrite(str(tmp_path / "tub" / "images" / f"{index}.png"), scene.render(index)[0][..., ::-1])
        record = {"_index": index, "_timestamp_ms": 60 * index, "cam/image_array": f"{index}.png"}
        lines.append(json.dumps(record) + "\n")
    (tmp_path / "tub" / "catalog_0.catalog").write_text("".join(lines))
    command = [
        *(sys.executable, "-m", "camapp", "--model", "track", "--source", f"tub:{tmp_path / 'tub'}"),
        "--realtime",
    ]
    environment = os.environ | {"STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}

    def run():
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stderr

    assert "starts from the last run" not in run()
    pitch = kept(tmp_path / "state")[0]["camera_pitch_deg"]
    assert 5 < pitch < 35
    assert f"camera starts from the last run: camera_pitch_deg {pitch:g}" in run()
