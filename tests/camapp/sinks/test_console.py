import io
import time

import numpy as np

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import LineState, Prediction, ZoneState
from camapp.sinks.console import ConsoleSink

PIXEL = Image.of(np.zeros((2, 2, 3), np.uint8), Layout.RGB)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, *predictions):
    sink = ConsoleSink(lambda: "STATUS", stream)
    sink.start()
    for seq, found in enumerate(predictions):
        prediction = found if isinstance(found, Prediction) else Prediction(seq, "t", found, 0.9)
        sink.accept(prediction, Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq))
    time.sleep(0.4)
    sink.stop()
    return stream.getvalue()


def test_a_line_is_printed_for_each_change_of_label_only():
    text = show(io.StringIO(), "7", "7", "", "4")
    assert [line.split("  ")[1:] for line in text.splitlines() if "frame" in line] == [
        ["frame 0", "7", "90%"],
        ["frame 2", "-"],
        ["frame 3", "4", "90%"],
    ]


def test_a_new_label_has_the_score_of_its_frame_and_not_the_smoothed_one_that_just_crossed_its_threshold():
    text = show(io.StringIO(), Prediction(3, "classify", "cat", 0.54, "cat", 0.987))
    assert "frame 3  cat  99%" in text


def test_objects_and_crossings_are_printed_at_most_once_a_second(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr("camapp.sinks.console.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    sink = ConsoleSink(None, stream)
    square = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0))
    for seq in range(40):
        zone = ZoneState("porch", square, {"dog": 1})
        line = LineState("gate", (0.0, 0.0), (1.0, 0.0), {"person": seq // 20}, {"dog": 1})
        counts = {"person": 2 + seq % 3, "dog": 1}
        found = Prediction(seq, "detect", "person", counts=counts, zones=(zone,), counting_lines=(line,))
        shot = Shot(PIXEL, PIXEL, moment_ns=seq * 50_000_000)
        sink.accept(found, Frame(seq, shot), Trace(seq))
        clock[0] += 0.05
    sink.start()
    sink.stop()
    lines = [line.split("  ", 2)[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "2 person, 1 dog  porch: 1 dog  gate: 0 in, 1 out",
        "4 person, 1 dog  porch: 1 dog  gate: 1 in, 1 out",
    ]


def test_the_status_line_is_rewritten_in_place_on_a_terminal():
    text = show(Terminal(), "7")
    assert "\r\x1b[2K" in text
    assert "STATUS" in text
    assert not text.endswith("STATUS")


def test_a_closed_terminal_ends_the_printing_only():
    stream = Terminal()
    sink = ConsoleSink(lambda: "STATUS", stream)
    stream.close()
    sink.start()
    time.sleep(0.3)
    assert not sink.running
    sink.stop()
