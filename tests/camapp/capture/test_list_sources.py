"""The list of `camapp sources`, on machines with and without cameras."""

import subprocess
import sys
from pathlib import Path

import pytest

from camapp.capture import list_sources
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.scenes.scene import REGISTRY as SCENES
from camapp.system.video_devices import VideoNode

PATTERNS = [f"pattern://{name}" for name in SCENES]


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the Pi cameras (or the error of listing them) and V4L2 nodes of the machine."""

    def has(cameras, *nodes):
        def pi_cameras():
            if isinstance(cameras, Exception):
                raise cameras
            return cameras

        monkeypatch.setattr(list_sources, "find_spec", lambda name: None if cameras is None else object())
        monkeypatch.setattr(list_sources, "pi_cameras", pi_cameras)
        monkeypatch.setattr(list_sources, "video_nodes", lambda: list(nodes))

    return has


def test_each_source_is_listed_with_why_it_is_not_usable(machine):
    machine(
        [{"Model": "imx708", "Num": 0, "Id": "/base/soc/i2c@1/imx708@1a"}],
        VideoNode(Path("/dev/video0"), "Locked", SourceDenied("join group video")),
        VideoNode(Path("/dev/video2"), "HD Webcam", None),
        VideoNode(Path("/dev/video3"), "HD Webcam", PermanentSourceError("gives no images")),
    )
    rows = list_sources.list_sources()
    assert [(row.uri, row.name, row.status) for row in rows[:4]] == [
        ("picamera://0", "imx708", "ready"),
        ("v4l2:///dev/video2", "HD Webcam", "ready"),
        ("v4l2:///dev/video0", "Locked", "join group video"),
        ("v4l2:///dev/video3", "HD Webcam", "gives no images"),
    ]
    assert [row.uri for row in rows[4:]] == PATTERNS


def test_a_broken_picamera2_is_a_line_in_the_list_and_not_an_error(machine):
    machine(PermanentSourceError("run 'sudo apt install'"))
    first = list_sources.list_sources()[0]
    assert (first.uri, first.status) == ("picamera://0", "run 'sudo apt install'")


def test_a_pc_without_picamera2_lists_only_patterns(machine):
    machine(None)
    assert [row.uri for row in list_sources.list_sources()] == PATTERNS


def test_the_list_of_this_machine_has_at_least_the_patterns():
    assert set(PATTERNS) <= {row.uri for row in list_sources.list_sources() if row.status == list_sources.READY}


def test_listing_and_choosing_load_no_video_library_and_no_picamera2():
    code = (
        "import sys, camapp.capture.auto, camapp.capture.list_sources\n"
        "print(sorted({'picamera2', 'libcamera', 'camapp.capture.opencv'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
