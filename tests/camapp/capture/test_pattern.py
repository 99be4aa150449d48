import threading
import time

import numpy as np
import pytest

from camapp.capture.pattern import PatternSource
from camapp.capture.source import EndOfStream, SourceOptions, create_source
from camapp.core.errors import PermanentSourceError, SourceLost
from camapp.core.image import Layout

TINY = "pattern://digits?size=64x64&fps=100&seed=3"


def read(source, count):
    source.open()
    try:
        return [source.read(timeout=1.0) for _ in range(count)]
    finally:
        source.close()


def test_shots_are_rgb_with_ground_truth():
    source = create_source("pattern://digits?size=320x240&count=3", SourceOptions())
    (shot,) = read(source, 1)
    assert isinstance(source, PatternSource)
    assert shot.view is shot.model_view
    assert shot.view.layout is Layout.RGB
    assert shot.view.size == (320, 240)
    assert len(shot.truth.label) == len(shot.truth.boxes) == 3


def test_live_frames_come_at_their_scheduled_times():
    source = create_source(TINY, SourceOptions())
    source.open()
    before = time.monotonic_ns()
    shots = [source.read(1.0) for _ in range(20)]
    span = time.monotonic_ns() - before
    assert source.live
    assert source.fps == 100
    stamps = np.array([shot.sensor_ns for shot in shots])
    periods = np.diff(stamps) / 1e7
    assert np.allclose(periods, np.rint(periods), atol=1e-6)
    assert periods.min() >= 1
    assert span >= 0.9 * (stamps[-1] - stamps[0])


def test_a_late_reader_skips_frames_without_a_burst():
    source = create_source(TINY, SourceOptions())
    source.open()
    first = source.read(1.0)
    time.sleep(0.25)
    late, after = source.read(1.0), source.read(1.0)
    assert late.sensor_ns - first.sensor_ns >= 0.24e9
    assert time.monotonic_ns() >= after.sensor_ns > late.sensor_ns
    ideal = create_source(TINY, SourceOptions(realtime=False))
    index = round((late.sensor_ns - first.sensor_ns) / 1e7)
    # The image of that moment, not the next of a queue.
    assert np.array_equal(read(ideal, index + 1)[-1].view.data, late.view.data)


def test_without_realtime_every_frame_comes_at_once():
    source = create_source("pattern://objects?size=64x64&fps=1", SourceOptions(realtime=False))
    start = time.monotonic()
    shots = read(source, 30)
    assert time.monotonic() - start < 5
    assert not source.live
    assert {shot.sensor_ns for shot in shots} == {0}
    assert not np.array_equal(shots[0].view.data, shots[1].view.data)


def test_options_apply_unless_the_uri_sets_a_value():
    options = SourceOptions(size=(128, 96), fps=50)
    assert "128x96 at 50 fps, seed 1" in create_source("pattern://digits", options).describe()
    assert "64x64 at 25 fps, seed 7" in create_source("pattern://digits?size=64x64&fps=25&seed=7", options).describe()
    assert "1280x720 at 30 fps" in create_source("pattern://digits", SourceOptions()).describe()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pattern://desk", "unknown scene 'desk'; known are crossing, digits, objects, track"),
        ("pattern://", "unknown scene ''; known are crossing, digits, objects"),
        ("pattern://digits?sede=1", "unknown option 'sede'; allowed are size, fps, seed, count"),
        ("pattern://digits?size=big", "a size is WIDTHxHEIGHT"),
        ("pattern://digits?size=10x10", "each side may be 64 to 4096"),
        ("pattern://digits?fps=0", "allowed are 1 to 240"),
        ("pattern://digits?fps=nan", "fps 'nan': expected a number"),
        ("pattern://digits?seed=-1", "seed '-1': expected a number"),
        ("pattern://digits?seed=1.5", "whole numbers from 0"),
        ("pattern://digits?count=9", "allowed are 1 to 8"),
        ("pattern://digits?count=0", "allowed are 1 to 8"),
    ],
)
def test_invalid_uris_are_refused_with_the_allowed_values(uri, message):
    with pytest.raises(PermanentSourceError, match=message.replace("?", r"\?")) as caught:
        create_source(uri, SourceOptions())
    assert uri in str(caught.value)


def test_the_wait_for_a_frame_ends_with_the_run_and_a_closed_source_is_an_error():
    source = create_source("pattern://digits?size=64x64&fps=1", SourceOptions())
    with pytest.raises(SourceLost, match="not open"):
        source.read(1.0)
    source.open()
    source.read(1.0)
    source.stopping = threading.Event()
    threading.Timer(0.05, source.stopping.set).start()
    began = time.monotonic()
    with pytest.raises(EndOfStream):
        source.read(1.5)
    assert time.monotonic() - began < 0.8
    source.close()
    source.close()
