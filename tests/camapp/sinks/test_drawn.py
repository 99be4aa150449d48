"""`--drawn`: each picture at its own size, with its own card, under a name that replaces no other."""

import logging
import os
import shutil
import subprocess
import threading

import cv2
import numpy as np
import pytest

from camapp.app import build_cameras, run_cameras
from camapp.commands.classify.command import run_classify
from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.overlay.overlay import Overlay
from camapp.sinks.drawn import DrawnSink, write_drawn

SIZES = {"a_1.png": (320, 240), "b_0.png": (200, 300), "c_1.png": (640, 360)}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, (width, height) in SIZES.items():
        image = np.zeros((28, 28), np.uint8)
        if name.endswith("_1.png"):
            image[4:24, 13:16] = 255
        else:
            cv2.ellipse(image, (14, 14), (6, 9), 0, 0, 360, 255, 2)
        cv2.imwrite(str(folder / name), cv2.resize(image, (width, height)))
    return folder


def run(source, **settings):
    cameras = build_cameras(
        [load_settings({"source": str(source), "model": "mnist", "workers": 1, **settings}, environment={})]
    )
    (summary,) = run_cameras(cameras)
    return summary


def sizes_in(folder):
    return {path.name: cv2.imread(str(path)).shape[1::-1] for path in folder.iterdir()}


def test_run_writes_each_picture_at_its_own_size_with_its_own_card(pictures, tmp_path):
    drawn = tmp_path / "drawn"
    assert run(pictures, drawn=str(drawn), hud=False).balance.predicted == 3
    assert sizes_in(drawn) == {name.replace(".png", ".jpg"): size for name, size in SIZES.items()}
    # Drawn by themselves, with truth and prediction, they look the same.
    for name, label in (("a_1", "1"), ("b_0", "0"), ("c_1", "1")):
        canvas = cv2.imread(str(pictures / f"{name}.png"))
        prediction = Prediction(0, "digits", label, 1.0, top=((label, 1.0),))
        Overlay().draw(canvas, prediction, None, 0.0, False, truth=name[-1], exact=True)
        written = cv2.imread(str(drawn / f"{name}.jpg"))
        height = canvas.shape[0]
        difference = np.abs(written.astype(int) - canvas)[height // 2 :, :80].mean()
        assert difference < 25, (name, difference)
    run(pictures, drawn=str(drawn))
    assert len(os.listdir(drawn)) == 6, "a second run replaces nothing"


def test_frames_of_a_film_are_numbered_and_a_live_source_is_refused(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    run(tmp_path / "film.avi", drawn=str(tmp_path / "drawn"))
    assert sorted(os.listdir(tmp_path / "drawn")) == [f"film-{number:06d}.jpg" for number in range(3)]
    with pytest.raises(SinkError, match="--record makes a film of a camera"):
        run("pattern://digits?size=320x240", drawn=str(tmp_path / "live"))
    with pytest.raises(SinkError, match="name another"):
        run(tmp_path / "drawn", drawn=str(tmp_path / "drawn"))


@pytest.mark.parametrize("only", [None, "b_0.png"])
def test_classify_writes_them_too_below_the_folders_of_the_pictures(pictures, tmp_path, only):
    (pictures / "more").mkdir()
    shutil.copy(pictures / "a_1.png", pictures / "more")
    settings = load_settings({"model": "mnist", "workers": 1, "drawn": str(tmp_path / "drawn")}, environment={})
    run_classify(settings, [pictures / only if only else pictures])
    found = sorted(str(path.relative_to(tmp_path / "drawn")) for path in (tmp_path / "drawn").rglob("*.jpg"))
    assert found == (["b_0.jpg"] if only else ["a_1.jpg", "b_0.jpg", "c_1.jpg", "more/a_1.jpg"])
    inside = load_settings({"model": "mnist", "drawn": str(pictures / "drawn")}, environment={})
    with pytest.raises(SinkError, match="lies in the folder that is read"):
        run_classify(inside, [pictures])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="give --drawn another folder"):
        DrawnSink(tmp_path / "file" / "drawn").start()


def test_any_name_of_a_picture_can_be_written(tmp_path):
    canvas = np.zeros((8, 8, 3), np.uint8)
    for name in ("10:00.jpg", "b\udce4d.jpg", "100%d.jpg"):
        assert write_drawn(canvas, tmp_path / name).read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small disk")
def test_a_full_disk_costs_pictures_not_the_run(pictures, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        summary = run(pictures, drawn=str(disk))
        assert summary.balance.predicted == 3
        # The first and the second loss are logged, then ever fewer.
        assert caplog.text.count("No space left on device") == 2
        assert all(path.stat().st_size for path in disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_pictures_that_a_slow_disk_leaves_waiting_at_the_end_count_as_lost(tmp_path, monkeypatch, caplog):
    begun, may_go_on = threading.Event(), threading.Event()
    monkeypatch.setattr("camapp.sinks.drawn.write_drawn", lambda *_: begun.set() or may_go_on.wait(10))
    sink = DrawnSink(tmp_path, stop_s=0.05)
    sink.start()
    canvas = np.zeros((4, 4, 3), np.uint8)
    image = Image.of(canvas, Layout.BGR)
    for number in range(3):
        trace = Trace(number)
        sink.accept(Prediction(number, "digits"), Frame(number, Shot(image, image)), trace)
        sink.show(canvas, trace)
        assert begun.wait(10)
    with caplog.at_level(logging.INFO):
        sink.stop()
    may_go_on.set()
    assert "wrote 0 drawn pictures" in caplog.text
    assert ", 2 lost" in caplog.text


def test_the_card_of_an_exact_image_is_never_that_of_the_one_before():
    plain = Image.of(np.full((240, 320, 3), 90, np.uint8), Layout.BGR)
    overlay = Overlay(clock=lambda: 0)
    for score in (0.9, 0.5, 0.7):
        prediction = Prediction(0, "classify", "cat", score, top=(("cat", score),))
        again, alone = plain.bgr().copy(), plain.bgr().copy()
        overlay.draw(again, prediction, None, 0.0, False, exact=True)
        Overlay().draw(alone, prediction, None, 0.0, False)
        assert np.array_equal(again, alone)
