"""Tests the page from end to end: a stand-in for the camera, the real server process, and real sockets."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
pytest.importorskip("websockets", reason="the extra 'web' is not installed")

from websockets.sync.client import connect

from camapp.core.errors import SinkError
from camapp.remote.web.interface import WebInterface, check_packages
from tests.camapp.remote.web.stand_in import StandIn

FPS = 30


class Site:
    """Serves a page whose cameras make 30 frames a second."""

    def __init__(self, folder, names=("camera",), address="127.0.0.1:0", size=(320, 240), **options):
        self.cameras = [StandIn(folder, name) for name in names]
        self.lines = []
        options |= {"state": folder / "state", "metrics": lambda: "up 1\n", "print_line": self.lines.append}
        self.interface = WebInterface(self.cameras, address, **options)
        self.interface.attach()
        self.size = size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._make_frames, daemon=True)

    def __enter__(self):
        self.interface.start()
        for camera in self.cameras:
            for sink in camera.image_sinks:
                sink.start()
        self._thread.start()
        self.wait_until_served()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(5)
        self.interface.stop()

    def _make_frames(self):
        while not self._ended.wait(1 / FPS):
            for camera in self.cameras:
                camera.film(self.size)

    @property
    def port(self):
        return self.interface.address.port

    def wait_until_served(self):
        """Wait for the server process: the port accepts connections before it answers."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("/status")[0] in (200, 401):
                    return
            time.sleep(0.05)
        raise AssertionError("the page was not served within 30 s")

    def ask(self, path, body=None, headers=None):
        """Send a request; return (code, body, headers)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            kind = {"content-type": "application/json"} if body is not None else {}
            connection.request(
                "GET" if body is None else "POST",
                path,
                None if body is None else json.dumps(body),
                kind | (headers or {}),
            )
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)

    def json(self, path, body=None):
        code, content, _ = self.ask(path, body)
        assert code == 200, content
        return json.loads(content)


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as site:
        yield site


def images(port, path="/stream.mjpg"):
    """Yield (seq, image) of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        stream = connection.getresponse()
        assert stream.status == 200
        while True:
            length = seq = None
            while (line := stream.readline().strip()) or length is None:
                name, _, value = line.partition(b":")
                if name == b"Content-Length":
                    length = int(value)
                elif name == b"X-Seq":
                    seq = int(value)
            yield seq, cv2.imdecode(np.frombuffer(stream.read(length), np.uint8), cv2.IMREAD_GRAYSCALE)


def test_the_image_moves(site):
    stream = images(site.port)
    seen = [next(stream) for _ in range(10)]
    stream.close()
    assert [seq for seq, _ in seen] == sorted({seq for seq, _ in seen})
    for seq, image in seen:
        assert image.shape == (240, 320)
        assert abs(int(image.mean()) - seq % 256) <= 2


def test_images_are_drawn_only_while_a_client_reads_them(site):
    assert not site.cameras[0].wanted()
    code, jpeg, headers = site.ask("/snapshot.jpg")
    assert (code, headers["content-type"], jpeg[:2]) == (200, "image/jpeg", b"\xff\xd8")
    deadline = time.monotonic() + 5
    while site.cameras[0].wanted() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not site.cameras[0].wanted()


def test_the_image_size_may_change(site):
    stream = images(site.port)
    next(stream)
    site.size = (64, 48)
    deadline = time.monotonic() + 5
    while next(stream)[1].shape != (48, 64):
        assert time.monotonic() < deadline
    stream.close()


def test_predictions_and_status(site):
    deadline = time.monotonic() + 10
    while not (found := site.json("/api/predictions?since=-1")["predictions"]):
        assert time.monotonic() < deadline
    assert found[0]["label"] == str(found[0]["seq"] % 10)
    assert found[0]["values"] == {"m": None}
    status = site.json("/status")
    assert status["cameras"][0]["figures"]["drops"] == {"late": 2}
    assert "mnist" in status["cameras"][0]["models"]
    assert isinstance(status["cameras"][0]["models"], list)
    assert site.ask("/metrics")[1] == b"up 1\n"


def test_a_status_fits_a_packet_whatever_the_number_of_labels(tmp_path, monkeypatch):
    camera, sizes = StandIn(tmp_path), []
    camera.labels = tuple(f"class number {number}" for number in range(21_841))
    interface = WebInterface([camera], "127.0.0.1:0", state=tmp_path)
    monkeypatch.setattr(interface, "_send", lambda message: sizes.append(len(json.dumps(message))))
    interface._send_status()
    # The kernel's usual limit (net.core.wmem_max).
    assert sizes[0] < 208 << 10


def test_the_socket_sends_predictions_and_notices(site):
    with connect(f"ws://127.0.0.1:{site.port}/live") as socket_:
        assert json.loads(socket_.recv(timeout=10))["hello"]["cameras"][0]["name"] == "camera"
        seqs, notices, states = [], [], []
        site.json("/api/pause", {"client": "tab1"})
        deadline = time.monotonic() + 10
        while (len(seqs) < 30 or not notices or "paused" not in states) and time.monotonic() < deadline:
            message = json.loads(socket_.recv(timeout=10))
            seqs += [record["seq"] for record in message.get("predictions", {}).get("camera", [])]
            notices += message.get("notices", [])
            states += [message["status"]["camera"]["state"]] if "status" in message else []
    assert seqs == sorted(set(seqs))  # one may be missing on a busy machine
    assert len(seqs) >= 30
    assert notices == [{"camera": "camera", "text": "paused", "by": "tab1"}]
    assert "paused" in states


def test_several_cameras(tmp_path):
    with Site(tmp_path, ["porch", "yard"]) as site:
        site.json("/cameras/yard/api/pause", {})
        assert [camera.paused for camera in site.cameras] == [False, True]
        assert site.json("/cameras/yard/status")["camera"] == "yard"
        assert site.ask("/cameras/nix/status")[0] == 404
        seq, _ = next(images(site.port, "/cameras/yard/stream.mjpg"))
        assert seq >= 0


def test_a_killed_server_process_is_restarted(site):
    old = site.interface.pid
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while site.interface.pid in (old, None) and time.monotonic() < deadline:
        time.sleep(0.05)
    site.wait_until_served()
    assert next(images(site.port))[0] > 0


@pytest.mark.slow
def test_a_server_process_that_hangs_is_replaced(tmp_path):
    with Site(tmp_path, answer_s=1.0) as site:
        old = site.interface.pid
        os.kill(old, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while site.interface.pid in (old, None) and time.monotonic() < deadline:
            time.sleep(0.05)
        site.wait_until_served()


def test_stop_is_quick_even_with_clients(tmp_path):
    site = Site(tmp_path)
    with site:
        stream = images(site.port)
        next(stream)
        pid = site.interface.pid
        since = time.monotonic()
    assert time.monotonic() - since < 4
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_port_in_use_is_reported_in_a_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        interface = WebInterface([StandIn(tmp_path)], f"127.0.0.1:{taken.getsockname()[1]}", state=tmp_path)
        with pytest.raises(SinkError, match="another program has this port") as raised:
            interface.start()
        interface.stop()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("address", "why"), [("192.0.2.1:80", "no such address"), ("no-such.invalid", "no such")])
def test_an_address_of_another_machine_is_rejected(tmp_path, address, why):
    interface = WebInterface([StandIn(tmp_path)], address, state=tmp_path)
    with pytest.raises(SinkError, match=why):
        interface.start()
    interface.stop()


def test_other_machines_need_the_token_which_is_shown_once(tmp_path, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with Site(tmp_path, address="0.0.0.0:0") as site:
        token = (tmp_path / "state" / "web-token").read_text().strip()
        assert any(token in line for line in site.lines)
        assert site.ask("/status")[0] == 401
        assert site.ask("/status", headers={"authorization": f"Bearer {token}"})[0] == 200
        assert site.ask("/snapshot.jpg", headers={"authorization": f"Bearer {token}"})[0] == 200
    with Site(tmp_path, address="0.0.0.0:0") as site:
        assert not any(token in line for line in site.lines)
        assert site.ask("/status", headers={"authorization": f"Bearer {token}"})[0] == 200


@pytest.mark.slow
def test_a_request_that_never_ends_is_closed(site):
    ends = []
    with contextlib.ExitStack() as stack:
        for opening in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=20))
            sock.sendall(opening)
            ends.append(sock)
        since = time.monotonic()
        for sock in ends:
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100) == b""
        assert time.monotonic() - since < 12


def test_too_many_connections_drop_idle_ones(site):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=5))
        assert site.ask("/status")[0] == 200


def test_missing_packages_are_reported_in_a_line():
    with pytest.raises(SinkError, match=r"--web needs no_such_package: .* -m pip install starlette no_such_package"):
        check_packages(("starlette", "no_such_package"))
