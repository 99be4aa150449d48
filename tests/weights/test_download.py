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
    """Serves DATA; `stop_after` ends the first answer early. Yields (address, ranges asked for)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
            code = status if status != 200 else 206 if start else 200
            body = DATA[start:] if status == 200 else b""
            if start and start >= len(DATA):
                code, body = 416, b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:stop_after] if stop_after and len(asked) == 1 else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}/file", asked
        finally:
            made.shutdown()
            thread.join(5)


def test_a_file_is_fetched_whole(tmp_path):
    told = []
    with server() as (url, _):
        path = fetch(url, tmp_path / "new" / "file", SHA256, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_a_broken_download_goes_on_where_it_stopped(tmp_path):
    with server(stop_after=100_000) as (url, asked):
        with pytest.raises(WeightsError, match=r"the connection ended after 100000 of 256000 bytes.*it resumes"):
            fetch(url, tmp_path / "file", SHA256)
        assert not (tmp_path / "file").exists()
        fetch(url, tmp_path / "file", SHA256)
    assert asked == [None, "bytes=100000-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_without_ranges_starts_anew(tmp_path):
    (tmp_path / "file.part").write_bytes(b"old beginning")
    with server(ranges=False) as (url, _):
        fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_what_had_arrived_whole_is_only_checked(tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    with server() as (url, _):
        fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_wrong_checksum_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with server() as (url, _), pytest.raises(WeightsError, match="checksum expected 00000000"):
        fetch(url, tmp_path / "file", "0" * 64)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_refusing_server_is_named(tmp_path):
    with server(status=404) as (url, _), pytest.raises(WeightsError, match=r"cannot download http.*Not Found"):
        fetch(url, tmp_path / "file", SHA256)


def test_offline_says_what_to_do(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(WeightsError, match=r"go online and try again \(it resumes\), or put the file at .*/file$"):
        fetch(url, tmp_path / "file", SHA256)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot write"):
        fetch("http://127.0.0.1:9/", tmp_path / "file" / "below", SHA256)
