from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.core.frames import Trace
from camapp.sinks.snapshot import SnapshotSink


def test_only_the_image_after_a_request_is_saved(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path / "shots")
    sink.start()
    for seq in range(5):
        if seq == 3:
            sink.request()
        image = np.full((20, 30, 3), seq, np.uint8)
        sink.show(image, Trace(seq))
        image[:] = 255
    sink.stop()
    (file,) = (tmp_path / "shots").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-000003\.png", file.name)
    assert (cv2.imread(str(file)) == 3).all()


def test_a_folder_that_cannot_be_created_is_reported_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "shots"
    blocked.write_text("a file where the folder should be")
    sink = SnapshotSink(blocked)
    sink.start()
    sink.request()
    sink.show(np.zeros((2, 2, 3), np.uint8), None)
    while not caplog.records:
        time.sleep(0.01)
    assert "cannot save the snapshot" in caplog.text
    blocked.unlink()
    sink.request()
    sink.show(np.zeros((2, 2, 3), np.uint8), None)
    sink.stop()
    assert sink.saved == 1


def test_two_runs_that_save_in_the_same_second_keep_both_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20260131-142501")
    for shade in (10, 200):
        sink = SnapshotSink(tmp_path)
        sink.start()
        sink.request()
        sink.show(np.full((4, 4, 3), shade, np.uint8), None)
        sink.stop()
    saved = sorted(tmp_path.iterdir())
    assert [path.name for path in saved] == ["20260131-142501-notice-2.png", "20260131-142501-notice.png"]
    assert [int(cv2.imread(str(path)).mean()) for path in saved] == [200, 10]
