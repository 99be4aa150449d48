"""Video files, decoded in a child process."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from camapp.capture.source import EndOfStream, SourceOptions, build_source
from camapp.capture.video import VideoSource
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.image import Layout
from camapp.core.models import load_model
from camapp.core.settings import load_settings

FPS = 25
FRAMES = 20


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Return a video of 20 frames of 64x48 at 25 fps; the grey level of a frame encodes its number."""
    path = tmp_path_factory.mktemp("clips") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48))
    for number in range(FRAMES):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


def opened(path, **options):
    source = VideoSource(str(path), SourceOptions(**options))
    source.open()
    return source


def number_of(shot):
    return round(shot.view.gray().mean() / 10)


def read_into(source, shots):
    """Read until an exception is raised."""
    while True:
        shots.append(source.read(1))


def read_all(source):
    shots = []
    with contextlib.suppress(EndOfStream):
        read_into(source, shots)
    return shots


def test_a_file_yields_every_frame_in_order_and_ends(clip):
    source = opened(clip)
    assert (source.live, source.fps) == (False, FPS)
    shots = read_all(source)
    assert [number_of(shot) for shot in shots] == list(range(FRAMES))
    assert shots[0].view.layout is Layout.BGR
    assert shots[0].view.size == (64, 48)
    assert shots[0].sensor_ns == 0
    with pytest.raises(EndOfStream):
        source.read(1)
    source.close()
    with pytest.raises(EndOfStream):
        source.read(1)


def test_colours_of_a_file_are_in_the_right_channels(tmp_path):
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48))
    writer.write(np.full((48, 64, 3), (40, 60, 200), np.uint8))
    writer.release()
    pixel = opened(path).read(1).view.rgb()[24, 32].astype(int)
    assert np.abs(pixel - (200, 60, 40)).max() < 6


class Clock:
    """Replaces the time module; time passes only in `sleep`."""

    now = 10**12

    def is_set(self):
        return False

    def monotonic_ns(self):
        return self.now

    def monotonic(self):
        return self.now / 1e9

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)

    def wait(self, seconds):
        self.sleep(seconds)
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("camapp.capture.clock.time", clock)
    monkeypatch.setattr("camapp.capture.video.time", clock)
    monkeypatch.setattr(VideoSource, "stopping", clock)
    return clock


def test_realtime_follows_the_time_stamps_of_the_file(clip, clock):
    source = opened(clip, realtime=True)
    assert source.live
    start, late = clock.now, []
    for number in range(FRAMES):
        shot = source.read(1)
        assert number_of(shot) == number
        late.append(clock.now - shot.sensor_ns)
    assert late == [0] * FRAMES
    assert (clock.now - start) / 1e9 == pytest.approx((FRAMES - 1) / FPS, abs=1e-3)


def test_realtime_waits_on_the_real_clock(clip):
    source = opened(clip, realtime=True)
    start = time.monotonic()
    read_all(source)
    assert time.monotonic() - start > (FRAMES - 2) / FPS


def test_realtime_skips_frames_that_were_not_read_in_time(clip, clock):
    source = opened(clip, realtime=True)
    assert number_of(source.read(1)) == 0
    clock.sleep(0.3)  # 7.5 frames
    shot = source.read(1)
    assert number_of(shot) == 7
    assert clock.now - shot.sensor_ns == pytest.approx(0.5e9 / FPS, abs=1e6)
    assert number_of(source.read(1)) == 8


def test_after_a_pause_the_film_continues_with_the_next_frame_at_its_pace(clip, clock):
    source = opened(clip, realtime=True)
    source.resume()
    assert number_of(source.read(1)) == 0
    clock.sleep(20.0)
    source.resume()
    assert number_of(source.read(1)) == 1
    before = clock.now
    assert number_of(source.read(1)) == 2
    assert clock.now - before == pytest.approx(1e9 / FPS, abs=1e6)


@pytest.mark.parametrize(
    ("settings", "own_pace"), [({}, True), ({"realtime": False}, False), ({"drawn": "folder"}, False)]
)
def test_a_film_has_its_own_pace_if_it_is_watched(clip, settings, own_pace):
    settings = load_settings({"source": str(clip), **settings}, environment={})
    model = load_model(settings)
    assert build_source(settings, model, watched=True).live == own_pace
    assert not build_source(settings, model).live


def test_realtime_shifts_its_schedule_if_it_cannot_catch_up(clip, clock):
    source = VideoSource(str(clip), SourceOptions(realtime=True), catch_up_s=-1.0)
    source.open()
    source.read(1)
    clock.sleep(0.3)
    shot = source.read(1)
    assert number_of(shot) == 1
    assert clock.now == shot.sensor_ns


def test_a_slow_file_is_waited_for_and_no_frame_is_stamped_in_the_future(tmp_path, clock):
    path = tmp_path / "lapse.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 0.25, (64, 48))
    for level in range(4):
        writer.write(np.full((48, 64, 3), 60 * level, np.uint8))
    writer.release()
    source = opened(path, realtime=True)
    stamps = []
    for _ in range(4):
        stamps.append(source.read(1.5).sensor_ns)
        assert stamps[-1] == clock.now
    assert np.diff(stamps) / 1e9 == pytest.approx(4.0, abs=1e-3)


def test_the_wait_for_a_slow_file_ends_with_the_run(clip):
    source = opened(clip, realtime=True)
    source.stopping = threading.Event()
    source.stopping.set()
    source.read(1)
    with pytest.raises(EndOfStream):
        source.read(1)


def test_loop_continues_without_a_gap_in_time(clip, clock):
    source = opened(clip, realtime=True, loop=True)
    shots = [source.read(1) for _ in range(FRAMES + 3)]
    assert [number_of(shot) for shot in shots] == [*range(FRAMES), 0, 1, 2]
    assert np.diff([shot.sensor_ns for shot in shots]) / 1e9 == pytest.approx(1 / FPS, abs=1e-3)


def test_the_view_is_shrunk_to_the_size_and_keeps_its_aspect(clip):
    assert opened(clip, size=(32, 32)).read(1).view.size == (32, 24)
    assert opened(clip, size=(640, 480)).read(1).view.size == (64, 48)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PermanentSourceError, match=r"no such file: .*none\.mp4"):
        opened(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"this is no video", "is a text, not a video"),
        (b"\0" * 5000, "has only zeros"),
        (bytes(range(256)) * 20, "is damaged, or not a video"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 5000, "was cut off while it was recorded"),
    ],
)
def test_a_file_that_is_not_a_video_is_named_with_the_cause(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(PermanentSourceError, match=rf"clip\.mp4 {reason}"):
        opened(path)


def test_opencv_prints_no_messages(tmp_path):
    # In a new process, because FFmpeg reads its log level on first use.
    (tmp_path / "clip.mp4").write_text("this is no video")
    code = (
        "import sys\nfrom camapp.capture.source import *\nfrom camapp.core.errors import *\n"
        "for uri in sys.argv[1:]:\n"
        "    try: create_source(uri, SourceOptions()).open()\n"
        "    except SourceError as error: print(error)\n"
    )
    uris = str(tmp_path / "clip.mp4"), "v4l2:///dev/null", "http://127.0.0.1:9/video"
    done = subprocess.run([sys.executable, "-c", code, *uris], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(uris)


def test_a_file_without_permission_is_denied(clip, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceDenied, match="chmod"):
        opened(clip)


def test_a_truncated_file_ends_with_a_warning(clip, tmp_path, caplog):
    whole = clip.read_bytes()
    path = tmp_path / "part.avi"
    path.write_bytes(whole[: len(whole) * 7 // 10])
    shots = read_all(opened(path))
    assert 0 < len(shots) < FRAMES
    assert "ends after" in caplog.text


def test_a_complete_file_ends_without_a_warning(clip, caplog):
    read_all(opened(clip))
    assert not caplog.records
