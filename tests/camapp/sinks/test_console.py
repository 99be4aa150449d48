import io
import time

import numpy as np

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.sinks.console import ConsoleSink

PIXEL = Image.of(np.zeros((2, 2, 3), np.uint8), Layout.RGB)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, *labels):
    sink = ConsoleSink(lambda: "STATUS", stream)
    sink.start()
    for seq, label in enumerate(labels):
        sink.accept(Prediction(seq, "t", label, 0.9), Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq))
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
