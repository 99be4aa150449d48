"""The check before a start: it finds all that would prevent one, and leaves everything as it was."""

import os
import shutil
import socket
import subprocess

import cv2
import numpy as np
import pytest

from camapp.app import check
from camapp.core.errors import SourceLost
from camapp.core.settings import load_settings


def faults_of(*tables, **settings):
    found = check([load_settings(table, environment={}) for table in tables or (settings,)])
    assert bool(found.summary) is not bool(found.faults)
    return [str(fault) for fault in found.faults]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    return path


def test_what_can_run_has_no_fault_and_is_left_as_it_was(tmp_path, video):
    outputs = {"log": tmp_path / "log.jsonl", "record": tmp_path / "new" / "%Y.mp4", "clips": tmp_path / "clips"}
    settings = {name: str(path) for name, path in outputs.items()} | {"clip_on": "score>0.9"}
    (tmp_path / "old.jsonl").write_text("old\n")
    assert faults_of(source=str(video), model="mnist", **settings) == []
    assert faults_of(source="pattern://digits", model="mnist", log=str(tmp_path / "old.jsonl")) == []
    assert faults_of(source="auto", model="mnist", log="-") == []
    assert sorted(os.listdir(tmp_path)) == ["film.avi", "old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "old\n"


def test_all_faults_are_found_at_once(tmp_path):
    (tmp_path / "file").touch()
    faults = faults_of(
        source=str(tmp_path / "absent.mp4"),
        model="absent.npz",
        log=str(tmp_path / "file" / "log.jsonl"),
        record=str(tmp_path / "film.gif"),
        clips=str(tmp_path / "file"),
        clip_on="score>0.9",
        on_label="no-such-program-here",
        drive="serial:///dev/no-such-line",
    )
    expected = ("absent.mp4", "absent.npz", "write the log", "film.gif", "clips", "no-such-program", "no-such-line")
    for words in expected:
        assert sum(words in fault for fault in faults) >= 1, (words, faults)
    assert len(faults) == 7, faults


def test_each_camera_is_checked(tmp_path):
    cameras = [{"name": name, "source": str(tmp_path / name), "model": "mnist"} for name in ("door", "garden")]
    assert len(faults_of(*cameras)) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "mnist", "drive": "udp://127.0.0.1:5005"}, "a model that follows a track"),
        ({"model": "track", "drive": "udp://no-such-host.invalid:5005"}, "cannot open it"),
        ({"model": "mnist", "display": "drm"}, "picamera"),
        ({"model": "mnist", "labels": "a,b"}, "2 labels"),
        ({"model": "cifar10", "clip_on": "catt"}, "did you mean 'cat'"),
        ({"model": "mnist", "mqtt": "mqtt://u@h", "mqtt_password_file": "/no/such/file"}, "mqtt-password-file"),
    ],
)
def test_what_a_start_would_refuse_is_a_fault(settings, words):
    (fault,) = faults_of(source="pattern://digits", **settings)
    assert words in fault


def test_a_damaged_film_an_empty_folder_and_a_silent_stream_are_faults(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    (tmp_path / "empty").mkdir()
    assert "film.mp4" in faults_of(source=str(tmp_path / "film.mp4"), model="mnist")[0]
    assert "no images" in faults_of(source=str(tmp_path / "empty"), model="mnist")[0]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/stream"
        found = check([load_settings({"source": address, "model": "mnist"}, environment={})])
    assert isinstance(found.faults[0], SourceLost)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a disk")
def test_a_disk_that_cannot_be_written_is_a_fault(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        faults = faults_of(
            source="pattern://digits", model="mnist", log=str(disk / "log.jsonl"), record=str(disk / "film.mp4")
        )
        assert len(faults) == 2
        assert all("Read-only file system" in fault for fault in faults)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
