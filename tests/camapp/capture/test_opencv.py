"""Webcams (with a fake driver), network streams (from a server in the test) and video files."""

import contextlib
import fcntl
import http.server
import os
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from camapp.capture.opencv import CameraSource, StreamSource, VideoSource
from camapp.capture.source import EndOfStream, SourceOptions
from camapp.core.errors import PermanentSourceError, SourceDenied, SourceLost
from camapp.core.image import Layout
from camapp.system import video_devices

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


# Video files


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
    monkeypatch.setattr("camapp.capture.opencv.time", clock)
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


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\0" * 5000])
def test_a_file_that_is_not_a_video_is_named(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(PermanentSourceError, match=r"clip\.mp4 is damaged, or not a video"):
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


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermanentSourceError, match="is not a file"):
        opened(tmp_path / "pipe")


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


# Network streams


class Server(http.server.BaseHTTPRequestHandler):
    """Serves motion JPEG. /stop ends after five frames, /stall stops sending, /grow changes size, /401 is denied."""

    def do_GET(self):
        if self.path == "/clip.avi":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.clip)))
            self.end_headers()
            self.wfile.write(self.server.clip)
            return
        if self.path.startswith("/401"):
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
        self.end_headers()
        for number in range(60):
            if number == 5 and self.path == "/stop":
                return
            if number == 30 and self.path == "/stall":
                self.server.stalled.wait(10)
                return
            size = (96, 128, 3) if number >= 20 and self.path == "/grow" else (48, 64, 3)
            jpeg = cv2.imencode(".jpg", np.full(size, 100, np.uint8))[1].tobytes()
            try:
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.01)

    def log_message(self, *args): ...


@pytest.fixture(scope="module")
def server(clip):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.daemon_threads = True
        running.clip = clip.read_bytes()
        running.stalled = threading.Event()
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.stalled.set()
        running.shutdown()


def stream(uri):
    return StreamSource(uri, SourceOptions())


def test_a_stream_yields_frames(server):
    source = stream(f"http://{server}/video")
    source.open()
    shot = source.read(1)
    assert source.live
    assert shot.view.size == (64, 48)
    assert abs(int(shot.view.rgb()[0, 0, 0]) - 100) < 4
    source.close()


def test_a_stream_that_ends_is_lost_and_may_be_opened_again(server):
    source = stream(f"http://{server}/stop")
    for _ in range(2):
        source.open()
        with pytest.raises(SourceLost, match="sends no more"):
            read_into(source, [])
        source.close()


def test_a_stream_that_stops_sending_is_lost_in_bounded_time(server):
    source = StreamSource(f"http://{server}/stall", SourceOptions(read_timeout=0.5))
    source.open()
    start = time.monotonic()
    with pytest.raises(SourceLost, match="sends no more"):
        read_into(source, [])
    assert time.monotonic() - start < 3
    source.close()


def test_a_stream_may_change_its_size(server):
    source = stream(f"http://{server}/grow")
    source.open()
    shots = []
    with pytest.raises(SourceLost):
        read_into(source, shots)
    assert all(shot.view.data.shape == (shot.view.height, shot.view.width, 3) for shot in shots)
    assert len(shots) > 50
    source.close()


def test_a_file_on_a_web_server_is_refused(server):
    with pytest.raises(PermanentSourceError, match="is a file, not a live stream"):
        stream(f"http://{server}/clip.avi").open()


@pytest.mark.parametrize("path", ["401", "video?password=hunter2"])
def test_a_password_is_in_no_message(server, path, capfd):
    where = server if path == "401" else "127.0.0.1:9"
    source = stream(f"http://admin:hunter2@{where}/{path}")
    with pytest.raises(SourceLost, match="check address, user and password") as caught:
        source.open()
    assert "hunter2" not in str(caught.value) + source.describe() + "".join(capfd.readouterr())


# Webcams


class Driver:
    """Replaces cv2.VideoCapture with the behaviour of a webcam's driver."""

    made: list = []  # noqa: RUF012 - emptied by the fixture
    opens = True
    refuses: set = set()  # noqa: RUF012
    frame = np.full((48, 64, 3), (40, 60, 200), np.uint8)
    frames_left = 1000
    stamp_ms = 0.0

    def __init__(self, target, backend, parameters):
        self.target, self.backend, self.settings = target, backend, {}
        self.made.append(self)

    def isOpened(self):
        return self.opens

    def set(self, prop, value):
        if prop in self.refuses:
            return False
        self.settings[prop] = value
        return True

    def get(self, prop):
        return self.stamp_ms if prop == cv2.CAP_PROP_POS_MSEC else self.settings.get(prop, 30.0)

    def read(self):
        if type(self).frames_left == 0:
            return False, None
        type(self).frames_left -= 1
        return True, self.frame

    def release(self): ...


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Replace /dev, /sys and /proc; return a function that plugs in a node."""
    for name in ("DEV", "SYS", "PROC"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setattr(video_devices, name, folder)
    monkeypatch.setattr("camapp.capture.opencv.DEV", tmp_path / "dev")
    kinds = {}

    def plug(number, name, capabilities=0x04200001):
        node = tmp_path / "sys" / f"video{number}"
        node.mkdir()
        (node / "name").write_text(name + "\n")
        device = tmp_path / "dev" / f"video{number}"
        device.touch()
        kinds[os.stat(device).st_ino] = capabilities
        return device

    def ioctl(handle, request, buffer):
        assert (request, len(buffer)) == (0x80685600, 104)
        capabilities = kinds[os.fstat(handle).st_ino]
        return buffer[:88] + capabilities.to_bytes(4, "little") + buffer[92:]

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    driver = type("FreshDriver", (Driver,), {"made": []})
    monkeypatch.setattr(cv2, "VideoCapture", driver)
    plug.driver = driver
    plug.root = tmp_path
    return plug


def webcam(uri="v4l2://0", **options):
    return CameraSource(uri, SourceOptions(**options))


def test_a_webcam_is_configured_with_size_rate_mjpg_and_few_buffers(machine):
    device = machine(0, "HD Webcam")
    source = webcam(size=(1280, 720), fps=30, controls={"brightness": "0.5", "CAP_PROP_FOCUS": "10"})
    source.open()
    (capture,) = machine.driver.made
    assert (capture.target, capture.backend) == (str(device), cv2.CAP_V4L2)
    assert capture.settings == {
        cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG"),
        cv2.CAP_PROP_FRAME_WIDTH: 1280,
        cv2.CAP_PROP_FRAME_HEIGHT: 720,
        cv2.CAP_PROP_FPS: 30,
        cv2.CAP_PROP_BUFFERSIZE: 2,
        cv2.CAP_PROP_BRIGHTNESS: 0.5,
        cv2.CAP_PROP_FOCUS: 10,
    }
    shot = source.read(1)
    assert shot.view.rgb()[0, 0].tolist() == [200, 60, 40]
    assert source.fps == 30
    assert source.describe().startswith("HD Webcam (")
    source.close()
    source.close()


def test_a_webcam_runs_at_the_target_rate_unless_another_is_requested(machine):
    machine(0, "HD Webcam")
    webcam(target_fps=60).open()
    assert machine.driver.made[0].settings[cv2.CAP_PROP_FPS] == 60


def test_a_webcam_that_slows_down_reports_it(machine, monkeypatch):
    machine(0, "HD Webcam")
    clock = iter(range(10**12, 10**13, 70_000_000))
    monkeypatch.setattr("camapp.capture.opencv.time.monotonic_ns", lambda: next(clock))
    source = webcam(fps=30)
    source.open()
    for _ in range(40):
        source.read(1)
    assert source.slowness.startswith("perhaps low light")


def test_a_small_image_stays_uncompressed(machine):
    machine(0, "HD Webcam")
    source = webcam(size=(640, 480))
    source.open()
    assert cv2.CAP_PROP_FOURCC not in machine.driver.made[0].settings


def test_each_shot_has_the_size_of_its_frame_if_the_camera_changes(machine):
    machine(0, "HD Webcam")
    source = webcam()
    source.open()
    sizes = [source.read(1).view.size]
    machine.driver.frame = np.zeros((24, 32, 3), np.uint8)
    sizes.append(source.read(1).view.size)
    assert sizes == [(64, 48), (32, 24)]


@pytest.mark.parametrize(("shape", "layout"), [((48, 64), Layout.GRAY), ((48, 64, 1), Layout.GRAY)])
def test_a_grey_camera_yields_grey_images(machine, shape, layout):
    machine(0, "Thermal")
    machine.driver.frame = np.full(shape, 9, np.uint8)
    source = webcam()
    source.open()
    image = source.read(1).view
    assert (image.layout, image.size, image.gray()[0, 0]) == (layout, (64, 48), 9)


def test_the_time_stamp_of_the_driver_is_used_if_it_is_of_the_monotonic_clock(machine, caplog):
    machine(0, "HD Webcam")
    source = webcam()
    source.open()
    machine.driver.stamp_ms = time.monotonic_ns() / 1e6 - 20
    shot = source.read(1)
    assert 0.015 < (time.monotonic_ns() - shot.sensor_ns) / 1e9 < 1
    machine.driver.stamp_ms = time.time() * 1e3
    assert [source.read(1).sensor_ns for _ in range(3)] == [0, 0, 0]
    assert len(caplog.records) == 1
    assert "another clock" in caplog.text


def test_an_absent_webcam_is_lost_with_a_remedy(machine):
    with pytest.raises(SourceLost, match=r"no camera at .*video0: plug it in"):
        webcam().open()


@pytest.mark.parametrize("name", ["unicam-image", "rp1-cfe-csi2_ch0", "pispbe-input"])
def test_a_node_of_the_pi_camera_is_refused_in_favour_of_picamera(machine, name):
    machine(0, name)
    with pytest.raises(PermanentSourceError, match="use picamera://0"):
        webcam().open()
    assert not machine.driver.made


def test_a_metadata_node_is_refused(machine):
    machine(1, "HD Webcam", capabilities=0x04A00000)
    with pytest.raises(PermanentSourceError, match="gives no images"):
        webcam("v4l2://1").open()


def test_without_permission_the_error_names_the_group(machine, monkeypatch):
    machine(0, "HD Webcam")

    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(SourceDenied, match="usermod -aG video"):
        webcam().open()


def hold(root, pid, name, device):
    folder = root / "proc" / str(pid) / "fd"
    folder.mkdir(parents=True)
    (folder / "7").symlink_to(device)
    (folder.parent / "comm").write_text(name + "\n")


def test_a_busy_webcam_is_reported_with_its_process(machine):
    device = machine(0, "HD Webcam")
    hold(machine.root, 812, "motion", device)
    hold(machine.root, 813, "bystander", "/dev/null")
    hold(machine.root, os.getpid(), "this test", device)
    machine.driver.opens = False
    with pytest.raises(SourceLost, match=r"in use by motion \(pid 812\): stop it first"):
        webcam().open()


def test_a_webcam_used_by_another_user_is_reported_with_a_command_to_find_the_process(machine):
    machine(0, "HD Webcam")
    machine.driver.opens = False
    with pytest.raises(SourceLost, match="sudo fuser -v"):
        webcam().open()


def test_a_webcam_without_frames_is_lost_when_opened(machine):
    machine(0, "HD Webcam")
    machine.driver.frames_left = 0
    with pytest.raises(SourceLost, match="gives no image"):
        webcam().open()


def test_an_unplugged_webcam_is_lost_and_found_under_another_number(machine):
    device = machine(0, "HD Webcam")
    source = webcam()
    source.open()
    source.read(1)
    machine.driver.frames_left = 0
    device.unlink()
    with pytest.raises(SourceLost, match="was unplugged"):
        source.read(1)
    source.close()
    machine.driver.frames_left = 10
    with pytest.raises(SourceLost, match="plug it in"):
        source.open()
    machine(2, "Other Webcam")
    again = machine(3, "HD Webcam")
    source.open()
    assert machine.driver.made[-1].target == str(again)
    assert source.read(1).view.size == (64, 48)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"AfMode": "Auto"}, r"no control 'AfMode'; known are BRIGHTNESS"),
        ({"FOCUS": "near"}, "are numbers"),
    ],
)
def test_invalid_controls_are_refused_before_the_device_is_opened(controls, message):
    with pytest.raises(PermanentSourceError, match=message):
        webcam(controls=controls)


def test_a_control_that_the_camera_rejects_is_an_error(machine):
    machine(0, "HD Webcam")
    machine.driver.refuses = {cv2.CAP_PROP_ZOOM}
    with pytest.raises(PermanentSourceError, match="HD Webcam does not accept the control ZOOM=2"):
        webcam(controls={"ZOOM": "2"}).open()


def test_a_uri_without_a_number_or_path_is_refused():
    with pytest.raises(PermanentSourceError, match="write v4l2://0"):
        webcam("v4l2://front")


def test_processes_that_hold_a_real_file_are_found(tmp_path):
    device = tmp_path / "device"
    device.touch()
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(device)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        child.stdout.readline()
        assert [holder.partition("pid ")[2] for holder in video_devices.holders(device)] == [f"{child.pid})"]
        child.stdin.close()
    assert video_devices.holders(device) == []
