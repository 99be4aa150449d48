from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Prediction
from camapp.sinks.label_command import LabelCommandSink

PIXEL = Image.of(np.zeros((1, 1, 3), np.uint8), Layout.RGB)


def send(sink: LabelCommandSink, label: str, seq: int = 0) -> None:
    sink.accept(Prediction(seq, "digits", label, 0.875), Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def recording(path: Path) -> str:
    return f"sh -c 'echo $CAMAPP_CAMERA$CAMAPP_LABEL $CAMAPP_SCORE $CAMAPP_SEQ >> {path}'"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_changed_label_runs_the_program_with_the_prediction(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = LabelCommandSink(recording(out), every=0.0, camera="door:")
    sink.start()
    for seq, label in enumerate(["", "7", "7", "", ""]):
        send(sink, label, seq)
    assert until(lambda: lines(out) == ["door:7 0.8750 1"])
    send(sink, "7", 5)
    assert until(lambda: len(lines(out)) == 2), "the label is new again after an empty one"
    sink.stop()
    assert (sink.started, sink.lost) == (2, 0)


def test_events_run_it_one_after_the_other_with_their_label_count_and_score(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"sh -c 'echo $CAMAPP_EVENT $CAMAPP_LABEL $CAMAPP_COUNT $CAMAPP_SCORE >> {out}'"
    sink = LabelCommandSink(script, every=0.0, events=["person>1", "dog"])
    sink.start()
    boxes = (Box(0, 0, 1, 1, "person", 0.5), Box(0, 0, 1, 1, "person", 0.75), Box(0, 0, 1, 1, "dog", 0.875))
    for seq, counts in enumerate([{"person": 1}, {"person": 2, "dog": 1}, {}, {"person": 2}]):
        found = Prediction(seq, "detect", "person", counts=counts, boxes=boxes)
        shot = Shot(PIXEL, PIXEL, moment_ns=seq * 100_000_000)
        sink.accept(found, Frame(seq, shot), Trace(seq))
    assert until(lambda: lines(out) == ["dog dog 1 0.8750", "person>1 person 2 0.7500"])
    sink.stop()
    assert sink.started == 2


def test_a_changed_label_is_passed_with_the_score_of_its_frame(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = LabelCommandSink(recording(out), every=0.0)
    sink.start()
    sink.accept(Prediction(1, "classify", "7", 0.54, "7", 0.9921), Frame(1, Shot(PIXEL, PIXEL)), Trace(1))
    assert until(lambda: lines(out) == ["7 0.9921 1"])
    sink.stop()


def test_no_shell_reads_the_command_or_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `touch` reads the ';' as a file name.
    monkeypatch.chdir(tmp_path)
    sink = LabelCommandSink(f"touch '{tmp_path}/a b' ; {tmp_path}/$HOME", every=0.0)
    sink.start()
    send(sink, f"$(touch {tmp_path}/evil)")
    assert until(lambda: (tmp_path / "a b").exists())
    sink.stop()
    assert not (tmp_path / "evil").exists()


def test_quick_changes_start_it_at_the_minimum_interval_with_the_newest_label(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = LabelCommandSink(recording(out), every=0.4)
    sink.start()
    send(sink, "first")
    assert until(lambda: len(lines(out)) == 1)
    start = time.monotonic()
    for number in range(50):
        send(sink, f"label{number}")
    took = time.monotonic() - start
    assert took < 10, "one after another they would have taken 20 s"
    assert until(lambda: lines(out)[-1].startswith("label49"))
    sink.stop()
    assert len(lines(out)) <= 2 + took / 0.4


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pid = tmp_path / "pid"
    sink = LabelCommandSink(f"sh -c 'sleep 60 & echo $! > {pid}; wait'", every=0.0, timeout_s=0.3)
    sink.start()
    send(sink, "7")
    assert until(lambda: sink.lost == 1)
    assert "killed after 0.3 s" in caplog.text
    sleeper = int(pid.read_text())
    assert until(lambda: not _runs(sleeper))
    sink.stop()


def test_stop_does_not_wait_long_for_the_program(tmp_path: Path) -> None:
    sink = LabelCommandSink("sleep 60", every=0.0)
    sink.start()
    send(sink, "7")
    assert until(lambda: sink.started == 1)
    start = time.monotonic()
    sink.stop()
    assert time.monotonic() - start < 2.5
    assert not sink.running


def test_failures_are_counted_and_logged_sparingly(caplog: pytest.LogCaptureFixture) -> None:
    sink = LabelCommandSink("sh -c 'exit 3'", every=0.0)
    sink.start()
    for number in range(6):
        send(sink, str(number))
        assert until(lambda number=number: sink.lost == number + 1)  # type: ignore[misc]
    sink.stop()
    assert caplog.text.count("exit code 3") == 3
    assert "(4 of 4 runs failed)" in caplog.text


def test_a_program_may_end_by_any_signal(caplog: pytest.LogCaptureFixture) -> None:
    sink = LabelCommandSink("sh -c 'kill -35 $$'", every=0.0)
    sink.start()
    send(sink, "cat")
    assert until(lambda: sink.lost == 1)
    assert sink.running
    sink.stop()
    assert "ended by signal 35" in caplog.text


@pytest.mark.parametrize(
    ("command", "words", "denied"),
    [
        ("", "empty", False),
        ("   ", "empty", False),
        ("'unclosed", "cannot read", False),
        ("no-such-program-here -x", "'no-such-program-here' was not found", False),
        ("{tmp}/plain.txt", "not executable", True),
    ],
)
def test_a_command_that_cannot_run_is_refused_at_the_start(
    tmp_path: Path, command: str, words: str, denied: bool
) -> None:
    (tmp_path / "plain.txt").write_text("x")
    with pytest.raises(SinkError, match=words) as caught:
        LabelCommandSink(command.replace("{tmp}", str(tmp_path))).start()
    assert caught.value.denied is denied


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
