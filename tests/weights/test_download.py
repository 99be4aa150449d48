import hashlib
import http.server
import socket
import threading
from contextlib import contextmanager

import pytest

from weights import WeightsError
from weights.download import fetch

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@contextmanager
def server(*, ranges=True, stop_after=None, status=200):
    """Serve DATA; `stop_after` truncates the first response. Yields (address, requested ranges)."""
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            requested.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
            code = status if status != 200 else 206 if start else 200
            body = DATA[start:] if status == 200 else b""
            if start and start >= len(DATA):
                code, body = 416, b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:stop_after] if stop_after and len(requested) == 1 else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}/file", requested
        finally:
            made.shutdown()
            thread.join(5)


def test_a_file_is_downloaded_completely(tmp_path):
    progress = []
    with server() as (url, _):
        path = fetch(url, tmp_path / "new" / "file", SHA256, lambda done, total: progress.append((done, total)))
    assert path.read_bytes() == DATA
    assert progress[-1] == (len(DATA), len(DATA))
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_an_interrupted_download_resumes(tmp_path):
    with server(stop_after=100_000) as (url, requested):
        with pytest.raises(WeightsError, match=r"the connection ended after 100000 of 256000 bytes.*it resumes"):
            fetch(url, tmp_path / "file", SHA256)
        assert not (tmp_path / "file").exists()
        fetch(url, tmp_path / "file", SHA256)
    assert requested == [None, "bytes=100000-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_without_range_requests_the_download_restarts(tmp_path):
    (tmp_path / "file.part").write_bytes(b"old beginning")
    with server(ranges=False) as (url, _):
        fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_complete_part_file_is_only_verified(tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    with server() as (url, _):
        fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_wrong_checksum_keeps_the_old_file_and_removes_the_part_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with server() as (url, _), pytest.raises(WeightsError, match="checksum expected 00000000"):
        fetch(url, tmp_path / "file", "0" * 64)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_error_of_the_server_names_its_address(tmp_path):
    with server(status=404) as (url, _), pytest.raises(WeightsError, match=r"cannot download http.*Not Found"):
        fetch(url, tmp_path / "file", SHA256)


def test_without_a_network_the_error_has_a_remedy(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(WeightsError, match=r"go online and try again \(it resumes\), or put the file at .*/file$"):
        fetch(url, tmp_path / "file", SHA256)


def test_a_folder_that_cannot_be_created_raises_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot write"):
        fetch("http://127.0.0.1:9/", tmp_path / "file" / "below", SHA256)
