import os
import stat
import threading
from pathlib import Path

import pytest

from camapp.core.files import create_new, natural_key, write_atomic


def test_numbers_in_names_are_sorted_by_value():
    assert sorted(["img10.png", "img2.png", "img1.png", "a.png"], key=natural_key) == [
        "a.png", "img1.png", "img2.png", "img10.png"
    ]  # fmt: skip


def test_a_file_is_replaced_without_leftovers(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["settings.toml"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_atomic(tmp_path / "none" / "file", b"")


def test_a_new_file_takes_the_first_free_name_and_changes_no_other(tmp_path):
    (tmp_path / "film.mp4").write_text("first")
    assert [create_new(tmp_path / "film.mp4").name for _ in range(2)] == ["film-2.mp4", "film-3.mp4"]
    assert create_new(tmp_path / "new" / "film").name == "film"
    assert (tmp_path / "film.mp4").read_text() == "first"


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_pipes_and_devices_are_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"data")
    reader.join(10)
    assert read == [b"data"]
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomic(tmp_path / "null", b"data")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
