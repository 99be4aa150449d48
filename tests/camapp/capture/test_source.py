"""Sources are made from URIs, credentials are hidden, and heavy modules are imported late."""

import subprocess
import sys

import pytest

from camapp.capture.source import Source, SourceOptions, create_source, redacted, scheme_of
from camapp.core.errors import PermanentSourceError


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("auto", "auto"),
        ("picamera://0", "picamera"),
        ("v4l2://0", "v4l2"),
        ("/dev/video2", "v4l2"),
        ("rtsp://camera/stream", "rtsp"),
        ("https://camera/stream", "https"),
        ("clip.mp4", "video"),
        ("file:///clip.mp4", "video"),
        ("12_7.png", "images"),
        ("pictures/*.jpg", "images"),
        ("pattern://digits?seed=1", "pattern"),
    ],
)
def test_a_uri_names_its_source(uri, scheme):
    assert scheme_of(uri) == scheme


def test_a_folder_is_read_as_images_with_any_name(tmp_path):
    folder = tmp_path / "clip.mp4"
    folder.mkdir()
    assert scheme_of(str(folder)) == "images"


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(PermanentSourceError, match=r"'rtmp://'.*rtsp://"):
        create_source("rtmp://camera/live", SourceOptions())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:secret@camera:554/h264", "rtsp://***@camera:554/h264"),
        ("rtsp://admin:sec/ret?@camera/h264", "rtsp://***@camera/h264"),
        ("rtsp://admin:p@secret@camera/h264", "rtsp://***@camera/h264"),
        ("http://camera/video?user=a&pwd=secret", "http://camera/video?***"),
        ("http://camera/video", "http://camera/video"),
        ("pattern://digits?seed=1", "pattern://digits?seed=1"),
        ("/home/me@work/clip.mp4", "/home/me@work/clip.mp4"),
    ],
)
def test_credentials_are_never_shown(uri, shown):
    assert redacted(uri) == shown


def test_flips_and_rotation_are_left_to_the_caller_by_default():
    class Plain(Source):
        def open(self): ...
        def read(self, timeout): ...
        def close(self): ...

    source = Plain("x", SourceOptions(hflip=True, rotate=90))
    assert source.remaining_orientation == (True, False, 90)


def test_naming_a_source_imports_neither_opencv_nor_picamera2():
    code = (
        "import sys, camapp.capture.source as s; s.scheme_of('picamera://0');"
        "print(sorted({'cv2', 'numpy', 'picamera2', 'libcamera'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
