"""`camapp collect`: images by timer, by key and from files, and what can go wrong."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.snapshot import CollectSink
from camapp.tasks.collect import CollectTask, LabelBoard
from camapp.tasks.task import TaskOptions
from engine.model import ModelCard

ROOT = Path(__file__).resolve().parents[3]
QUIET = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}


def collect(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "camapp", "collect", *map(str, arguments)],
        cwd=ROOT, env=QUIET | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def feed(sink, count, interval_s=0.1, size=(40, 30)):
    for seq in range(count):
        image = Image.of(np.full((size[1], size[0], 3), 2 * seq, np.uint8), Layout.RGB)
        trace = Trace(seq, captured=int((100 + seq * interval_s) * 1e9))
        sink.accept(Prediction(seq, "classify"), Frame(seq, Shot(image, image)), trace)
        while sink.pending > 2:
            time.sleep(0.001)


def saved(sink, folder):
    sink.stop()
    return [int(path.stem.rpartition("-")[2]) for path in sorted(folder.iterdir(), key=lambda path: path.stem[-6:])]


def start(folder, **options):
    sink = CollectSink(lambda: folder, **{"every": None, "fps": lambda: None, **options})
    sink.start()
    return sink


def test_a_timer_saves_images_at_its_own_rate(tmp_path):
    sink = start(tmp_path / "cup", every=0.25)
    feed(sink, 21)
    assert saved(sink, tmp_path / "cup") == [0, 3, 5, 8, 10, 13, 15, 18, 20]


def test_the_timer_of_a_file_uses_the_time_of_its_frames(tmp_path):
    sink = start(tmp_path / "cup", every=0.5, fps=lambda: 10.0)
    feed(sink, 12, interval_s=0.0)
    assert saved(sink, tmp_path / "cup") == [0, 5, 10]


@pytest.mark.parametrize(
    ("fps", "every", "step"), [(10.0, 0.1, 1), (30.0, 0.1, 3), (29.97, 1 / 29.97, 1), (24.0, 0.125, 3)]
)
def test_rounded_times_of_a_file_leave_no_frame_out(tmp_path, fps, every, step):
    sink = start(tmp_path / "cup", every=every, fps=lambda: fps)
    feed(sink, 40, interval_s=0.0)
    assert saved(sink, tmp_path / "cup") == list(range(0, 40, step))


def test_a_key_saves_the_next_frame_only(tmp_path):
    sink = start(tmp_path / "cup")
    feed(sink, 2)
    sink.request()
    feed(sink, 2)
    assert saved(sink, tmp_path / "cup") == [0]


def test_the_image_is_what_the_model_looks_at_without_drawing(tmp_path):
    sink = start(tmp_path / "cup", every=0.1, parts={"": (0.5, 0, 0.5, 1)}, limit=1)
    feed(sink, 5)
    assert saved(sink, tmp_path / "cup") == [0]
    (path,) = (tmp_path / "cup").iterdir()
    image = cv2.imread(str(path))
    assert image.shape == (30, 20, 3)
    assert (image == 0).all()


def test_regions_of_a_frame_are_files_of_their_own(tmp_path):
    sink = start(tmp_path / "cup", every=0.1, parts={"left": (0, 0, 0.5, 1), "right": (0.5, 0, 0.25, 1)}, limit=3)
    feed(sink, 5)
    sink.stop()
    found = sorted(
        (path.stem.rpartition("-")[2], cv2.imread(str(path)).shape[1]) for path in (tmp_path / "cup").iterdir()
    )
    assert found == [("left", 20), ("left", 20), ("right", 10)]


def test_a_full_disk_leaves_no_half_image_and_is_counted(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    sink = start(tmp_path / "cup", every=0.1)
    feed(sink, 3)
    assert saved(sink, tmp_path / "cup") == []
    assert (sink.saved, sink.lost, sink.reason) == (0, 3, "No space left on device")


def test_frames_are_stored_by_label_and_counted(tmp_path):
    done = collect("--label", "cup", "--into", tmp_path, "--every", 0.1, "--count", 4, "--source",
                   "pattern://objects?size=320x240&fps=30", "--display", "none")  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "cup").iterdir())
    assert len(files) == 4
    assert all(cv2.imread(str(file)).shape == (240, 320, 3) for file in files)
    assert "4 images of 'cup' saved, 4 are in" in done.stderr
    again = collect("--label", "cup", "--into", tmp_path, "--source", tmp_path / "cup")
    assert again.returncode == 0, again.stderr
    assert "4 images of 'cup' saved, 8 are in" in again.stderr


def test_no_worker_is_started_and_every_frame_of_a_file_passes(tmp_path):
    board = LabelBoard({"cup": 0})
    settings = load_settings(
        {"source": "pattern://digits?size=80x64", "realtime": False, "max_frames": "7"}, environment={}
    )
    pipeline = Pipeline(settings, task=type("BoardTask", (CollectTask,), {"board": board}))
    started = []
    pipeline.on_tick(lambda: started.extend(pipeline.inference.pool.processes()))
    summary = pipeline.run()
    assert started == []
    assert pipeline.workers == 0
    assert (summary.balance.captured, summary.balance.predicted) == (7, 7)
    assert pipeline.status().figures.workers_busy == 0


def test_the_labels_are_switched_and_counted_and_no_model_is_asked(tmp_path):
    board = LabelBoard({"cup": 2, "pen": 0})
    task = type("BoardTask", (CollectTask,), {"board": board})(ModelCard("any", input_shape=(3, 8, 8)), TaskOptions())
    image = Image.of(np.zeros((30, 40, 3), np.uint8), Layout.RGB)
    frame = Frame(0, Shot(image, image))
    prepared = task.prepare(frame, np.zeros((1, 3, 8, 8), np.float32))
    assert prepared.count == 0
    before = task.decode(frame, [], prepared, 0)
    assert (before.hint, before.boxes) == ("cup: 2 images", ())
    board.choose("pen")
    board.saved(tmp_path / "pen" / "1.jpg")
    after = task.decode(frame, [], prepared, 0)
    assert after.hint == "pen: 1 image"
    assert after.values == {"1 cup": 2.0, "2 pen": 1.0}
    assert [(box.label, box.x1, box.y1) for box in after.boxes] == [("pen 1", 40, 30)]


def test_another_label_has_its_own_folder(tmp_path):
    label = ["cup"]
    sink = CollectSink(lambda: tmp_path / label[0], None, lambda: None)
    sink.start()
    for name in ("cup", "pen", "pen"):
        label[0] = name
        sink.request()
        feed(sink, 1)
    sink.stop()
    assert {home.name: len(list(home.iterdir())) for home in tmp_path.iterdir()} == {"cup": 1, "pen": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "a/b"], "--label 'a/b': a label is the name of a folder, such as cup"),
        (["--label", ".cup"], "--label '.cup': a label is"),
        (["--label", " "], "--label ' ': a label is"),
        (["--label", "CUP", "--into", "{folder}"], "--label CUP: {folder} has 'cup', which differs only in case"),
        (["--label", "cup", "--display", "none"], "there is no window for the space bar: give --every SECONDS"),
    ],
)
def test_mistakes_give_one_line(tmp_path, arguments, message):
    (tmp_path / "cup").mkdir()
    done = collect("--source", "pattern://objects", *(text.format(folder=tmp_path) for text in arguments))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"camapp: {message.format(folder=tmp_path)}")
