"""Downloads against a local server with every awkward answer; the file is whole or not there at all."""

import hashlib
import os
import socket
import time

import pytest

from camapp.system import download
from camapp.system.download import DownloadError, fetch
from tests.camapp.file_server import DATA, server

SHA256 = hashlib.sha256(DATA).hexdigest()
WEB_PAGE = b"<!DOCTYPE html><title>Log in to the hotel's network</title>"


def test_a_file_is_downloaded_completely(tmp_path):
    progress = []
    with server() as served:
        path = fetch(served.url, tmp_path / "new" / "file", SHA256, lambda *done: progress.append(done), len(DATA))
    assert path.read_bytes() == DATA
    assert progress[-1] == (len(DATA), len(DATA))
    assert [item.name for item in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_first_digits_of_a_checksum_are_enough(tmp_path):
    with server() as served:
        assert fetch(served.url, tmp_path / "file", SHA256[:8]).read_bytes() == DATA


def test_an_interrupted_download_resumes(tmp_path):
    with server(stop_after=100_000) as served:
        with pytest.raises(DownloadError, match=r"the connection ended after 100000 of 256000 bytes.*it resumes"):
            fetch(served.url, tmp_path / "file", SHA256)
        assert not (tmp_path / "file").exists()
        fetch(served.url, tmp_path / "file", SHA256)
    assert served.requested == [None, "bytes=100000-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_without_range_requests_the_download_restarts(tmp_path):
    (tmp_path / "file.part").write_bytes(b"old beginning")
    with server(ranges=False) as served:
        fetch(served.url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("size", [0, len(DATA)])
def test_a_complete_part_file_is_only_verified(tmp_path, size):
    (tmp_path / "file.part").write_bytes(DATA)
    with server() as served:
        fetch(served.url, tmp_path / "file", SHA256, size=size)
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(served.requested) == (0 if size else 1)


@pytest.mark.parametrize("old", [b"x" * 1000, b"x" * len(DATA), b"x" * (len(DATA) + 1)])
@pytest.mark.parametrize("size", [0, len(DATA)])
def test_the_beginning_of_an_older_file_costs_one_more_download_and_no_damage(tmp_path, old, size):
    (tmp_path / "file.part").write_bytes(old)
    with server() as served:
        fetch(served.url, tmp_path / "file", SHA256, size=size)
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(served.requested) <= 2


def test_a_wrong_checksum_keeps_the_old_file_and_removes_the_part_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with server() as served, pytest.raises(DownloadError, match=r"its checksum is \w+\.\.\., not 00000000"):
        fetch(served.url, tmp_path / "file", "0" * 64)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"body": WEB_PAGE, "kind": "text/html; charset=utf-8"}, "a web page"),
        ({"body": WEB_PAGE, "length": -1}, "a web page"),
        ({"body": DATA[:-1]}, "offers 255,999 bytes instead of 256,000"),
        ({"body": DATA + b"x"}, "offers 256,001 bytes instead of 256,000"),
        ({"body": DATA + b"x", "length": -1}, "sends more than 256,000 bytes"),
        ({"body": bytes(len(DATA))}, "it changed, or was damaged"),
        ({"body": b""}, "offers 0 bytes|ended after 0 of"),
    ],
)
def test_another_file_is_never_left_behind(tmp_path, answer, reason):
    with server(**answer) as served, pytest.raises(DownloadError, match=reason) as caught:
        fetch(served.url, tmp_path / "file", SHA256, size=len(DATA))
    assert served.url in str(caught.value)
    assert f"put it at {tmp_path / 'file'}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file").exists()
    with server() as served:
        assert fetch(served.url, tmp_path / "file", SHA256, size=len(DATA)).read_bytes() == DATA


def test_a_part_that_was_not_requested_is_refused(tmp_path):
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    with server(content_range="bytes 0-5/*") as served, pytest.raises(DownloadError, match="another part"):
        fetch(served.url, tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_server_names_its_address(tmp_path):
    with server(status=404) as served, pytest.raises(DownloadError, match=r"cannot download http.*404 Not Found"):
        fetch(served.url, tmp_path / "file", SHA256)


def test_redirects_are_followed_up_to_a_limit(tmp_path):
    with server() as served:
        served.redirects += [served.url + "?1", served.url + "?2"]
        assert fetch(served.url, tmp_path / "file", SHA256).read_bytes() == DATA
        served.redirects += [served.url] * 30
        with pytest.raises(DownloadError, match="cannot download"):
            fetch(served.url, tmp_path / "other", SHA256)


def test_a_redirect_away_from_encryption_is_refused():
    handler = download._Redirects()
    request = download.urllib.request.Request("https://example.org/file")
    with pytest.raises(OSError, match="without encryption"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/file")


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "OPEN_S", 0.2)
    before = time.monotonic()
    with server(silent=True) as served, pytest.raises(DownloadError, match=r"no answer within 0 s.*it resumes"):
        fetch(served.url, tmp_path / "file", SHA256)
    assert time.monotonic() - before < 5


def test_a_server_that_drips_is_given_up_and_the_rest_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW_S", 0.2)
    with server(pause=0.02) as served:
        with pytest.raises(DownloadError, match=r"only \d+ bytes in"):
            fetch(served.url, tmp_path / "file", SHA256)
        kept = (tmp_path / "file.part").stat().st_size
        assert kept > 1
        served.pause = 0
        fetch(served.url, tmp_path / "file", SHA256)
    assert served.requested == [None, f"bytes={kept}-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_without_a_network_the_error_has_a_remedy(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(DownloadError, match=r"Connection refused.*go online.*put it at .*/file$"):
        fetch(url, tmp_path / "file", SHA256)


def test_a_full_disk_is_reported_and_given_its_space_back(tmp_path):
    (tmp_path / "file.part").symlink_to("/dev/full")
    with server() as served, pytest.raises(DownloadError, match="No space left on device"):
        fetch(served.url, tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_seen_before_the_download(tmp_path):
    with server() as served, pytest.raises(DownloadError, match=r"MB are needed: make room"):
        fetch(served.url, tmp_path / "file", SHA256, size=1 << 60)
    assert served.requested == []


def test_a_second_program_does_not_write_into_the_same_file(tmp_path):
    part = tmp_path / "file.part"
    with part.open("ab+") as handle:
        download.fcntl.flock(handle, download.fcntl.LOCK_EX)
        with server() as served, pytest.raises(DownloadError, match=r"another program is downloading .*file\.part"):
            fetch(served.url, tmp_path / "file", SHA256)
    assert part.exists()


def test_a_file_that_another_program_has_just_completed_is_not_touched(tmp_path, monkeypatch):
    lock = download.fcntl.flock

    def lock_late(file, operation):
        os.replace(tmp_path / "file.part", tmp_path / "file")
        lock(file, operation)

    (tmp_path / "file.part").write_bytes(b"whole")
    monkeypatch.setattr(download.fcntl, "flock", lock_late)
    with server() as served, pytest.raises(DownloadError, match="another program has just"):
        fetch(served.url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_created_raises_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch("http://127.0.0.1:9/", tmp_path / "file" / "below", SHA256)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_has_its_own_exit_code(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DownloadError, match="Permission denied") as caught:
        fetch("http://127.0.0.1:9/", tmp_path / "file", SHA256)
    assert caught.value.code == 77
