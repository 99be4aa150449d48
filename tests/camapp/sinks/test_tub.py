"""A recorded drive replays bit for bit, and whatever ends the recording leaves whole records."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import camapp
from camapp.capture.source import SourceOptions
from camapp.capture.tub import TubSource
from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace, Truth
from camapp.core.ground_camera import GroundCamera
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.sinks.tub import TubSink
from camapp.system.output_lock import OutputLock
from tests.benchmarks.common import ROOT


def noise(seed, layout=Layout.RGB, size=(32, 24)):
    rng = np.random.default_rng(seed)
    shape = {Layout.GRAY: size[::-1], Layout.I420: (size[1] * 3 // 2, size[0])}.get(layout, (*size[::-1], 3))
    return Image.of(rng.integers(0, 256, shape, dtype=np.uint8), layout)


def give(sink, shots, first=0):
    for seq, shot in enumerate(shots, first):
        prediction = Prediction(seq, "track", "lane", values={"offset_m": seq / 7})
        sink.accept(prediction, Frame(seq, shot), Trace(seq, captured=time.monotonic_ns()))


def recorded(folder, shots, **options):
    sink = TubSink(folder, **options)
    sink.start()
    give(sink, shots)
    sink.stop()
    assert not sink.running
    return sink


def replayed(folder):
    source = TubSource(f"tub:{folder}", SourceOptions())
    source.open()
    shots = [source.read(1.0) for _ in source._records]
    source.close()
    return source, shots


def records(folder):
    return [json.loads(line) for line in (folder / "catalog_0.catalog").read_text().splitlines()]


@pytest.mark.parametrize("layout", [Layout.RGB, Layout.BGR, Layout.GRAY, Layout.I420])
def test_pixels_and_times_return_as_they_were(tmp_path, layout):
    images = [noise(seed, layout) for seed in range(3)]
    moments = [10**15 + 7, 10**15 + 33_333_340, 10**15 + 99_999_999]
    recorded(tmp_path / "drive", [Shot(image, image, moment_ns=at) for image, at in zip(images, moments, strict=True)])
    _, shots = replayed(tmp_path / "drive")
    assert [shot.moment_ns for shot in shots] == moments
    for image, shot in zip(images, shots, strict=True):
        assert np.array_equal(shot.model_view.rgb(), image.rgb())


def test_what_the_source_knew_returns_too(tmp_path):
    camera = GroundCamera.of((64, 48), 0.2, 0.3, 1.2, roll=0.01)
    shot = Shot(noise(1, size=(64, 48)), noise(2), truth=Truth(values={"angle": -0.25}), camera=camera, moment_ns=5)
    recorded(tmp_path / "drive", [shot], learned=lambda: {"camera_pitch_deg": 12.3}, order_of=lambda seq: f"$C,{seq}")
    source, (again,) = replayed(tmp_path / "drive")
    assert (again.camera, again.truth) == (camera, shot.truth)
    assert (again.view.size, again.model_view.size) == ((64, 48), (32, 24))
    assert source.learned == {"camera_pitch_deg": 12.3}
    (record,) = records(tmp_path / "drive")
    assert record["user/angle"] == -0.25
    assert record["camapp/order"] == "$C,0"
    assert record["camapp/prediction"]["values"] == {"offset_m": 0.0}
    assert abs(record["_timestamp_ms"] / 1e3 - time.time()) < 60


def test_the_folder_is_a_tub_of_donkeycar(tmp_path):
    recorded(tmp_path / "drive", [Shot(noise(seed), noise(seed)) for seed in range(3)])
    manifest = [json.loads(line) for line in (tmp_path / "drive" / "manifest.json").read_text().splitlines()]
    assert manifest[0][:2] == ["cam/image_array", "user/angle"]
    assert manifest[4]["paths"] == ["catalog_0.catalog"]
    assert (manifest[4]["current_index"], manifest[4]["deleted_indexes"]) == (3, [])
    lengths = json.loads((tmp_path / "drive" / "catalog_0.catalog_manifest").read_text())["line_lengths"]
    lines = (tmp_path / "drive" / "catalog_0.catalog").read_bytes().splitlines(keepends=True)
    assert lengths == [len(line) for line in lines]
    names = [record["cam/image_array"] for record in records(tmp_path / "drive")]
    assert sorted(os.listdir(tmp_path / "drive" / "images")) == sorted(names)


def test_an_earlier_drive_stays_as_it_is(tmp_path):
    (tmp_path / "drive").mkdir()
    for _ in range(3):
        recorded(tmp_path / "drive", [Shot(noise(1), noise(1))])
    assert sorted(os.listdir(tmp_path)) == ["drive", "drive-2", "drive-3"]
    assert not (tmp_path / "drive" / ".lock").exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot record a drive into"):
        TubSink(tmp_path / "file" / "drive").start()
    # Another run has locked the empty folder in the same moment.
    (tmp_path / "drive").mkdir()
    other = OutputLock(tmp_path / "drive", "other")
    other.acquire()
    monkeypatch.setattr("camapp.sinks.tub._new_folder", lambda path: path)
    with pytest.raises(SinkError, match="camapp 'other'"):
        TubSink(tmp_path / "drive").start()
    other.release()


def test_a_full_disk_costs_frames_which_are_counted(tmp_path, monkeypatch, caplog):
    sink = TubSink(tmp_path / "drive")
    sink.start()
    write = os.write

    def full_from_the_second_on(descriptor, data):
        if data.startswith(b"{") and sink.saved == 1 and sink.lost < 3:
            write(descriptor, data[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full_from_the_second_on)
    give(sink, [Shot(noise(seed), noise(seed), moment_ns=seed) for seed in range(6)])
    sink.stop()
    assert (sink.saved, sink.lost) == (3, 3)
    assert caplog.text.count("No space left") == 2
    _, shots = replayed(tmp_path / "drive")
    assert [shot.moment_ns for shot in shots] == [0, 4, 5]
    assert len(os.listdir(tmp_path / "drive" / "images")) == 3


def run(*arguments):
    command = [sys.executable, "-m", "camapp", "--model", "track", "--workers", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_replay_gives_the_same_predictions_bit_for_bit(tmp_path):
    """Recorded live, with the orders sent to a car."""
    folder, seen = tmp_path / "drive", []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as car:
        car.bind(("127.0.0.1", 0))
        options = {"size": (160, 120), "record_drive": folder, "drive": f"udp://127.0.0.1:{car.getsockname()[1]}"}
        with camapp.watch("pattern://track?seed=3", model="track", workers=1, max_frames=40, **options) as results:
            seen = [result.prediction for result in results]
        car.setblocking(False)
        sent = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                sent.add(car.recv(100).decode().strip())
    with camapp.watch(f"tub:{folder}", model="track", workers=1) as results:
        again = {result.frame.shot.moment_ns: result.prediction for result in results}
    rows = records(folder)
    assert len(again) == len(rows) >= len(seen)
    known = {row["camapp/prediction"]["seq"]: again[row["camapp/moment_ns"]] for row in rows}
    assert any(prediction.label == "lane" for prediction in seen)
    for prediction in seen:
        other = known[prediction.seq]
        for name in ("label", "score", "raw_score", "lines", "values", "region"):
            assert getattr(other, name) == getattr(prediction, name)
    orders = {row["camapp/order"] for row in rows if "camapp/order" in row}
    assert orders
    assert orders <= sent


@pytest.mark.slow
def test_a_killed_recording_leaves_whole_records(tmp_path):
    folder = tmp_path / "drive"
    process = run("--source", "pattern://track?size=160x120", "--record-drive", str(folder))
    deadline = time.monotonic() + 90
    while not (folder / "images").is_dir() or len(os.listdir(folder / "images")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stderr.close()
    source, shots = replayed(folder)
    assert len(shots) >= 4
    assert source.skipped == 0
