"""`auto` chooses a Pi camera, else a webcam, else the pattern."""

import time
from pathlib import Path

import pytest

from camapp.capture import auto
from camapp.capture.source import Source, SourceOptions, create_source
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceLost
from camapp.system.video_devices import VideoNode

CAMERA = {"Model": "imx708", "Num": 0, "Id": "/base/soc/i2c@1/imx708@1a"}
GOOD = VideoNode(Path("/dev/video2"), "HD Webcam", None)
META = VideoNode(Path("/dev/video3"), "HD Webcam", PermanentSourceError("/dev/video3 gives no images"))


class Recorder(Source):
    """Stands for any source that auto may choose."""

    made: list = []  # noqa: RUF012 - emptied by the fixture
    broken: dict = {}  # noqa: RUF012

    def __init__(self, uri, options):
        super().__init__(uri, options)
        self.made.append(self)
        self.live, self.fps, self.closed = uri != "file", 25.0, 0

    def open(self):
        if self.uri in self.broken:
            raise self.broken[self.uri]

    def read(self, timeout):
        return self.uri, timeout

    def close(self):
        self.closed += 1

    def describe(self):
        return f"the {self.uri}"

    @property
    def remaining_orientation(self):
        return False, False, 90


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the cameras of the machine (or the error of listing them) and its nodes."""
    recorder = type("FreshRecorder", (Recorder,), {"made": [], "broken": {}})
    monkeypatch.setattr(auto, "create_source", recorder)

    def has(cameras, nodes=()):
        def pi_cameras():
            if isinstance(cameras, Exception):
                raise cameras
            return cameras

        monkeypatch.setattr(auto, "find_spec", lambda name: object())
        monkeypatch.setattr(auto, "pi_cameras", pi_cameras)
        monkeypatch.setattr(auto, "video_nodes", lambda: list(nodes))
        return recorder

    return has


def opened():
    source = auto.AutoSource("auto", SourceOptions(rotate=90))
    source.open()
    return source


def test_a_pi_camera_comes_first(machine):
    machine([CAMERA], [GOOD])
    source = opened()
    assert source.uri == "picamera://0"
    assert source.read(0.5) == ("picamera://0", 0.5)


def test_a_busy_pi_camera_is_retried_and_not_replaced(machine):
    recorder = machine([CAMERA], [GOOD])
    recorder.broken["picamera://0"] = SourceLost("busy")
    source = auto.AutoSource("auto", SourceOptions())
    for _ in range(2):
        with pytest.raises(SourceLost, match="busy"):
            source.open()
        source.close()
    recorder.broken.clear()
    source.open()
    assert [made.uri for made in recorder.made] == ["picamera://0"]


def test_without_a_pi_camera_the_first_webcam_with_an_image_is_chosen(machine):
    busy = VideoNode(Path("/dev/video0"), "Other", None)
    recorder = machine([], [busy, META, GOOD])
    recorder.broken["v4l2:///dev/video0"] = SourceLost("busy")
    assert opened().uri == "v4l2:///dev/video2"
    assert recorder.made[0].closed == 1


def test_without_a_camera_the_pattern_is_chosen_with_one_line_of_reasons(machine, caplog):
    machine(PermanentSourceError("numpy is broken"), [META])
    assert opened().uri == "pattern://digits"
    assert len(caplog.records) == 1
    assert "numpy is broken; /dev/video3 gives no images" in caplog.text


def test_all_properties_are_those_of_the_chosen_source(machine):
    machine([], [GOOD])
    source = auto.AutoSource("auto", SourceOptions())
    assert source.describe() == "auto"
    source.open()
    assert (source.live, source.fps) == (True, 25.0)
    assert source.describe() == "the v4l2:///dev/video2"
    assert source.remaining_orientation == (False, False, 90)


def test_a_webcam_by_its_word_is_the_first_that_works_and_never_anything_else(machine):
    machine([CAMERA], [META, GOOD])
    source = auto.WebcamSource("webcam", SourceOptions())
    source.open()
    assert source.uri == "v4l2:///dev/video2"
    machine([CAMERA], [META])
    with pytest.raises(SourceAbsent, match="gives no images"):
        auto.WebcamSource("webcam", SourceOptions()).open()


def test_a_lost_camera_is_opened_again_and_not_replaced_by_the_pattern(machine):
    recorder = machine([], [GOOD])
    source = opened()
    source.close()
    machine([], [])
    source.open()
    assert source.uri == "v4l2:///dev/video2"
    assert len(recorder.made) == 1


def test_it_may_be_closed_before_it_is_opened():
    auto.AutoSource("auto", SourceOptions()).close()


def test_a_pc_without_cameras_shows_its_first_image_at_once(monkeypatch):
    monkeypatch.setattr(auto, "find_spec", lambda name: None)
    monkeypatch.setattr(auto, "video_nodes", list)
    source = create_source("auto", SourceOptions(size=(160, 120)))
    start = time.monotonic()
    source.open()
    assert source.read(1).view.size == (160, 120)
    assert time.monotonic() - start < 2
    source.close()
