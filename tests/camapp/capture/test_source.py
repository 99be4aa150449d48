"""Sources are made from URIs, credentials are hidden, and heavy modules are imported late."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from camapp.capture.source import Source, SourceOptions, create_source, local_path, redacted, scheme_of
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
        ("RTSP://camera/stream", "rtsp"),
        *((f"{scheme}://camera/x", scheme) for scheme in ("rtmp", "rtmps", "udp", "srt", "rtp", "tcp", "mmsh")),
        ("concat:a.mp4|b.mp4", "video"),
        ("http:.mp4", "video"),
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


NAMES = (
    *(
        "2024-01-01T10:00:00.mp4",
        "cam 1: [door] #5 100%d.mp4",
        "-x.mp4",
        "ümläut.mp4",
        "UPPER.MP4",
        "noext",
        "what?.mp4",
    ),
    *("http:.mp4", "concat:a|b.mp4", "pipe:0", "%20.mp4", "~x.mp4", "a\nb.mp4", "subfile,,start,0,end,9,,:x.mp4"),
    os.fsdecode(b"b\xe4d.mp4"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_film_may_have_any_name(tmp_path, monkeypatch, name):
    """Each is found by its relative path, its absolute one, and its `file://` URI with and without escapes."""
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.full((48, 64, 3), 100, np.uint8))
    writer.release()
    film.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / name)
    for uri in (f"./{name}", path, f"file://{path}", f"file://{quote(os.fsencode(path))}"):
        assert scheme_of(uri) == "video"
        assert local_path(uri).absolute() == Path(path)
    source = create_source(name, SourceOptions())
    source.open()
    assert source.read(1).view.size == (64, 48)
    source.close()


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(PermanentSourceError, match=r"'gopher://'.*rtsp://"):
        create_source("gopher://camera/live", SourceOptions())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:secret@camera:554/h264", "rtsp://***@camera:554/h264"),
        ("rtsp://admin:sec/ret?@camera/h264", "rtsp://***@camera/h264"),
        ("rtsp://admin:p@secret@camera/h264", "rtsp://***@camera/h264"),
        ("http://camera/video?user=a&pwd=secret", "http://camera/video?***"),
        ("http://camera/video", "http://camera/video"),
        ("srt://camera:9000?passphrase=secret", "srt://camera:9000?***"),
        ("rtmp://user:secret@camera/live", "rtmp://***@camera/live"),
        ("RTSP://user:secret@camera/live", "RTSP://***@camera/live"),
        ("udp://@239.0.0.1:5000", "udp://@239.0.0.1:5000"),
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
