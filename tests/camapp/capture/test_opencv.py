"""Webcams, with a fake driver."""

import fcntl
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from camapp.capture.opencv import CameraSource
from camapp.capture.source import SourceOptions
from camapp.core.errors import PermanentSourceError, SourceDenied, SourceLost
from camapp.core.image import Layout
from camapp.system import video_devices


class Driver:
    """Replaces cv2.VideoCapture with the behaviour of a webcam's driver."""

    made: list = []  # noqa: RUF012 - emptied by the fixture
    opens = True
    refuses: set = set()  # noqa: RUF012
    frame = np.full((48, 64, 3), (40, 60, 200), np.uint8)
    frames_left = 1000
    stamp_ms = 0.0

    def __init__(self, target, backend):
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
        cv2.CAP_PROP_CONVERT_RGB: 1,
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


def test_a_name_that_the_kernel_has_cut_within_a_letter_is_read(machine, tmp_path):
    device = machine(0, "")
    (tmp_path / "sys" / "video0" / "name").write_bytes("Caméra".encode()[:4] + b"\n")
    assert video_devices.name_of(device) == "Cam\N{REPLACEMENT CHARACTER}"


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
        ({"FOCUS": "nan"}, "are numbers"),
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
