from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from camapp.core.errors import SinkError
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
    monkeypatch.setattr(cv2.VideoWriter, "write", lambda self, image: held.wait(10), raising=False)
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


def test_later_sizes_are_scaled_to_the_first_and_odd_ones_work(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoSink(path, lambda: 30.0, live=False)
    sink.start()
    for image in (shade(50, 65, 49), shade(50, 128, 96), shade(50, 1, 1)):
        sink.write(image, 0)
    sink.stop()
    frames, _ = played(path)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.mkv", r"\.mp4 or \.avi"),
        ("out", r"\.mp4 or \.avi"),
        ("no/such/out.mp4", "No such file"),
        ("dir.mp4", "folder"),
    ],
)
def test_paths_that_cannot_be_recorded_to_are_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(SinkError, match=words):
        VideoSink(tmp_path / name, lambda: 30.0).start()


def test_a_path_without_permission_is_refused_as_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SinkError, match="Permission denied") as caught:
        VideoSink(tmp_path / "out.mp4", lambda: 30.0).start()
    assert caught.value.denied


def test_a_full_disk_ends_the_recording_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = [10**9] * 10 + [0]
    space = lambda path: SimpleNamespace(f_bavail=free.pop(0) if len(free) > 1 else free[0], f_frsize=1)  # noqa: E731
    monkeypatch.setattr(os, "statvfs", space)
    path = tmp_path / "out.avi"
    sink = VideoSink(path, lambda: 30.0, live=False, check_s=0.0)
    sink.start()
    for _ in range(100):
        sink.write(shade(9), 0)
    sink.stop()
    assert caplog.text.count("the disk is full") == 1
    frames, _ = played(path)
    assert len(frames) == sink.written == 11


def test_a_file_that_stops_growing_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cv2.VideoWriter, "write", lambda self, image: time.sleep(0.01), raising=False)
    sink = VideoSink(tmp_path / "out.avi", lambda: 30.0, live=False, check_s=0.0, stalled_s=0.05)
    sink.start()
    for _ in range(60):
        sink.write(shade(9), 0)
    sink.stop()
    assert "has not grown" in caplog.text


def test_a_run_without_images_leaves_no_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", lambda: 30.0)
    sink.start()
    sink.stop()
    assert os.listdir(tmp_path) == []


def test_an_earlier_recording_stays_until_the_new_one_is_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "out.avi"
    path.write_bytes(b"old")
    sink = VideoSink(path, lambda: 30.0, live=False)
    sink.start()
    sink.write(shade(1), 0)
    settle(sink)
    assert path.read_bytes() == b"old"
    sink.stop()
    assert len(played(path)[0]) == 1
    assert "recorded 1 frames" in caplog.text
