import logging
import os
import re
import shutil
import subprocess
import threading
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from camapp.app import build_cameras, check
from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.sinks.avi import AviWriter
from camapp.sinks.clips import ClipSink
from tests.camapp.tasks.heads import families

SECOND = 1_000_000_000
FPS = 10


def image_of(seq, size=(64, 48)):
    """An image whose grey level encodes the frame number and survives JPEG."""
    width, height = size
    return Image.of(np.full((height, width, 3), seq * 2 % 256, np.uint8), Layout.BGR)


class Camera:
    """Feeds a sink with frames whose time stamps are FPS apart, faster than real time."""

    def __init__(self, sink):
        self.sink = sink
        self.seq = 0

    def show(self, seconds, label="", score=0.9, size=(64, 48), values=None):
        for _ in range(round(seconds * FPS)):
            prediction = Prediction(self.seq, "classify", label, score, label, score, values=values or {})
            view = image_of(self.seq, size)
            shot = Shot(view, view, moment_ns=SECOND + self.seq * SECOND // FPS)
            self.sink.accept(prediction, Frame(self.seq, shot), Trace(self.seq, captured=time.monotonic_ns()))
            self.seq += 1


@pytest.fixture
def start(tmp_path):
    started = []

    def start_sink(*events, **options):
        sink = ClipSink(tmp_path / "clips", events, **{"before": 1.0, "after": 2.0, "blocking": True, **options})
        sink.start()
        started.append(sink)
        return sink

    yield start_sink
    for sink in started:
        sink.stop()


def clips_in(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".avi")


def frames_of(path):
    """Return the frame numbers, from their grey levels, and the frame rate."""
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    found = []
    while (read := video.read())[0]:
        found.append(round(read[1].mean() / 2))
    assert len(found) == video.get(cv2.CAP_PROP_FRAME_COUNT)
    return found, fps


def test_a_clip_shows_the_seconds_before_and_after_a_label_at_their_frame_rate(start, tmp_path):
    sink = start("cat")
    camera = Camera(sink)
    camera.show(4)
    camera.show(3, "cat")
    camera.show(3)
    sink.stop()
    (clip,) = clips_in(tmp_path / "clips")
    assert re.fullmatch(r"000001-\d{8}-\d{6}-cat\.avi", clip.name)
    frames, fps = frames_of(clip)
    assert frames == list(range(30, 61)), "a second before frame 40, where the label begins, and two after"
    assert fps == pytest.approx(FPS, rel=0.01)
    assert sink.saved == 1
    assert os.listdir(tmp_path / "clips") == [clip.name]


def test_ffprobe_can_read_a_clip(start, tmp_path):
    if shutil.which("ffprobe") is None:
        pytest.skip("needs ffprobe")
    sink = start("cat")
    Camera(sink).show(2, "cat", size=(62, 46))
    sink.stop()
    (clip,) = clips_in(tmp_path / "clips")
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", clip]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.stdout.strip(), done.stderr) == ("mjpeg,62,46", "")


def test_a_label_that_appears_again_makes_the_clip_longer(start, tmp_path):
    sink = start("cat")
    camera = Camera(sink)
    for label in ("cat", "", "cat", "", "", ""):
        camera.show(0.8, label)
    sink.stop()
    (clip,) = clips_in(tmp_path / "clips")
    assert frames_of(clip)[0] == list(range(16 + 20 + 1)), "until two seconds after the second event"


def test_a_long_event_is_split_into_clips_of_bounded_length(start, tmp_path):
    sink = start("*", max_clip_s=3.0)
    camera = Camera(sink)
    for index in range(8):
        camera.show(1, f"label {index}")
    sink.stop()
    found = [frames_of(clip)[0] for clip in clips_in(tmp_path / "clips")]
    assert len(found) >= 2
    assert all(len(frames) <= 31 for frames in found)
    assert all(first[-1] < second[0] for first, second in pairwise(found))


def test_an_event_that_cannot_be_parsed_is_refused(tmp_path):
    with pytest.raises(SinkError, match="'many' is not a number"):
        ClipSink(tmp_path, ["score<many"])
    (fault,) = check([load_settings({"model": "cifar10", "clip_on": "catt"}, environment={})]).faults
    assert "no label 'catt': did you mean 'cat'" in str(fault)
    assert not check([load_settings({"model": "cifar10", "clip_on": "cat,score>0.9"}, environment={})]).faults


@pytest.mark.parametrize("events", [{"clip_on": "persn>2"}, {"on_label": "true", "on_label_when": "persn@porch"}])
def test_a_class_that_a_detector_without_labels_of_its_own_does_not_find_is_refused(tmp_path, events):
    model = str(families.yolox(tmp_path / "yolox.onnx"))
    with pytest.raises(SinkError, match="no label 'persn': did you mean 'person'"):
        build_cameras([load_settings({"model": model, "source": "pattern://digits", **events}, environment={})])


def test_two_cameras_cannot_share_a_clips_folder(tmp_path):
    cameras = [load_settings({"name": name, "clip_on": "*", "clips": str(tmp_path)}, environment={}) for name in "ab"]
    (fault,) = check(cameras).faults
    assert "name another" in str(fault)


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="give --clips another folder"):
        ClipSink(tmp_path / "file" / "clips", ["cat"]).start()


def test_a_start_in_vain_leaves_the_folder_unlocked(tmp_path):
    obstacle = tmp_path / ".000001-20260131-142501-cat.avi.partial"
    obstacle.mkdir()
    sink = ClipSink(tmp_path, ["cat"])
    with pytest.raises(SinkError, match="Is a directory"):
        sink.start()
    obstacle.rmdir()
    another = ClipSink(tmp_path, ["cat"])
    another.start()
    another.stop()


def test_the_oldest_clips_are_deleted_first_even_if_the_clock_jumps(start, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    monkeypatch.setitem(globals(), "image_of", lambda *_: Image.of(noise, Layout.BGR))
    hour = -1
    monkeypatch.setattr(time, "strftime", lambda form: f"20260101-{12 + hour:02d}0000")
    sink = start("cat", budget=300_000)
    (tmp_path / "clips" / "holiday.avi").write_bytes(b"not a clip")
    camera = Camera(sink)
    for index in range(12):
        hour = -index % 12
        camera.show(2, "cat")
        camera.show(4)
    sink.stop()
    kept = clips_in(tmp_path / "clips")
    numbered = [path for path in kept if path.name != "holiday.avi"]
    assert sink.saved == 12
    assert 1 < len(numbered) < 12
    assert [path.name[:6] for path in numbered] == [f"{number:06d}" for number in range(13 - len(numbered), 13)]
    assert sum(path.stat().st_size for path in numbered) <= 300_000
    assert (tmp_path / "clips" / "holiday.avi").exists()


def test_a_clip_larger_than_the_budget_is_cut_short(start, tmp_path):
    sink = start("cat", budget=12_000)
    Camera(sink).show(3, "cat")
    sink.stop()
    (clip,) = clips_in(tmp_path / "clips")
    assert 0 < len(frames_of(clip)[0]) < 30
    assert clip.stat().st_size < 14_000


def test_a_budget_below_one_image_makes_no_clip_and_deletes_none(start, tmp_path, caplog):
    (tmp_path / "clips").mkdir()
    old = tmp_path / "clips" / "000001-20260131-142501-cat.avi"
    old.write_bytes(bytes(50))
    sink = start("cat", budget=100)
    Camera(sink).show(3, "cat")
    sink.stop()
    assert clips_in(tmp_path / "clips") == [old]
    assert (sink.saved, sink.lost) == (0, 1)
    assert "no image fits into --clip-budget-mb" in caplog.text


def test_the_seconds_before_an_event_have_a_memory_limit(start, tmp_path):
    sink = start("cat", before=60.0, ring_bytes=8_000)
    camera = Camera(sink)
    camera.show(10)
    camera.show(0.1, "cat")
    sink.stop()
    (clip,) = clips_in(tmp_path / "clips")
    frames = frames_of(clip)[0]
    assert frames[-1] == 100
    assert 2 < len(frames) < 20


def test_an_image_of_another_size_and_a_file_that_starts_again_end_the_clip(start, tmp_path):
    sink = start("*")
    camera = Camera(sink)
    camera.show(1, "a")
    camera.show(1, "b", size=(32, 32))
    camera.seq = 0
    camera.show(1, "c", size=(32, 32))
    sink.stop()
    assert [frames_of(clip)[0] for clip in clips_in(tmp_path / "clips")] == [
        [*range(10)],
        [*range(10, 20)],
        [*range(10)],
    ]


def test_a_silent_source_ends_the_clip(start, tmp_path):
    sink = start("cat", after=0.3)
    Camera(sink).show(0.2, "cat")
    deadline = time.monotonic() + 20
    while not sink.saved:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_slow_encoder_costs_images_of_the_clip_and_never_blocks(start, monkeypatch):
    held, encode = threading.Event(), cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *arguments: held.wait(10) and encode(*arguments))
    sink = start("cat", blocking=False)
    try:
        began = time.monotonic()
        Camera(sink).show(10, "cat")
        assert time.monotonic() - began < 5, "it waited for the encoder"
        assert sink.skipped >= 100 - 4 - 1, "four images are queued, one is being encoded"
    finally:
        held.set()


def test_the_clip_of_a_killed_run_is_finished_and_an_empty_one_removed(start, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / ".000007-20260101-000000-cat.avi.partial").touch()
    with (folder / ".000008-20260101-000000-cat.avi.partial").open("wb", buffering=0) as file:
        writer = AviWriter(file, (64, 48), 10.0)
        for seq in range(20):
            writer.add(cv2.imencode(".jpg", image_of(seq).bgr())[1].tobytes())
        file.write(b"00dc\xff\xff\0\0half an image")
    start("cat")
    assert sorted(os.listdir(folder)) == [".lock", "000008-20260101-000000-cat.avi"]
    assert frames_of(folder / "000008-20260101-000000-cat.avi") == (list(range(20)), 10.0)


def test_a_second_run_with_the_same_folder_is_refused(start, tmp_path):
    start("cat", owner="door")
    with pytest.raises(SinkError, match=rf"camapp 'door' \(process {os.getpid()}\) writes it; give --clips another"):
        start("cat")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small disk")
def test_a_full_disk_costs_clips_until_there_is_room_again(start, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    disk = tmp_path / "clips"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sink = start("cat")
        camera = Camera(sink)
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 60_000)
        camera.show(1, "cat")
        camera.show(4)
        deadline = time.monotonic() + 20
        while not sink.lost:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert sorted(path.name for path in disk.iterdir()) == [".lock", "ballast"]
        assert "No space left" in caplog.text
        ballast.unlink()
        camera.show(1, "cat")
        camera.show(4)
        sink.stop()
        assert sink.saved == 1
        assert len(frames_of(clips_in(disk)[0])[0]) == 31
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
