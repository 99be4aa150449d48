"""PicameraSource on a fake picamera2 (tests/fakes) with the behaviour and faults of the real one."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from camapp.capture import picamera2
from camapp.capture.picamera2 import CameraTimeouts, PicameraSource
from camapp.capture.source import SourceOptions
from camapp.core.errors import PermanentSourceError, SourceDenied, SourceLost
from camapp.core.image import Layout
from camapp.system import video_devices

FAKES = Path(__file__).parents[2] / "fakes"


@pytest.fixture
def source(fake):
    made = []

    def make(uri="picamera://0", timeouts=None, **options):
        made.append(PicameraSource(uri, SourceOptions(**options), timeouts or CameraTimeouts()))
        return made[-1]

    yield make
    fake.plan.close_hangs = fake.plan.cancel_hangs = False
    for each in made:
        each.close()


def opened(source):
    source.open()
    return source


def read_on(source, timeout):
    """Read until an exception is raised."""
    while True:
        source.read(timeout)


def camera_of(fake):
    return fake.plan.opened[-1]


def near(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() <= 3


# Images


@pytest.mark.parametrize("layout", ["XBGR8888", "XRGB8888", "BGR888", "RGB888", "YUV420", "NV12"])
@pytest.mark.parametrize("align", [1, 64, 512])
def test_each_format_has_the_right_colours_at_the_right_pixels_with_any_stride(fake, source, layout, align):
    fake.plan.formats = {"main": layout, "lores": layout}
    fake.plan.align = 2 if align == 1 and layout in ("YUV420", "NV12") else align
    shot = opened(source(size=(100, 60), model_size=(60, 36))).read(1)
    assert (shot.view.size, shot.model_view.size) == ((100, 60), (60, 36))
    for image in (shot.view, shot.model_view):
        rgb = image.rgb()
        assert rgb.shape == (image.height, image.width, 3)
        assert near(rgb[-1], fake.COLOUR)
        assert near(rgb[:, -1], fake.COLOUR)
        assert near(rgb[: image.height // 2 - 2, : image.width // 2 - 2], (255, 255, 255))
        assert near(image.bgr()[-1, -1], fake.COLOUR[::-1])


def test_main_is_rgbx_and_lores_stays_i420_with_its_stride(source):
    shot = opened(source(size=(1280, 720), model_size=(100, 60))).read(1)
    assert shot.view.layout is Layout.RGBX
    assert shot.view.data.shape == (720, 1280, 4)
    assert shot.model_view.layout is Layout.I420
    assert shot.model_view.size == (128, 72)
    assert shot.model_view.data.shape == (108, 128)


def test_an_unsupported_format_is_refused_by_name(fake, source):
    fake.plan.formats = {"lores": "YUYV"}
    with pytest.raises(PermanentSourceError, match=r"imx708 gives its lores stream as YUYV; camapp reads XBGR8888"):
        source().open()
    assert camera_of(fake).closed


def test_images_outlive_the_request(fake, source):
    opened_source = opened(source(size=(64, 48), model_size=(32, 24)))
    first = opened_source.read(1)
    kept = first.view.data.copy()
    for _ in range(10):
        opened_source.read(1)
    assert (first.view.data == kept).all()


# Configuration


def test_the_camera_is_configured_as_the_options_request(fake, source):
    opened(source(size=(1280, 720), fps=40, model_size=(320, 240)))
    requested = camera_of(fake).requested
    assert requested["main"] == {"size": (1280, 720), "format": "XBGR8888"}
    assert requested["lores"] == {"size": (448, 252), "format": "YUV420"}
    assert requested["raw"] is None
    assert requested["buffer_count"] == 4
    assert requested["controls"] == {"FrameDurationLimits": (25000, 25000)}
    assert requested["sensor"] == {"output_size": (2304, 1296), "bit_depth": 10}
    assert requested["colour_space"].name == "SMPTE170M"


def test_the_description_is_of_the_configured_streams(source):
    assert opened(source()).describe() == "imx708 1280x720 at 30 fps, lores 448x252"


def test_a_rate_above_that_of_the_sensor_is_lowered_with_a_warning(source, caplog):
    assert opened(source(fps=200)).fps == 120.13
    assert "120.13 fps at most, 200 were requested" in caplog.text


def test_odd_sizes_are_made_even(fake, source):
    opened(source(size=(641, 481)))
    assert camera_of(fake).requested["main"]["size"] == (640, 480)


@pytest.mark.parametrize(
    ("main", "needed", "lores"),
    [
        ((1280, 720), (320, 240), (448, 252)),
        ((640, 480), (320, 240), (320, 240)),
        ((1280, 720), (28, 28), (50, 28)),
        ((640, 480), (1000, 1000), (640, 480)),
        ((1366, 768), (224, 224), (400, 224)),
        ((720, 1280), (320, 240), (324, 576)),
    ],
)
def test_lores_has_the_aspect_of_main_and_contains_the_size_of_the_model(main, needed, lores):
    assert picamera2.lores_size(main, needed) == lores
    assert lores[0] / lores[1] == pytest.approx(main[0] / main[1], rel=0.01)
    assert all(side % 2 == 0 for side in lores)


@pytest.mark.parametrize(
    ("size", "fps", "mode"),
    [
        ((1280, 720), 30, (2304, 1296)),
        ((640, 480), 30, (2304, 1296)),
        ((1280, 720), 100, (1536, 864)),
        ((2560, 1440), 10, (4608, 2592)),
        ((2560, 1440), 30, (2304, 1296)),
    ],
)
def test_the_sensor_mode_has_the_full_view_at_the_rate(fake, size, fps, mode):
    assert picamera2.best_mode(fake.Picamera2.sensor_modes, size, fps)["size"] == mode


@pytest.mark.parametrize(
    ("options", "transform", "remaining"),
    [
        ({}, (False, False), (False, False, 0)),
        ({"hflip": True}, (True, False), (False, False, 0)),
        ({"rotate": 180}, (True, True), (False, False, 0)),
        ({"rotate": 180, "vflip": True}, (True, False), (False, False, 0)),
        ({"rotate": 90, "hflip": True}, (True, False), (False, False, 90)),
    ],
)
def test_the_camera_flips_and_the_caller_rotates(fake, source, options, transform, remaining):
    opened_source = opened(source(**options))
    requested = camera_of(fake).requested["transform"]
    assert (requested.hflip, requested.vflip) == transform
    assert opened_source.remaining_orientation == remaining


def test_flips_that_the_camera_cannot_do_are_left_to_the_caller(fake, source):
    fake.plan.can_flip = False
    assert opened(source(rotate=180)).remaining_orientation == (True, True, 0)


# Controls


def test_controls_are_parsed_by_their_type(fake, source):
    import libcamera

    controls = {
        "AfMode": "Auto",
        "NoiseReductionMode": "Fast",
        "AeEnable": "off",
        "ExposureTime": "8000",
        "AnalogueGain": "2",
        "ColourGains": "1.5,2.0",
    }
    opened(source(controls=controls))
    got = camera_of(fake).controls
    assert got == {
        "AfMode": libcamera.AfModeEnum.Auto,
        "NoiseReductionMode": libcamera.NoiseReductionModeEnum.Fast,
        "AeEnable": False,
        "ExposureTime": 8000,
        "AnalogueGain": 2.0,
        "ColourGains": (1.5, 2.0),
    }
    assert isinstance(got["AnalogueGain"], float)


def test_autofocus_is_continuous_unless_the_user_sets_the_focus(fake, source):
    import libcamera

    opened(source())
    assert camera_of(fake).controls == {"AfMode": libcamera.AfModeEnum.Continuous}


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"Sharpnes": "1"}, r"no control 'Sharpnes'; it has AeEnable, AfMode"),
        ({"AfMode": "Continous"}, r"AfMode=Continous is not valid; allowed: Manual, Auto, Continuous"),
        ({"AeEnable": "maybe"}, r"AeEnable=maybe is not valid"),
        ({"ExposureTime": "5"}, r"ExposureTime=5 is out of range; allowed: 13 to"),
        ({"ExposureTime": "nan"}, r"ExposureTime=nan is not valid"),
        ({"ExposureTime": "inf"}, r"ExposureTime=inf is not valid"),
    ],
)
def test_an_invalid_control_is_refused_with_the_allowed_values(fake, source, controls, message):
    with pytest.raises(PermanentSourceError, match=message):
        source(controls=controls).open()
    assert camera_of(fake).closed


# Time


def test_the_time_stamp_is_of_the_frame_and_of_the_monotonic_clock(source):
    opened_source = opened(source())
    stamps = [opened_source.read(1).sensor_ns for _ in range(5)]
    assert stamps == sorted(set(stamps))
    assert 0 <= time.monotonic_ns() - stamps[-1] < 1e9


@pytest.mark.parametrize("offset", [10**15, -6 * 10**9])
def test_time_stamps_of_another_clock_are_ignored_with_one_warning(fake, source, caplog, offset):
    fake.plan.clock_offset_ns = offset
    opened_source = opened(source())
    assert [opened_source.read(1).sensor_ns for _ in range(3)] == [0, 0, 0]
    assert ["another clock" in record.message for record in caplog.records] == [True]


# Faults


def test_every_request_is_released_even_when_reading_it_fails(fake, source):
    opened_source = opened(source())
    for _ in range(20):
        opened_source.read(1)
    fake.plan.make_buffer_fails = True
    for _ in range(10):
        with pytest.raises(SourceLost, match="failed: Stream 'main' is not defined"):
            opened_source.read(1)
    fake.plan.make_buffer_fails = False
    opened_source.read(1)
    assert camera_of(fake).held <= 1


def test_a_dead_event_loop_is_a_lost_source_and_leaves_no_request(fake, source):
    fake.plan.frames = 2
    opened_source = opened(source())
    start = time.monotonic()
    with pytest.raises(SourceLost, match=r"imx708 gave no frame for 0\.2 s: check its ribbon cable"):
        read_on(opened_source, 0.2)
    assert time.monotonic() - start < 5
    assert camera_of(fake).cancelled == 1
    assert camera_of(fake).jobs_waiting == 0
    opened_source.close()
    assert camera_of(fake).closed
    fake.plan.frames = None
    opened_source.open()
    assert opened_source.read(1).view.size == (1280, 720)


def test_a_close_that_hangs_is_abandoned_and_logged(fake, source, caplog):
    opened_source = opened(source(timeouts=CameraTimeouts(close_s=0.1)))
    fake.plan.close_hangs = True
    start = time.monotonic()
    opened_source.close()
    opened_source.close()
    assert time.monotonic() - start < 5
    assert "did not close within 0.1 s" in caplog.text
    with pytest.raises(PermanentSourceError, match="start camapp again"):
        opened_source.open()


def test_a_cancel_that_hangs_is_bounded_too(fake, source):
    fake.plan.frames, fake.plan.cancel_hangs = 0, True
    start = time.monotonic()
    with pytest.raises(SourceLost, match="gave no frame"):
        opened(source(timeouts=CameraTimeouts(close_s=0.1))).read(0.1)
    assert time.monotonic() - start < 5


def test_an_open_that_hangs_is_bounded(fake, source):
    fake.plan.init_error = "hang"
    hung = source(timeouts=CameraTimeouts(open_s=0.1))
    with pytest.raises(PermanentSourceError, match="did not start within"):
        hung.open()
    with pytest.raises(PermanentSourceError, match="start camapp again"):
        hung.open()


@pytest.mark.parametrize(("cameras", "error"), [([], ""), (None, "index"), (None, "runtime")])
def test_a_missing_camera_is_reported_with_its_checks(fake, source, cameras, error, tmp_path, monkeypatch):
    monkeypatch.setattr(picamera2, "DEV", tmp_path)
    if cameras is not None:
        fake.plan.cameras = cameras
    fake.plan.init_error = error
    with pytest.raises(SourceLost, match=r"no Pi camera found: check the ribbon cable .*dtoverlay"):
        source().open()


def test_without_permission_the_error_names_the_group(fake, source, tmp_path, monkeypatch):
    monkeypatch.setattr(picamera2, "DEV", tmp_path)
    (tmp_path / "media0").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    fake.plan.cameras = []
    with pytest.raises(SourceDenied, match="usermod -aG video"):
        source().open()


def test_a_wrong_number_is_reported_with_the_present_cameras(source):
    with pytest.raises(PermanentSourceError, match=r"no picamera://1; there is picamera://0 \(imx708\)"):
        source("picamera://1").open()


def test_a_busy_camera_is_reported_with_its_process_and_opens_when_free(fake, source, tmp_path, monkeypatch):
    node = tmp_path / "media0"
    node.touch()
    holder = tmp_path / "proc" / "812"
    (holder / "fd").mkdir(parents=True)
    (holder / "fd" / "9").symlink_to(node)
    (holder / "comm").write_text("rpicam-hello\n")
    monkeypatch.setattr(picamera2, "DEV", tmp_path)
    monkeypatch.setattr(video_devices, "PROC", tmp_path / "proc")
    fake.plan.init_error = "busy"
    busy = source()
    with pytest.raises(SourceLost, match=r"picamera://0 is in use by rpicam-hello \(pid 812\)"):
        busy.open()
    fake.plan.init_error = ""
    busy.open()
    assert busy.read(1).view.size == (1280, 720)


def test_a_rejected_configuration_is_not_retried_as_if_memory_were_short(fake, source):
    fake.plan.bad_configuration = True
    with pytest.raises(PermanentSourceError, match="imx708 rejects the configuration"):
        source().open()
    assert camera_of(fake).configured == 1


def test_with_short_memory_fewer_buffers_are_tried(fake, source, caplog):
    fake.plan.alloc_failures = 1
    opened_source = opened(source())
    assert camera_of(fake).requested["buffer_count"] == 2
    assert "fewer buffers" in caplog.text
    assert opened_source.read(1).view.size == (1280, 720)


def test_without_memory_the_error_names_how_much_is_free(fake, source, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nCmaTotal:       65536 kB\nCmaFree:         1204 kB\n")
    monkeypatch.setattr(picamera2, "PROC", tmp_path)
    fake.plan.alloc_failures = 9
    with pytest.raises(SourceLost, match=r"CmaTotal 65536 kB, CmaFree 1204 kB.*smaller --size"):
        source().open()
    assert camera_of(fake).configured == 2
    assert camera_of(fake).closed


def test_reading_a_closed_camera_is_a_lost_source(source):
    with pytest.raises(SourceLost, match="not open"):
        source().read(1)


def test_a_uri_without_a_number_is_refused(source):
    with pytest.raises(PermanentSourceError, match="write picamera://0"):
        source("picamera://front")


# Import, each in a new process


def import_in_child(fault):
    code = (
        "import os\nfrom camapp.capture.picamera2 import import_picamera2\n"
        "from camapp.capture.source import PermanentSourceError\n"
        "try: import_picamera2(); print('fine', os.environ['LIBCAMERA_LOG_LEVELS'])\n"
        "except PermanentSourceError as error: print(error)\n"
    )
    path = os.pathsep.join([str(FAKES), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path, "FAKE_PICAMERA2_IMPORT": fault}
    environment.pop("LIBCAMERA_LOG_LEVELS", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_messages_of_libcamera_are_limited_to_warnings():
    assert import_in_child("none") == "fine *:WARN"


def test_a_missing_libcamera_is_reported_with_commands_to_install_it():
    message = import_in_child("libcamera")
    assert "'libcamera' is missing" in message
    assert "apt install -y python3-picamera2" in message
    assert "--system-site-packages" in message


def test_a_numpy_that_hides_that_of_apt_is_reported_with_commands_to_remove_it():
    message = import_in_child("numpy")
    assert "built for another NumPy" in message
    assert "pip uninstall -y numpy" in message
    assert "apt install -y python3-numpy" in message


def test_nothing_is_logged_without_a_fault(source, caplog):
    caplog.set_level(logging.INFO)
    opened_source = opened(source())
    opened_source.read(1)
    opened_source.close()
    assert not caplog.records
