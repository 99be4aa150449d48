"""The page from end to end: a stand-in for the camera, the real process that serves, and a real network."""

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
    """A served page whose cameras film at 30 frames a second."""

    def __init__(self, folder, names=("camera",), address="127.0.0.1:0", size=(320, 240)):
        self.cameras = [StandIn(folder, name) for name in names]
        self.said = []
        self.face = WebInterface(
            self.cameras, address, state=folder / "state", metrics=lambda: "up 1\n", say=self.said.append
        )
        self.size = size
        self._over = threading.Event()
        self._filming = threading.Thread(target=self._film, daemon=True)

    def __enter__(self):
        self.face.start()
        for camera in self.cameras:
            for sink in camera.image_sinks:
                sink.start()
        self._filming.start()
        self.wait_until_served()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._filming.join(5)
        self.face.stop()

    def _film(self):
        while not self._over.wait(1 / FPS):
            for camera in self.cameras:
                camera.film(self.size)

    @property
    def port(self):
        return self.face.address.port

    def wait_until_served(self):
        """The port takes connections at once; an answer comes when the process has started."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("/status")[0] in (200, 401):
                    return
            time.sleep(0.05)
        raise AssertionError("the page was not served within 30 s")

    def ask(self, path, body=None, headers=None):
        """(code, body, headers) of one request."""
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
    """Yields (seq, image) of a stream."""
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


def test_nothing_is_drawn_while_nobody_looks(site):
    assert not site.cameras[0].wanted()
    code, jpeg, headers = site.ask("/snapshot.jpg")
    assert (code, headers["content-type"], jpeg[:2]) == (200, "image/jpeg", b"\xff\xd8")
    deadline = time.monotonic() + 5
    while site.cameras[0].wanted() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not site.cameras[0].wanted()


def test_a_image_that_changes_its_size(site):
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
    status = site.json("/status")
    assert status["cameras"][0]["figures"]["drops"] == {"late": 2}
    assert "mnist" in status["cameras"][0]["models"]
    assert isinstance(status["cameras"][0]["models"], list)
    assert site.ask("/metrics")[1] == b"up 1\n"


def test_the_socket_follows_predictions_and_tells_of_orders(site):
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
    assert seqs == sorted(set(seqs))  # one may be missing where the machine is so busy that the server does not take it
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


def test_the_serving_process_is_started_again(site):
    old = site.face.pid
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while site.face.pid in (old, None) and time.monotonic() < deadline:
        time.sleep(0.05)
    site.wait_until_served()
    assert next(images(site.port))[0] > 0


@pytest.mark.slow
def test_one_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("camapp.remote.web.interface._HANGS_S", 1.0)
    with Site(tmp_path) as site:
        old = site.face.pid
        os.kill(old, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while site.face.pid in (old, None) and time.monotonic() < deadline:
            time.sleep(0.05)
        site.wait_until_served()


def test_the_end_is_quick_even_with_visitors(tmp_path):
    site = Site(tmp_path)
    with site:
        stream = images(site.port)
        next(stream)
        pid = site.face.pid
        since = time.monotonic()
    assert time.monotonic() - since < 4
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_taken_port_is_told_in_a_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        face = WebInterface([StandIn(tmp_path)], f"127.0.0.1:{taken.getsockname()[1]}", state=tmp_path)
        with pytest.raises(SinkError, match="another program has this port") as told:
            face.start()
        face.stop()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("address", "why"), [("192.0.2.1:80", "no such address"), ("no-such.invalid", "no such")])
def test_an_address_that_is_not_ours(tmp_path, address, why):
    face = WebInterface([StandIn(tmp_path)], address, state=tmp_path)
    with pytest.raises(SinkError, match=why):
        face.start()
    face.stop()


def test_other_machines_need_the_token_which_is_told_once(tmp_path, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with Site(tmp_path, address="0.0.0.0:0") as site:
        token = (tmp_path / "state" / "web-token").read_text().strip()
        assert any(token in line for line in site.said)
        assert site.ask("/status")[0] == 401
        assert site.ask("/status", headers={"authorization": f"Bearer {token}"})[0] == 200
        assert site.ask("/snapshot.jpg", headers={"authorization": f"Bearer {token}"})[0] == 200
    with Site(tmp_path, address="0.0.0.0:0") as site:
        assert not any(token in line for line in site.said)
        assert site.ask("/status", headers={"authorization": f"Bearer {token}"})[0] == 200


@pytest.mark.slow
def test_a_request_that_never_ends_is_ended(site):
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


def test_more_connections_than_there_is_room_for_push_out_idle_ones(site):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=5))
        assert site.ask("/status")[0] == 200


def test_a_lack_of_packages_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr("camapp.remote.web.interface._NEEDED", ("starlette", "no_such_package"))
    with pytest.raises(SinkError, match=r"--web needs no_such_package: .* -m pip install starlette no_such_package"):
        check_packages()
