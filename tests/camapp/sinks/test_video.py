from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.sinks import film_files
from camapp.sinks.encoders import JpegEncoder, h264_encoder
from camapp.sinks.mp4 import H264
from camapp.sinks.video import VideoSink


def shade(value: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def played(path: Path) -> tuple[list[np.ndarray], float]:
    video = cv2.VideoCapture(str(path))
    assert video.isOpened()
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            break
        frames.append(frame)
    fps = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return frames, fps


def settle(sink: VideoSink) -> None:
    deadline = time.monotonic() + 20
    while sink.pending and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".AVI"])
def test_frames_of_a_file_are_written_once_each(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    sink = VideoSink(path, lambda: 25.0, live=False)
    sink.start()
    for index in range(40):
        sink.write(shade(index * 6), 0)
    sink.stop()
    frames, fps = played(path)
    assert (len(frames), round(fps), sink.skipped) == (40, 25, 0)
    assert np.abs(np.array([frame.mean() for frame in frames]) - np.arange(40) * 6).max() < 6
    assert os.listdir(tmp_path) == [path.name]


def test_live_images_are_repeated_and_skipped_to_keep_real_time(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    sink = VideoSink(path, lambda: 30.0)
    sink.start()
    stamps = [*np.arange(0, 1, 1 / 60), *np.arange(1, 2, 1 / 10), 5.0]
    for stamp in stamps:
        sink.write(shade(200 if stamp >= 5 else 20), int(stamp * 1e9))
        settle(sink)
    sink.stop()
    frames, _ = played(path)
    assert abs(len(frames) - 151) <= 1
    assert frames[-1].mean() > 150
    assert frames[-2].mean() < 50


def test_a_slow_encoder_never_blocks_live_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(JpegEncoder, "write", lambda self, image: held.wait(10))
    sink = VideoSink(tmp_path / "out.avi", lambda: 30.0)
    sink.start()
    start = time.monotonic()
    for _ in range(50):
        sink.write(shade(1), time.monotonic_ns())
    assert time.monotonic() - start < 5, "it waited for the encoder"
    assert sink.skipped >= 40
    held.set()
    sink.stop()


def test_an_overloaded_encoder_sets_the_clock_back_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = VideoSink(tmp_path / "out.avi", lambda: 30.0)
    sink.start()
    for second in range(4):
        sink.write(shade(1), second * 3_000_000_000)
        settle(sink)
        time.sleep(0.02)
        sink.skipped += 1
    sink.stop()
    frames, _ = played(tmp_path / "out.avi")
    assert len(frames) < 10
    assert caplog.text.count("plays too fast") == 1


def test_later_sizes_fit_into_the_first_on_black_and_odd_ones_work(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoSink(path, lambda: 30.0, live=False)
    sink.start()
    for image in (shade(200, 65, 49), shade(200, 32, 96), shade(200, 1, 1)):
        sink.write(image, 0)
    sink.stop()
    frames, _ = played(path)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert frames[1][24, 32].mean() > 180
    assert frames[1][24, :20].mean() < 20, "a tall image is not stretched"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.mkv", r"\.mp4 or \.avi"),
        ("out", r"\.mp4 or \.avi"),
        ("file/out.mp4", "give --record another path"),
        ("dir.mp4", "folder"),
    ],
)
def test_paths_that_cannot_be_recorded_to_are_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=words):
        VideoSink(tmp_path / name, lambda: 30.0).start()


def test_a_path_without_permission_is_refused_as_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(film_files, "create_new", refuse)
    with pytest.raises(SinkError, match="Permission denied") as caught:
        VideoSink(tmp_path / "out.mp4", lambda: 30.0).start()
    assert caught.value.denied


def test_missing_folders_are_created(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "new" / "er" / "out.avi", lambda: 30.0, live=False)
    sink.start()
    sink.write(shade(9), 0)
    sink.stop()
    assert len(played(tmp_path / "new" / "er" / "out.avi")[0]) == 1


def test_a_full_disk_interrupts_the_recording_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = [10**9] * 11 + [0] * 5 + [10**9]
    space = lambda path: SimpleNamespace(f_bavail=free.pop(0) if len(free) > 1 else free[0], f_frsize=1)  # noqa: E731
    monkeypatch.setattr(os, "statvfs", space)
    sink = VideoSink(tmp_path / "out.avi", lambda: 30.0, live=False, check_s=0.0)
    sink.start()
    for _ in range(30):
        sink.write(shade(9), 0)
    sink.stop()
    assert caplog.text.count("the disk is full") == 1
    assert sink.lost == 1
    parts = [len(played(tmp_path / name)[0]) for name in ("out.avi", "out-2.avi")]
    assert sum(parts) == sink.written
    assert sum(parts) + sink.skipped in (30, 31), "one image may have been written when the disk was found full"
    assert parts[0] == 12
    assert parts[1] > 10


def test_an_encoder_that_fails_or_stalls_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not h264_encoder():
        pytest.skip("needs ffmpeg with an H.264 encoder")
    sink = VideoSink(tmp_path / "out.mp4", lambda: 25.0, live=False)
    sink.start()
    for index in range(60):
        sink.write(shade(index * 4, 640, 480), 0)
        if index == 20:
            settle(sink)
            sink._stalled_s = sink._wait_s = 0.3
            # Stopped, not killed: it takes images until its pipe is full.
            sink._encoder._process.send_signal(signal.SIGSTOP)
    sink.stop()
    assert "continues in a new file" in caplog.text
    assert "MPEG-4" in sink_name(tmp_path / "out-2.mp4")


def test_an_encoder_whose_stream_cannot_be_stored_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not h264_encoder():
        pytest.skip("needs ffmpeg with an H.264 encoder")
    # Such as that of a chip that sends its parameter sets elsewhere.
    monkeypatch.setattr(H264, "_SPS", 31)
    sink = VideoSink(tmp_path / "out.mp4", lambda: 25.0, live=False)
    sink.start()
    for index in range(120):
        sink.write(shade(index * 2, 640, 480), 0)
    sink.stop()
    assert caplog.text.count("no parameter sets; the recording continues in a new file") == 1
    (film,) = tmp_path.iterdir()
    assert sink_name(film) == "MPEG-4"
    assert len(played(film)[0]) > 10


def sink_name(path: Path) -> str:
    return "MPEG-4" if b"mp4v" in path.read_bytes()[:2000] else "H.264"


def test_a_run_without_images_leaves_no_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", lambda: 30.0)
    sink.start()
    sink.stop()
    assert os.listdir(tmp_path) == []


def test_no_recording_replaces_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "out.avi"
    path.write_bytes(b"old")
    for count in (1, 2):
        sink = VideoSink(path, lambda: 30.0, live=False)
        sink.start()
        for _ in range(count):
            sink.write(shade(1), 0)
        sink.stop()
    assert path.read_bytes() == b"old"
    assert [len(played(tmp_path / name)[0]) for name in ("out-2.avi", "out-3.avi")] == [1, 2]
    assert "recorded 1 frames" in caplog.text
    assert "Motion JPEG" in caplog.text


def test_a_second_run_with_the_same_path_is_refused(tmp_path: Path) -> None:
    first = VideoSink(tmp_path / "out.mp4", lambda: 30.0, owner="door")
    first.start()
    with pytest.raises(SinkError, match=rf"camapp 'door' \(process {os.getpid()}\) writes it; give --record another"):
        VideoSink(tmp_path / "out.mp4", lambda: 30.0).start()
    first.stop()
    VideoSink(tmp_path / "out.mp4", lambda: 30.0).start()


NAMES = [
    "2024-01-01T10:00:00.mp4",
    "cam 1: [door] #5.mp4",
    "-x.mp4",
    "b\udce4d.mp4",
    "what?.mp4",
    "http:.avi",
    "a%%b.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_recorded_to(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = VideoSink(Path(name), lambda: 30.0, live=False)
    sink.start()
    for _ in range(3):
        sink.write(shade(100), 0)
    sink.stop()
    (written,) = os.listdir(tmp_path)
    assert written == name.replace("%%", "%")
    shutil.move(written, "plain" + Path(name).suffix)
    assert len(played(tmp_path / ("plain" + Path(name).suffix))[0]) == 3


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from camapp.sinks.video import VideoSink
sink = VideoSink(Path(sys.argv[1]), lambda: 25.0, live=False)
sink.start()
for index in range(100_000):
    image = np.full((96, 128, 3), index % 250, np.uint8)
    image[:, : index % 128] = 255
    sink.write(image, 0)
    if index == 80:
        print("recording", flush=True)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_killed_recording_can_be_played_and_the_next_start_finishes_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "recording\n"
        time.sleep(0.15)
        run.kill()
    left, _ = played(path)
    assert len(left) >= 25, "all but the last second or two"
    sink = VideoSink(path, lambda: 25.0, live=False)
    sink.start()
    sink.write(shade(1, 128, 96), 0)
    sink.stop()
    assert sorted(os.listdir(tmp_path)) == [f"film-2{suffix}", path.name]
    finished = cv2.VideoCapture(str(path))
    assert len(left) <= finished.get(cv2.CAP_PROP_FRAME_COUNT) <= len(left) + 1
    finished.set(cv2.CAP_PROP_POS_FRAMES, 20)
    ok, frame = finished.read()
    assert ok
    assert abs(float(frame[:, 60:].mean()) - float(left[20][:, 60:].mean())) < 2
