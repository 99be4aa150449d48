"""Hostile clients of the page: they neither disturb the run nor leave anything behind."""

import contextlib
import json
import os
import random
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
pytest.importorskip("websockets", reason="the extra 'web' is not installed")

from camapp.system.process import rss_bytes
from tests.camapp.remote.web.test_interface import Site, images

MALFORMED = 10_000
HOST = b"Host: localhost\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"


def get(target, *headers):
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in headers) + b"\r\n"


def post(target, body, *headers):
    lines = (b"Content-Length: %d" % len(body), *headers)
    return b"POST " + target + b" HTTP/1.1\r\n" + JSON + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def upgrade(*headers):
    usual = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    return get(b"/live", *usual, *headers)


KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
BARE_POST = b"POST /api/roi HTTP/1.1\r\n" + JSON
ODD_HEADERS = (b" folded", b"no colon", b"X: \0", b"X : y", b": y")
ODD_PATHS = (b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"//etc/passwd")
ODD_NUMBERS = (b"nan", b"1e9", b"%00", b"--1", b"0x1")
# Each kind is a function of a random generator, so that no two requests are quite the same.
KINDS = {
    "noise": lambda r: r.randbytes(r.randint(1, 2000)),
    "a TLS greeting": lambda r: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + r.randbytes(200),
    "HTTP/2's preface": lambda r: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + r.randbytes(30),
    "no version": lambda r: b"GET /%d\r\n\r\n" % r.getrandbits(32),
    "a version of its own": lambda r: b"GET / HTTP/%d.9\r\n" % r.randint(2, 99) + HOST + b"\r\n",
    "a method of its own": lambda r: b"X" * r.randint(1, 300) + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method not allowed": lambda r: r.choice([b"PUT", b"DELETE", b"TRACE", b"CONNECT"]) + get(b"/status")[3:],
    "no host": lambda r: b"GET /status HTTP/1.1\r\n\r\n",
    "two hosts": lambda r: get(b"/status", b"Host: localhost"),
    "another's host": lambda r: b"GET /status HTTP/1.1\r\nHost: x%d.example\r\n\r\n" % r.getrandbits(20),
    "a header without end": lambda r: b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 100_000,
    "thousands of headers": lambda r: get(b"/", *(b"X-%d: y" % number for number in range(2000))),
    "a folded, bare, or null header": lambda r: get(b"/", r.choice(ODD_HEADERS)),
    "a path out of here": lambda r: get(r.choice(ODD_PATHS)),
    "a path of odd bytes": lambda r: get(b"/%ff%fe%00" + b"%" * r.randint(1, 9) + b"/\x80"),
    "a path without end": lambda r: get(b"/" + b"a" * r.randint(10_000, 15_000)),
    "a camera of odd name": lambda r: get(b"/cameras/%2e%2e%2f" + b"%0a" * r.randint(1, 50) + b"/status"),
    "a query without end": lambda r: get(b"/api/predictions?since=" + b"9" * r.randint(100, 12_000)),
    "a query that is not a number": lambda r: get(b"/api/predictions?since=" + r.choice(ODD_NUMBERS)),
    "a negative length": lambda r: BARE_POST + b"Content-Length: -%d\r\n\r\n" % r.randint(1, 9),
    "a length that lies": lambda r: post(b"/api/roi", b"{}", b"Content-Length: %d" % r.randint(3, 99)),
    "a huge length": lambda r: BARE_POST + b"Content-Length: 99999999999999\r\n\r\n{}",
    "length and chunks": lambda r: post(b"/api/roi", b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "chunks of odd size": lambda r: BARE_POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n",
    "a body too large": lambda r: post(b"/api/roi", b" " * r.randint(17_000, 60_000)),
    "a body that is not JSON": lambda r: post(b"/api/roi", r.randbytes(r.randint(1, 500))),
    "JSON too deep": lambda r: post(b"/api/roi", b"[" * 8000),
    "JSON of a huge number": lambda r: post(b"/api/roi", b'{"roi": [' + b"9" * 10_000 + b", 0, 1, 1]}"),
    "an invalid region": lambda r: post(
        b"/api/roi", json.dumps({"roi": [r.uniform(-9, 9)] * r.choice((1, 3, 4, 5, 99))}).encode()
    ),
    "a model that is a path": lambda r: post(
        b"/api/model", b'{"model": "../../../etc/passwd\\u0000%d"}' % r.getrandbits(16)
    ),
    "a form from elsewhere": lambda r: post(b"/api/pause", b"{}", b"Origin: http://evil%d.example" % r.getrandbits(16)),
    "pipelined requests": lambda r: get(b"/nowhere") * r.randint(2, 40),
    "a stream begun and left": lambda r: get(b"/stream.mjpg"),
    "a socket without key": lambda r: upgrade(),
    "a socket from elsewhere": lambda r: upgrade(KEY, b"Origin: http://evil.example"),
    "a socket, then noise": lambda r: upgrade(KEY) + r.randbytes(r.randint(1, 3000)),
    "a socket, then a huge frame": lambda r: upgrade(KEY) + b"\x82\xff" + b"\x7f" * 8 + b"\0" * 500,
}


def attack(port, requests):
    """Send each on its own connection, 16 at a time; return the number of answers by the code's first digit."""
    answers = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for request in requests:
            while len(selector.get_map()) >= 16:
                reap(selector, answers)
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            # The server may close the connection before it has the whole request.
            with contextlib.suppress(ConnectionError):
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
            selector.register(sock, selectors.EVENT_READ, time.monotonic() + 1.0)
        deadline = time.monotonic() + 20
        while selector.get_map() and time.monotonic() < deadline:
            reap(selector, answers)
    return answers


def reap(selector, answers):
    for key, _ in selector.select(0.05):
        try:
            answer = key.fileobj.recv(100)
        except ConnectionError:
            answer = b""
        code = answer[9:10].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "none"
        answers[code] = answers.get(code, 0) + 1
        selector.unregister(key.fileobj)
        key.fileobj.close()
    for key in list(selector.get_map().values()):
        if time.monotonic() > key.data:
            answers["silence"] = answers.get("silence", 0) + 1
            selector.unregister(key.fileobj)
            key.fileobj.close()


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Watch:
    """Checks that an ordinary client gets all predictions while others attack."""

    def __init__(self, site):
        self.site, self.since = site, site.json("/api/predictions?limit=1")["next"]
        self.pid, self.lost = site.interface.pid, site.interface.lost
        self.files = descriptors(self.pid), descriptors(os.getpid())

    def check(self):
        """Assert that nothing crashed, nothing was lost, and nothing is left behind."""
        site = self.site
        assert site.interface.pid == self.pid
        assert site.interface.lost == self.lost
        stream = images(site.port)
        assert next(stream)[0] >= 0
        stream.close()
        deadline = time.monotonic() + 30
        while descriptors(self.pid) > self.files[0] + 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert descriptors(self.pid) <= self.files[0] + 3
        found = [record["seq"] for record in site.json("/api/predictions")["predictions"]]
        assert found == list(range(found[0], found[0] + len(found)))


def test_each_kind_of_malformed_request_is_answered_or_closed(tmp_path, capfd):
    with Site(tmp_path) as site:
        watch, model = Watch(site), site.cameras[0].settings.model
        for name, kind in KINDS.items():
            answers = attack(site.port, [kind(random.Random(seed)) for seed in range(4)])
            assert "5" not in answers, (name, answers)
            assert site.ask("/status")[0] == 200, name
        watch.check()
        # No client can fill the log.
        assert capfd.readouterr().err == ""
        assert not site.cameras[0].paused
        assert site.cameras[0].settings.model == model


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_malformed_requests_leave_nothing_behind(tmp_path, capsys):
    with Site(tmp_path) as site:
        rng = random.Random(7)
        kinds = list(KINDS.values())
        # Fills all caches first.
        attack(site.port, [rng.choice(kinds)(rng) for _ in range(1000)])
        watch, memory = Watch(site), rss_bytes([site.interface.pid])
        since = time.monotonic()
        answers = attack(site.port, (rng.choice(kinds)(rng) for _ in range(MALFORMED)))
        span = time.monotonic() - since
        watch.check()
        grown = rss_bytes([site.interface.pid]) - memory
        with capsys.disabled():
            print(f"\n{MALFORMED} requests of {len(kinds)} kinds in {span:.0f} s: {dict(sorted(answers.items()))}")
            print(f"server: RSS {memory / 1e6:.0f} MB, grown by {grown / 1e6:.1f} MB")
            print(f"refused: {site.json('/status')['web']['refused']}")
        assert "5" not in answers
        assert grown < 20e6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slow_clients_neither_block_others_nor_stay(tmp_path):
    with Site(tmp_path) as site:
        watch = Watch(site)
        over = threading.Event()
        socks = []

        def trickle():
            while not over.wait(0.5):
                for sock in socks:
                    with contextlib.suppress(OSError):
                        sock.send(b"X-a: b\r\n")

        with contextlib.ExitStack() as stack:
            for number in range(400):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
                sock.setblocking(False)
                opening = [b"GET / HTTP/1.1\r\n" + HOST, post(b"/api/roi", b"{")[:-1], get(b"/stream.mjpg"), b""][
                    number % 4
                ]
                with contextlib.suppress(OSError):
                    sock.send(opening)
                socks.append(sock)
            thread = threading.Thread(target=trickle, daemon=True)
            thread.start()
            try:
                until = time.monotonic() + 20
                while time.monotonic() < until:
                    assert site.ask("/api/predictions?limit=1")[0] == 200
                    time.sleep(0.5)
            finally:
                over.set()
                thread.join(5)
            assert site.interface.pid == watch.pid
        watch.check()


@pytest.mark.slow
def test_a_client_of_the_socket_that_does_not_read_is_dropped(tmp_path):
    with Site(tmp_path) as site:
        watch, memory = Watch(site), rss_bytes([site.interface.pid])
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", site.port))
            sock.sendall(upgrade(KEY))
            ping = b"\x89\xfd" + b"\0\0\0\0" + b"p" * 125
            sock.settimeout(1.0)
            with contextlib.suppress(OSError):
                for _ in range(200_000):
                    sock.sendall(ping)
        assert rss_bytes([site.interface.pid]) - memory < 30e6
        watch.check()
