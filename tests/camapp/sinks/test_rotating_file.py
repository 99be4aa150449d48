"""Targets of a log that are no plain files: descriptors, pipes, devices and links."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from camapp.core.files import descriptor_of
from camapp.sinks.rotating_file import RotatingFile, is_plain_file

ROOT = Path(__file__).parents[3]
LINE = b'{"a": 1}\n'


def test_a_path_that_names_an_own_descriptor_is_recognised(tmp_path):
    own = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    (tmp_path / "link").symlink_to(f"/proc/self/fd/{own}")
    (tmp_path / "chain").symlink_to("link")
    spellings = (
        f"/dev/fd/{own}",
        f"/proc/self/fd/{own}",
        f"/proc/thread-self/fd/{own}",
        f"/proc/{os.getpid()}/fd/{own}",
    )
    for spelling in (*spellings, str(tmp_path / "link"), str(tmp_path / "chain")):
        assert descriptor_of(spelling) == own, spelling
        assert not is_plain_file(spelling)
    assert descriptor_of("/dev/stdout") == 1
    assert descriptor_of(str(tmp_path / "file")) is None
    (tmp_path / "loop").symlink_to("loop")
    assert descriptor_of(str(tmp_path / "loop")) is None
    os.close(own)


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_is_never_rotated_and_keeps_its_position(tmp_path, target):
    script = (
        "import os, sys; from camapp.sinks.rotating_file import RotatingFile\n"
        "file = RotatingFile(sys.argv[1], max_bytes=20, files=3); file.open()\n"
        "for _ in range(9):\n"
        "    file.append(b'line\\n'); os.write(1, b'other\\n')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script, target], check=True, stdout=out, cwd=ROOT, timeout=60)
    assert (tmp_path / "out").read_text() == "line\nother\n" * 9
    assert os.listdir(tmp_path) == ["out"]


def test_the_file_behind_a_link_is_rotated_in_its_own_folder(tmp_path):
    (tmp_path / "disk2").mkdir()
    (tmp_path / "link.jsonl").symlink_to("disk2/real.jsonl")
    file = RotatingFile(str(tmp_path / "link.jsonl"), max_bytes=20, files=3)
    for _ in range(6):
        file.append(LINE)
    file.close()
    assert sorted(os.listdir(tmp_path)) == ["disk2", "link.jsonl"]
    assert (tmp_path / "link.jsonl").is_symlink()
    assert sorted(os.listdir(tmp_path / "disk2")) == ["real.jsonl", "real.jsonl.1"]


def test_a_device_is_written_and_never_renamed_even_by_root(tmp_path):
    controller, terminal = os.openpty()
    name = os.ttyname(terminal)
    (tmp_path / "link").symlink_to(name)
    for target in (name, str(tmp_path / "link"), "/dev/null"):
        before = os.stat(target)
        file = RotatingFile(target, max_bytes=10, files=2)
        file.open()
        for _ in range(5):
            file.append(LINE)
        file.close()
        assert file.path is None
        assert os.path.samestat(before, os.stat(target))
        assert stat.S_ISCHR(os.stat(target).st_mode)
    assert os.read(controller, 20).startswith(b'{"a": 1}')
    with pytest.raises(OSError, match="No space left"):
        RotatingFile("/dev/full").append(LINE)
    os.close(controller)
    os.close(terminal)


def test_a_file_that_cannot_be_renamed_grows_on_with_one_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", refuse)
    file = RotatingFile(str(tmp_path / "log"), max_bytes=10, files=3)
    for _ in range(10):
        file.append(LINE)
    file.close()
    assert (tmp_path / "log").read_bytes() == LINE * 10
    assert caplog.text.count("cannot be rotated") == 1
