import csv
import errno
import json
import os
import shutil
import stat
import subprocess
import threading
import time
from datetime import datetime

import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace, Truth
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Polyline, Prediction
from camapp.sinks.jsonl_log import LogSink
from camapp.sinks.log_formats import header
from camapp.sinks.rotating_file import RotatingFile

PIXEL = Image.of(np.zeros((2, 2, 3), np.uint8), Layout.RGB)


def context():
    return {"camera": "camera", "source": "pattern://digits", "fps": 29.97}


def sink_for(path, max_bytes=10_000_000, files=5, **options):
    sink = LogSink(RotatingFile(str(path), max_bytes, files), context, flush_s=0.05, retry_s=0.1, **options)
    sink.start()
    return sink


def send(sink, seq, truth=None):
    trace = Trace(seq, captured=time.monotonic_ns())
    trace.taken = trace.prepared = trace.infer_start = trace.infer_end = trace.decoded = time.monotonic_ns()
    prediction = Prediction(
        seq,
        "digits",
        "41",
        0.98765,
        "41",
        1.0,
        (("41", 0.98765), ("47", 0.01)),
        boxes=(Box(1, 2, 3.25, 4, "4", 0.9),),
        lines=(Polyline(((0, 1), (2, 3)), "left"),),
        values={"count": 2.0},
        model="mnist",
    )
    sink.accept(prediction, Frame(seq, Shot(PIXEL, PIXEL, truth=truth, name="12_7.png")), trace)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_log_named_csv_has_a_header_in_each_file_and_the_fields_of_the_records(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        file = RotatingFile(str(path), 700, 5, header(str(path)))
        sink = LogSink(file, context, flush_s=0.05)
        sink.start()
        for seq in range(3):
            send(sink, seq)
        sink.stop()
    rows = [row for name in ("log.csv.2", "log.csv.1", "log.csv") for row in csv.DictReader((tmp_path / name).open())]
    assert [row["seq"] for row in rows] == ["0", "1", "2"] * 2
    assert {row["label"] for row in rows} == {"41"}
    assert json.loads(rows[0]["boxes"]) == [{"xyxy": [1, 2, 3.2, 4], "label": "4", "score": 0.9}]
    assert json.loads(rows[0]["values"]) == {"count": 2.0}
    assert rows[0]["truth"] == rows[0]["zones"] == ""


def test_a_record_of_a_film_has_its_media_time(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl")
    for moment_ns in (None, 0, 1_234_567_890):
        shot = Shot(PIXEL, PIXEL, name="film.mp4", moment_ns=moment_ns)
        sink.accept(Prediction(0, "classify"), Frame(0, shot), Trace(0, captured=time.monotonic_ns()))
    sink.stop()
    assert [record.get("media_s") for record in read(tmp_path / "log.jsonl")] == [None, 0.0, 1.235]


def test_a_line_has_every_field_of_the_schema(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl")
    send(sink, 7, Truth("41", (Box(0, 0, 1, 1, "4"),), (Polyline(((5, 6), (7, 8))),), {"offset_m": 0.1}))
    sink.stop()
    (record,) = read(tmp_path / "log.jsonl")
    wanted = "schema seq time t_mono_ns clock_synced source model task label score raw_label raw_score top boxes lines"
    assert set(wanted.split()) | {"camera", "values", "latency_ms", "fps", "file", "truth"} == set(record)
    assert record["schema"] == 1
    assert record["seq"] == 7
    assert record["top"] == [["41", 0.9877], ["47", 0.01]]
    assert record["boxes"] == [{"xyxy": [1, 2, 3.2, 4], "label": "4", "score": 0.9}]
    assert record["lines"][0]["points"] == [[0, 1], [2, 3]]
    assert set(record["latency_ms"]) == {"capture", "prepare", "queue", "infer", "decode", "total"}
    assert record["fps"] == 29.97
    assert record["file"] == "12_7.png"
    assert record["truth"]["label"] == "41"
    assert record["truth"]["lines"][0]["points"] == [[5, 6], [7, 8]]
    assert record["truth"]["values"] == {"offset_m": 0.1}
    assert record["time"].endswith("+00:00")


def test_lines_reach_the_disk_in_bounded_time_without_a_stop(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl")
    send(sink, 1)
    deadline = time.monotonic() + 10
    while not (tmp_path / "log.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sink.stop()


def test_rotation_keeps_the_given_number_of_files_and_loses_no_line_of_the_newest(tmp_path):
    path = tmp_path / "log.jsonl"
    sink = sink_for(path, max_bytes=3000, files=3)
    for seq in range(60):
        send(sink, seq)
    sink.stop()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    kept = [record["seq"] for name in ("log.jsonl.2", "log.jsonl.1", "log.jsonl") for record in read(tmp_path / name)]
    assert kept == list(range(kept[0], 60))
    assert all(file.stat().st_size < 4000 for file in tmp_path.iterdir())


def test_rotation_of_a_single_file_empties_it(tmp_path):
    path = tmp_path / "log.jsonl"
    sink = sink_for(path, max_bytes=2000, files=1)
    for seq in range(20):
        send(sink, seq)
    sink.stop()
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_changed_labels_and_a_heartbeat_are_written(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl", heartbeat=10.0)
    labels = ["", *["a"] * 250, *["b"] * 5, "a", *[""] * 3]
    for seq, label in enumerate(labels):
        # Ten frames a second.
        moment = seq * 100_000_000
        sink.accept(Prediction(seq, "digits", label), Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq, captured=moment))
    sink.stop()
    written = [(record["seq"], record["label"]) for record in read(tmp_path / "log.jsonl")]
    assert written == [(0, ""), (1, "a"), (101, "a"), (201, "a"), (251, "b"), (256, "a"), (257, "")]


def test_changed_objects_are_written_once_and_a_changed_label_with_the_score_of_its_frame(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl", heartbeat=10.0)

    def accept(seq, *found, **more):
        sink.accept(Prediction(seq, *found, **more), Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq, captured=seq * 10**8))

    for seq in range(30):
        # The detector misses every third time.
        accept(seq, "detect", "person", counts={"person": 2} if seq % 3 else {})
    accept(30, "classify", "cat", 0.54, "cat", 0.99)
    sink.stop()
    written = read(tmp_path / "log.jsonl")
    assert [record["seq"] for record in written] == [0, 1, 30]
    assert (written[1]["counts"], written[2]["score"]) == ({"person": 2}, 0.99)


def test_a_wall_clock_that_jumps_an_hour_changes_only_the_time_field(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    clock = {"offset": 0.0}
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + clock["offset"])
    sink = sink_for(path, heartbeat=3600.0)
    for seq, offset in enumerate((0.0, 3600.0, -3600.0, 0.0)):
        clock["offset"] = offset
        # The label does not change, and a heartbeat by the wall clock would be due.
        send(sink, seq)
    sink.stop()
    assert [record["seq"] for record in read(path)] == [0]
    sink = sink_for(path)
    for seq, offset in enumerate((3600.0, -3600.0)):
        clock["offset"] = offset
        send(sink, seq)
        time.sleep(0.2)
    sink.stop()
    forth, back = (datetime.fromisoformat(record["time"]) for record in read(path)[1:])
    assert 7100 < (forth - back).total_seconds() < 7201
    stamps = [record["t_mono_ns"] for record in read(path)]
    assert stamps == sorted(stamps)


def test_an_existing_log_is_appended_to(tmp_path):
    path = tmp_path / "log.jsonl"
    for seq in range(2):
        sink = sink_for(path)
        send(sink, seq)
        sink.stop()
    assert [record["seq"] for record in read(path)] == [0, 1]


def test_a_path_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="give --log another path"):
        sink_for(tmp_path / "file" / "log.jsonl")


@pytest.mark.parametrize("capacity", [2000, 5])
def test_a_full_disk_costs_only_the_lines_that_memory_cannot_keep_until_there_is_room(
    tmp_path, monkeypatch, caplog, capacity
):
    path = tmp_path / "log.jsonl"
    sink = sink_for(path, capacity=capacity)
    send(sink, 0)
    time.sleep(0.2)
    full = True
    append = RotatingFile.append

    def no_space(self, line):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, line)

    monkeypatch.setattr(RotatingFile, "append", no_space)
    for seq in range(1, 21):
        send(sink, seq)
        time.sleep(0.02)
    full = False
    time.sleep(0.4)
    sink.stop()
    kept = [record["seq"] for record in read(path)]
    assert kept == [0, *range(21 - min(capacity, 20), 21)]
    assert sink.lost == 20 - min(capacity, 20)
    assert "No space left" in caplog.text
    assert "written again" in caplog.text


def test_a_blocking_log_loses_no_line_at_any_rate(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl", blocking=True, max_bytes=100_000_000)
    for seq in range(5000):
        send(sink, seq)
    sink.stop()
    assert sink.lost == 0
    assert [record["seq"] for record in read(tmp_path / "log.jsonl")] == list(range(5000))


def test_a_file_name_that_is_not_utf8_is_logged(tmp_path):
    sink = sink_for(tmp_path / "log.jsonl")
    prediction = Prediction(0, "digits", "1")
    sink.accept(prediction, Frame(0, Shot(PIXEL, PIXEL, name="x\udcff_1.png")), Trace(0))
    sink.stop()
    assert read(tmp_path / "log.jsonl")[0]["file"] == "x\udcff_1.png"


def test_a_deleted_log_is_created_again(tmp_path):
    path = tmp_path / "log.jsonl"
    sink = sink_for(path)
    send(sink, 0)
    time.sleep(0.2)
    path.unlink()
    send(sink, 1)
    sink.stop()
    assert [record["seq"] for record in read(path)] == [1]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small disk")
def test_a_really_full_disk_leaves_only_whole_lines(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sink = sink_for(disk / "log.jsonl")
        for seq in range(100):
            send(sink, seq)
        time.sleep(0.3)
        sink.stop()
        records = read(disk / "log.jsonl")
        assert 5 < len(records) < 100
        assert len(records) + sink.lost == 100
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_a_second_log_of_the_same_file_is_refused_with_the_name_of_the_first(tmp_path):
    first = sink_for(tmp_path / "log.jsonl", owner="door")
    with pytest.raises(SinkError, match=rf"camapp 'door' \(process {os.getpid()}\) writes it; give --log another path"):
        sink_for(tmp_path / "log.jsonl")
    first.stop()
    sink_for(tmp_path / "log.jsonl").stop()
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_lines_wait_for_the_reader_of_a_pipe_whose_end_ends_the_run(tmp_path, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ended = threading.Event()
    sink = sink_for(pipe, on_broken_pipe=ended.set)
    assert "a pipe without a reader" in caplog.text
    for seq in range(3):
        send(sink, seq)
    with open(pipe, "rb") as reader:
        assert [json.loads(reader.readline())["seq"] for _ in range(3)] == [0, 1, 2]
        send(sink, 3)
        assert json.loads(reader.readline())["seq"] == 3
    send(sink, 4)
    assert ended.wait(10)
    sink.stop()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_never_has_a_reader_delays_no_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sink = sink_for(tmp_path / "pipe", blocking=True)
    for seq in range(3):
        send(sink, seq)
    began = time.monotonic()
    sink.stop()
    assert time.monotonic() - began < 5
    assert sink.lost == 3
