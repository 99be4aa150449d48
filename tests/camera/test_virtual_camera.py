"""The real picamera2 on libcamera's virtual camera: our source, the program, and its errors for wrong options.

Slow (minutes, once with a download). Needs root, systemd-nspawn and debootstrap, and makes a Debian root in the user's
cache folder, or uses that of CAMAPP_CAMERA_ROOT. Unchanged picamera2 runs there; virtual_pi.py fakes what a virtual
camera lacks.
"""

import json

import pytest

from tests.debian_root import ROOT, in_root, prepared

PACKAGES = "ca-certificates,python3-libcamera,libcamera-ipa,python3-venv,python3-dev,gcc,libcap-dev"
DEBOOTSTRAP = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie"]
VENV = "/opt/venv"
# OpenCV without windows, because a minimal root has no libGL.
INSTALL = f"""
python3 -m venv --system-site-packages {VENV}
grep -v opencv /opt/camapp/requirements.txt > /tmp/requirements.txt
{VENV}/bin/python -m pip install -q -r /tmp/requirements.txt picamera2 opencv-python-headless
"""
# A camera with every size that the tests request.
CAMERA = """%YAML 1.1
---
"Virtual0":
  supported_formats:
  - {width: 1920, height: 1080, frame_rates: [30, 60]}
  - {width: 1280, height: 720}
  - {width: 640, height: 480}
  - {width: 448, height: 252}
  - {width: 320, height: 240}
  test_pattern: "bars"
  location: "CameraLocationBack"
  model: "Virtual Video Device"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def in_tree(root, *command, options=(), timeout=120):
    """Run a command in the root, with this tree read-only at /opt/camapp."""
    given = [f"--bind-ro={ROOT}:/opt/camapp", "--setenv=PYTHONPATH=/opt/camapp", "--setenv=PYTHONDONTWRITEBYTECODE=1"]
    return in_root(root, *command, options=[*given, *options], timeout=timeout)


def add_picamera2(root):
    done = in_tree(root, "/bin/sh", "-ec", INSTALL, timeout=600)
    if done.returncode:
        pytest.skip(f"picamera2 could not be installed: {done.stderr[-500:]}")
    folder = root / "usr/share/libcamera/pipeline/virtual"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "virtual.yaml").write_text(CAMERA)


@pytest.fixture(scope="module")
def pi():
    """Return a function that runs virtual_pi.py with arguments in the root."""
    root = prepared("CAMAPP_CAMERA_ROOT", "camera-trixie", DEBOOTSTRAP, add_picamera2)
    python = (f"{VENV}/bin/python", "-P", "/opt/camapp/tests/camera/virtual_pi.py")

    def run(*arguments):
        command = ["env", "PYTHONPATH=/opt/camapp:/opt/camapp/tests/camera", "ENGINE_CHOICES=rule", *python]
        return in_tree(root, *command, *arguments, options=["--tmpfs=/tmp", "--chdir=/tmp"])

    return run


def result_of(done):
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def test_frames_flow_with_their_stamps_and_the_camera_opens_again(pi):
    found = result_of(pi("frames"))
    # 30 on an idle machine.
    assert 5 < found["fps"] < 35
    assert found["advancing"]
    assert 0 <= found["youngest_ms"] < 500
    assert found["view"] == [480, 640, 3]
    assert found["model_view"] == [240, 320, 3]
    assert found["colours"] >= 6
    assert found["describe"].startswith("Virtual Video Device 640x480")
    assert found["again"] == [640, 480]


def test_a_run_accounts_for_every_frame(pi):
    done = pi("run", "--source", "picamera://0", "--size", "640x480", "--duration", "5", "--log", "-")
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    assert len(records) > 60
    assert "in flight 0" in done.stderr
    assert "DOES NOT ADD UP" not in done.stderr
    assert "Traceback" not in done.stderr


def test_sources_lists_the_camera(pi):
    done = pi("sources", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout[done.stdout.index("[") :])
    print(listed[0])
    assert listed[0]["uri"] == "picamera://0"
    assert listed[0]["name"] == "Virtual Video Device"
    assert listed[0]["status"] == "ready"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "picamera://0", "--camera-control", "Sharpnes=1"], "no control 'Sharpnes'; it has"),
        (["--source", "picamera://3"], "there is no picamera://3; there is picamera://0 (Virtual Video Device)"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(pi, options, message):
    done = pi("run", *options, "--size", "640x480", "--duration", "2")
    lines = [line for line in done.stderr.splitlines() if line.startswith("camapp: ")]
    print(done.stderr)
    assert done.returncode == 69, done.stderr
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr


def test_the_drm_preview_is_switched_while_frames_flow(pi):
    found = result_of(pi("preview"))
    assert "could not find a usable DRM device" in found["without a card"]
    assert found["showing"]
    assert found["fps"] > 5
    assert found["images"] >= 55
    assert 4 <= found["overlays"] <= 6
    assert found["taken away"]


def test_the_selftest_tries_the_camera_and_every_model_on_its_frames(pi):
    done = pi("selftest", "--source", "picamera://0", "--size", "640x480", "--seconds", "2", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout[done.stdout.index("{") :])["findings"]}
    for name in ("camera", "camera rate", "camera clock", "picture", "whole run", "model mnist", "model track"):
        print(findings[name]["verdict"], name, findings[name]["detail"])
        assert findings[name]["verdict"] != "fail", findings[name]
    assert "Virtual Video Device 640x480" in findings["camera"]["detail"]
    assert "monotonic" in findings["camera clock"]["detail"]
