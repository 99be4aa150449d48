"""`camapp doctor` on recorded machines, a healthy Pi and faulty ones, and on the machine that runs the tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from camapp.commands import doctor
from camapp.commands.doctor import CheckStatus, Machine, examine, print_report
from engine.kernels import blas

ROOT = Path(__file__).parents[3]
READY = [{"uri": "picamera://0", "name": "imx708", "detail": "", "status": "ready"}]


class Answers:
    """Returns recorded output for commands that contain a word; any other command succeeds."""

    def __init__(self, **answers):
        self.answers = {"sources": (0, json.dumps(READY)), "timedatectl": (0, "yes"), **answers}

    def __call__(self, command):
        return next((answer for word, answer in self.answers.items() if word in " ".join(command)), (0, "1 /usr/lib"))


@pytest.fixture
def pi(tmp_path):
    """Write the files of a healthy Raspberry Pi 5; return their root."""
    for path, text in {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n',
        "proc/meminfo": "MemTotal: 8245000 kB\nMemAvailable: 7000000 kB\nCmaTotal: 65536 kB\nCmaFree: 60000 kB\n",
        "sys/class/thermal/thermal_zone0/temp": "51000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
        "dev/video0": "",
        "dev/media0": "",
        "dev/dma_heap/linux,cma": "",
        "var/log/syslog": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def check(root, **answers):
    return {finding.name: finding for finding in examine(Machine(root, Answers(**answers)))}


def test_a_healthy_pi_is_all_ok(pi):
    found = check(pi)
    assert found["machine"].detail == "Raspberry Pi 5 Model B Rev 1.0"
    assert "trixie" in found["system"].detail
    found.pop("groups")  # the user who runs the tests may lack them
    assert [finding for finding in found.values() if finding.status is not CheckStatus.OK] == []
    assert found["cma"].detail == "58 MB free of 64"


def write(root, path, text):
    (root / path).write_text(text)


THROTTLED, MEMORY = "sys/devices/platform/soc/soc:firmware/get_throttled", "proc/meminfo"
FAULTS = {
    "numpy abi": (
        {"simplejpeg": (1, "numpy.dtype size changed")},
        None,
        "simplejpeg",
        "fail",
        "rm -rf .venv",
    ),
    "no libcamera": ({"libcamera": (1, "No module named 'libcamera'")}, None, "libcamera", "fail", "apt install"),
    "no libGL": ({"cv2": (1, "ImportError: libGL.so.1: cannot open")}, None, "opencv", "fail", "libgl1"),
    "no camera": ({"sources": (0, "[]")}, None, "cameras", "warn", "ribbon cable"),
    "cameras hang": ({"sources": (124, "no answer within 20 s")}, None, "cameras", "fail", "--debug"),
    "clock": ({"timedatectl": (0, "no")}, None, "clock", "warn", "set-ntp"),
    "under-voltage": (
        {},
        (THROTTLED, "50005"),
        "power",
        "warn",
        "power supply",
    ),
    "throttled": ({}, (THROTTLED, "e0000"), "power", "warn", "heat sink"),
    "hot": ({}, ("sys/class/thermal/thermal_zone0/temp", "84000"), "temperature", "warn", "fan"),
    "cma": (
        {},
        (MEMORY, "MemAvailable: 700000 kB\nCmaTotal: 65536 kB\nCmaFree: 900 kB"),
        "cma",
        "warn",
        "cma-256",
    ),
    "memory": ({}, (MEMORY, "MemTotal: 400000 kB\nMemAvailable: 70000 kB"), "memory", "warn", "--workers 1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_has_its_line_and_its_remedy(pi, case):
    answers, change, name, status, remedy = FAULTS[case]
    if change:
        write(pi, *change)
    finding = check(pi, **answers)[name]
    assert finding.status.value == status
    assert remedy in finding.remedy


def test_the_remedy_for_a_closed_device_names_its_group(pi, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: "video0" not in str(path))
    finding = check(pi)["video nodes"]
    assert finding.status is CheckStatus.FAIL
    assert "usermod -aG" in finding.remedy


def test_a_pi_without_dma_heap_fails(pi):
    (pi / "dev/dma_heap/linux,cma").unlink()
    assert check(pi)["dma_heap"].status is CheckStatus.FAIL


UNIT = "ActiveState={}\nSubState=x\nNRestarts=3\nUnitFileState=enabled\nStatusText=camera 30.0\nExecMainStatus={}"


@pytest.mark.parametrize(
    ("state", "exit_status", "status", "expected"),
    [
        ("active", 0, "ok", "restarts 3; camera 30.0"),
        ("failed", 78, "fail", "check-config"),
        ("failed", 70, "fail", "journalctl"),
    ],
)
def test_the_state_of_the_service_is_reported(pi, state, exit_status, status, expected):
    (pi / "etc/systemd/system").mkdir(parents=True)
    write(pi, "etc/systemd/system/camapp.service", "")
    finding = check(pi, systemctl=(0, UNIT.format(state, exit_status)))["service"]
    assert finding.status.value == status
    assert expected in finding.detail + finding.remedy


def test_the_remedy_for_a_full_disk_frees_some_space(pi, monkeypatch):
    usage = type("Usage", (), {"free": 50e6, "total": 32e9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = check(pi)
    assert found["disk"].status is found["log's disk"].status is CheckStatus.WARN
    assert "sudo apt clean" in found["disk"].remedy


def test_shared_memory_is_reported_and_never_a_fault(pi, monkeypatch):
    (pi / "dev/shm").mkdir()
    assert check(pi)["/dev/shm"].status is CheckStatus.OK


@pytest.mark.parametrize(("groups", "missing"), [([], "video, render"), (["video"], "render")])
def test_the_remedy_for_missing_groups_adds_the_user_to_them(pi, monkeypatch, groups, missing):
    listed = [doctor.grp.struct_group((name, "x", 5000 + n, [])) for n, name in enumerate(("video", "render"))]
    own = [group.gr_gid for group in listed if group.gr_name in groups]
    monkeypatch.setattr(doctor.grp, "getgrall", lambda: listed)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1)
    monkeypatch.setattr(doctor.os, "getegid", lambda: 1)
    monkeypatch.setattr(doctor.os, "getgroups", lambda: own)
    finding = check(pi)["groups"]
    assert finding.status is CheckStatus.WARN
    assert f"is not in {missing}" in finding.detail
    assert f"usermod -aG {missing.replace(', ', ',')}" in finding.remedy


def test_a_numpy_without_a_fast_blas_is_reported(pi, monkeypatch):
    monkeypatch.setattr(blas, "describe", lambda: blas.Blas("reference", path="/usr/lib/blas/libblas.so.3"))
    finding = check(pi)["blas"]
    assert finding.status is CheckStatus.WARN
    assert "libopenblas" in finding.remedy


def test_a_blas_that_computes_wrong_fails(pi, monkeypatch):
    assert check(pi)["matrix products"].status is CheckStatus.OK
    monkeypatch.setattr(blas, "product_error", lambda side: 40.0)
    finding = check(pi)["matrix products"]
    assert finding.status is CheckStatus.FAIL
    assert "computes wrong products" in finding.detail
    assert "numpy" in finding.remedy


def test_a_32_bit_system_fails(pi, monkeypatch):
    monkeypatch.setattr(doctor.sys, "maxsize", 2**31 - 1)
    assert check(pi)["system"].status is CheckStatus.FAIL


def test_unreadable_throttling_flags_are_reported_on_a_pi_only(pi):
    (pi / THROTTLED).unlink()
    assert check(pi)["power"].status is CheckStatus.WARN
    (pi / "proc/device-tree/model").unlink()
    assert "power" not in check(pi)


@pytest.mark.parametrize(
    ("connector", "free", "expected"),
    [
        (None, True, "DISPLAY is not set"),
        ("disconnected", True, "printed or logged"),
        ("connected", True, "for --display drm"),
        ("connected", False, "in use by"),
    ],
)
def test_the_screen_and_the_displays_that_can_use_it_are_reported(pi, monkeypatch, connector, free, expected):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no cage
    monkeypatch.setattr("camapp.system.displays._is_free", lambda card: free)
    (pi / "dev/dri").mkdir()
    (pi / "dev/dri/card1").touch()
    if connector:
        folder = pi / "sys/class/drm/card1-HDMI-A-1"
        folder.mkdir(parents=True)
        (folder / "status").write_text(connector)
        (folder / "modes").write_text("1920x1080\n")
    finding = check(pi)["display"]
    assert finding.status is CheckStatus.OK
    assert expected in finding.detail


def test_a_clock_of_unknown_state_is_no_fault(pi):
    assert check(pi, timedatectl=(127, "no program"))["clock"].status is CheckStatus.OK


def test_a_check_that_breaks_does_not_stop_the_others():
    def broken(machine):
        raise OSError("odd kernel")
        yield

    found = examine(Machine(), (broken, *doctor.CHECKS[:2]))
    assert found[0].status is CheckStatus.WARN
    assert "odd kernel" in found[0].detail
    assert {finding.name for finding in found} >= {"machine", "python", "numpy", "blas"}


def test_a_machine_without_files_and_commands_can_be_examined(tmp_path):
    assert {finding.name for finding in examine(Machine(tmp_path, lambda command: (127, "none"))) if finding.detail}


def test_the_report_is_a_table_with_remedies_or_json(capsys):
    findings = [doctor.ok("python", "3.13"), doctor.fail("opencv", "libGL.so.1", "sudo apt install -y libgl1")]
    print_report(findings, as_json=False)
    assert "-> sudo apt install -y libgl1" in capsys.readouterr().out
    print_report(findings, as_json=True)
    assert [item["verdict"] for item in json.loads(capsys.readouterr().out)] == ["ok", "fail"]


@pytest.mark.slow
def test_the_command_works_on_this_machine():
    done = subprocess.run(
        [sys.executable, "-m", "camapp", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    findings = json.loads(done.stdout)
    assert done.returncode == any(finding["verdict"] == "fail" for finding in findings)
    assert {"machine", "numpy", "blas", "cameras", "clock", "service"} <= {finding["name"] for finding in findings}
