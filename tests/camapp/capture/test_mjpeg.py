"""Motion JPEG over HTTP as cameras send it, still pictures that are polled, and what is no stream at all."""

import base64
import contextlib
import hashlib
import http.server
import os
import threading
import time
from itertools import count, groupby
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from camapp.capture.http_stream import HttpStream
from camapp.capture.mjpeg import JpegSplitter
from camapp.capture.source import EndOfStream, SourceOptions, create_source
from camapp.core.errors import PermanentSourceError, SourceDenied, SourceError, SourceLost

GAP = 0.005


def jpeg(level=100, size=(64, 48), sampling=0x411111, quality=90, *flags):
    picture = np.full((size[1], size[0], 3), level, np.uint8)
    picture[: size[1] // 2] = (0, 0, 200)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *flags]
    if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def part(data, *, end=b"\r\n", length=0, boundary=b"frame"):
    head = b"--" + boundary, b"Content-Type: image/jpeg", b"Content-Length: %d" % (len(data) + length)
    return end.join(head) + 2 * end + data + end


def thumbnail(data):
    """Put a whole JPEG picture into the APP1 segment of another."""
    inner = b"Exif\0\0" + jpeg(size=(16, 16))
    return data[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + data[2:]


def half(data):
    """Return a JPEG picture with the first half of its pixels."""
    return data[: (data.rindex(b"\xff\xda") + len(data)) // 2]


MULTIPART = "multipart/x-mixed-replace; boundary=frame"
# Of each variant: Content-Type, and the bytes of the k-th picture.
VARIANTS = {
    "plain": (MULTIPART, lambda k: part(jpeg())),
    "quoted": ('Multipart/X-Mixed-Replace; Boundary="frame"', lambda k: part(jpeg())),
    "line-feeds": (MULTIPART, lambda k: part(jpeg(), end=b"\n")),
    "wrong-length": (MULTIPART, lambda k: part(jpeg(), length=10)),
    "short-length": (MULTIPART, lambda k: part(jpeg(), length=-300)),
    "no-length": (MULTIPART, lambda k: b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg() + b"\r\n"),
    "esp32": (MULTIPART, lambda k: part(jpeg())[len("--frame\r\n") :] + b"--frame\r\n"),
    "no-first-boundary": (MULTIPART, lambda k: b"\r\n\r\n" + jpeg() + b"\r\n--frame\r\nContent-Type: image/jpeg"),
    "other-boundary": (MULTIPART, lambda k: part(jpeg(), boundary=b"other")),
    "no-boundary-named": ("multipart/x-mixed-replace", lambda k: part(jpeg())),
    "preamble": (MULTIPART, lambda k: (b"A stream\r\n\r\n" if not k else b"") + part(jpeg())),
    "huge-headers": (MULTIPART, lambda k: b"--frame\r\nX: " + b"a" * 20000 + b"\r\n\r\n" + jpeg() + b"\r\n"),
    "bare": ("video/x-motion-jpeg", lambda k: jpeg()),
    "octets": ("application/octet-stream", lambda k: jpeg()),
    "no-type": ("", lambda k: part(jpeg())),
    "padded": (MULTIPART, lambda k: part(jpeg() + bytes(64))),
    "thumbnail": (MULTIPART, lambda k: part(thumbnail(jpeg()))),
    "progressive": (MULTIPART, lambda k: part(jpeg(100, (64, 48), 0x411111, 90, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))),
    "restart-markers": (MULTIPART, lambda k: part(jpeg(100, (64, 48), 0x411111, 90, cv2.IMWRITE_JPEG_RST_INTERVAL, 1))),
    "no-end": (MULTIPART, lambda k: part(jpeg()[:-2])),
}
OTHERS = {
    "cut": (MULTIPART, lambda k: part(half(jpeg()) if k % 3 == 1 else jpeg())),
    "damaged": (MULTIPART, lambda k: part(jpeg() if k % 3 != 1 else b"\xff\xd8\xff\xc0\0\x08broken\xff\xd9")),
    "grows": (MULTIPART, lambda k: part(jpeg(size=(64, 48) if k < 5 else (128, 96)))),
    "shrinks": (MULTIPART, lambda k: part(jpeg(size=(128, 96) if k < 5 else (64, 48)))),
    "sampling": (MULTIPART, lambda k: part(jpeg(sampling=0x111111 if k < 5 else 0x411111))),
    "numbered": (MULTIPART, lambda k: part(jpeg(k % 256))),
    "endless-picture": (MULTIPART, lambda k: b"\xff\xd8\xff\xda\0\2" + b"\x55" * 4000 if not k else b"\x55" * 4000),
    "endless-text": (MULTIPART, lambda k: b"--frame\r\n" + b"x" * 200_000),
}


class Camera(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path).path.strip("/")
        self.server.seen.append(self.path)
        if path in VARIANTS or path in OTHERS:
            kind, pictures = {**VARIANTS, **OTHERS}[path]
            self.stream(kind, pictures)
        else:
            getattr(self, "do_" + path)()

    def answer(self, status, kind, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, kind=MULTIPART, pictures=VARIANTS["plain"][1], chunked=False):
        self.send_response(200)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for k in count():
                data = pictures(k)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                time.sleep(GAP)

    def do_chunked(self):
        self.stream(chunked=True)

    def do_redirect(self):
        self.answer(302, "text/plain", Location="/basic")

    def do_circle(self):
        self.answer(302, "text/plain", Location="/circle")

    def do_astray(self):
        self.answer(302, "text/plain", Location="http://me:wrong@127.0.0.1:99999/")

    def do_basic(self):
        if self.headers["Authorization"] == "Basic " + base64.b64encode(b"me:p#w/\xc3\xa4").decode():
            self.stream()
        else:
            self.answer(401, "text/html", b"<html>", WWW_Authenticate='Basic realm="camera"')

    def do_digest(self):
        given = self.headers["Authorization"] or ""
        if given.startswith("Digest"):
            fields = dict(item.strip().split("=", 1) for item in given[7:].split(","))
            value = {name: text.strip('"') for name, text in fields.items()}

            def digest(*texts):
                return hashlib.md5(":".join(texts).encode()).hexdigest()

            keys = digest("me", "camera", "secret"), digest("GET", self.path)
            middle = (value[name] for name in ("nonce", "nc", "cnonce", "qop"))
            if value["response"] == digest(keys[0], *middle, keys[1]):
                self.stream()
                return
        self.answer(401, "text/html", WWW_Authenticate='Digest realm="camera", nonce="abc", qop="auth"')

    def do_snapshot(self):
        number = len(self.server.seen)
        self.answer(200, "image/jpeg", jpeg(size=(64 + 16 * (number % 2), 48)))

    def do_picture(self):
        self.answer(200, "image/png", cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())

    def do_page(self):
        self.answer(200, "text/html", b"<html><img src=/plain></html>")

    def do_text(self):
        self.answer(200, "text/plain", b"camera is off\nand so on")

    def do_film(self):
        self.answer(200, "video/mp4", b"\0\0\0\x18ftypmp42" + bytes(5000))

    def do_nothing(self):
        self.answer(200, MULTIPART)

    def do_busy(self):
        self.answer(503, "text/plain")

    def do_absent(self):
        self.answer(404, "text/html", b"<html>")

    def do_stall(self):
        pictures = iter([part(jpeg()), part(jpeg())[:200]])
        self.stream(pictures=lambda k: next(pictures, b"") or self.server.stalled.wait(20) or b"")

    def do_drip(self):
        self.stream(pictures=lambda k: part(jpeg()) if not k else b"\xff\xd8\xff"[min(k - 1, 2) :][:1])

    def do_garbage(self):
        self.wfile.write(b"RTSP/1.0 400 Bad\r\n\r\n")
        self.close_connection = True

    def log_message(self, *args): ...


@pytest.fixture(scope="module")
def camera():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        server.stalled = threading.Event()
        server.seen = []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.stalled.set()
        server.shutdown()


@pytest.fixture
def opened(camera):
    with contextlib.ExitStack() as stack:

        def open_(path, user="", **options):
            uri = f"http://{user}127.0.0.1:{camera.server_port}/{path}"
            source = create_source(uri, SourceOptions(**options))
            stack.callback(source.close)
            source.open()
            return source

        yield open_


def read_into(source, shots, timeout=2):
    """Read until an exception is raised."""
    while True:
        shots.append(source.read(timeout))


@pytest.mark.parametrize("path", [*VARIANTS, "chunked"])
def test_pictures_are_found_however_a_camera_packs_them(opened, path):
    source = opened(path)
    for _ in range(6):
        picture = source.read(2).view
        assert picture.size == (64, 48)
        assert np.abs(picture.rgb()[[4, -4], 8].astype(int) - [(200, 0, 0), (100, 100, 100)]).max() < 12
    assert source.live


NEEDS_SAMPLING = pytest.mark.skipif(
    not hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"), reason="OpenCV before 4.7 writes JPEG with one sampling only"
)


@pytest.mark.parametrize("path", ["grows", "shrinks", pytest.param("sampling", marks=NEEDS_SAMPLING)])
def test_a_change_is_reported_and_its_first_picture_is_right(opened, path, caplog):
    source = opened(path)
    shots = [source.read(2) for _ in range(10)]
    before, after = (128, 96) if path == "shrinks" else (64, 48), (128, 96) if path == "grows" else (64, 48)
    assert [size for size, _ in groupby(shot.view.size for shot in shots)] == [*dict.fromkeys((before, after))]
    for shot in shots:
        assert np.abs(shot.view.rgb()[[4, -4], 8].astype(int) - [(200, 0, 0), (100, 100, 100)]).max() < 12
    assert caplog.text.count(" changes from ") == 1


def test_a_slow_reader_gets_new_pictures_and_not_those_that_waited(opened):
    source = opened("numbered")
    first = int(source.read(2).view.gray()[-4, 8])
    time.sleep(0.3)
    later = int(source.read(2).view.gray()[-4, 8])
    assert 20 < later - first < 200


@pytest.mark.parametrize(("path", "words"), [("cut", "cut off"), ("damaged", "cannot be decoded")])
def test_damaged_pictures_are_left_out_and_said_once(opened, path, words, caplog):
    source = opened(path)
    for _ in range(8):
        picture = source.read(2).view
        assert np.abs(picture.rgb()[-4, 8].astype(int) - 100).max() < 12
    assert caplog.text.count(words) == 1


@pytest.mark.parametrize(
    ("path", "user", "error", "words"),
    [
        ("basic", "", SourceDenied, "wants a user and a password"),
        ("basic", "me:wrong@", SourceDenied, "refuses this user and password"),
        ("digest", "me:wrong@", SourceDenied, "refuses this user and password"),
        ("absent", "", SourceLost, "has no such stream"),
        ("busy", "", SourceLost, "503 Service Unavailable"),
        ("circle", "", SourceLost, "redirects in a circle"),
        ("astray", "", SourceLost, "redirects to http://***@127.0.0.1:99999/, which is no address"),
        ("page", "", PermanentSourceError, "is a web page"),
        ("text", "", PermanentSourceError, "answers with text, not with video: 'camera is off'"),
        ("film", "", PermanentSourceError, "is a file, not a live stream"),
        ("nothing", "", SourceLost, "answers with nothing"),
        ("garbage", "", SourceLost, "does not speak HTTP"),
        ("endless-text", "", SourceLost, "no JPEG picture in 1 MB"),
    ],
)
def test_what_is_no_stream_is_named(opened, path, user, error, words):
    with pytest.raises(SourceError) as caught:
        opened(path, user)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "user"), [("basic", "me:p%23w%2F%C3%A4@"), ("digest", "me:secret@"), ("redirect", "me:p%23w%2F%C3%A4@")]
)
def test_user_and_password_are_sent_if_the_camera_wants_them(opened, path, user):
    source = opened(path, user)
    assert source.read(2).view.size == (64, 48)
    assert "p%23" not in source.describe()


def test_a_camera_that_wants_a_password_later_may_be_asked_again(opened, camera, monkeypatch):
    source = opened("basic", "me:p%23w%2F%C3%A4@")
    monkeypatch.setattr(Camera, "do_basic", lambda self: self.answer(401, "text/html"))
    with pytest.raises(SourceLost, match="refuses this user"):
        source.open()


@pytest.mark.parametrize("path", ["stall", "endless-picture", "drip"])
def test_the_wait_for_a_whole_picture_is_bounded(opened, path):
    start = time.monotonic()
    with pytest.raises(SourceLost, match=r"sends no more frames|sent no picture"):
        read_into(opened(path, open_timeout=1.0), [], 0.5)
    assert time.monotonic() - start < 4


def test_only_a_read_has_a_deadline(camera):
    uri = f"http://127.0.0.1:{camera.server_port}/plain"
    stream = HttpStream(uri, time.monotonic() + 5, threading.Event())
    assert stream.read(time.monotonic() + 0.1)
    time.sleep(0.3)
    # More than the sockets' buffers, so that a connection that was cut shows.
    assert all(stream.read(time.monotonic() + 5) for _ in range(20))
    stream.close()


def test_a_wait_ends_with_the_run(opened):
    source = create_source(opened("stall").uri, SourceOptions())
    source.stopping = threading.Event()
    source.open()
    source.read(1)
    threading.Timer(0.2, source.stopping.set).start()
    start = time.monotonic()
    with pytest.raises(EndOfStream):
        source.read(30)
    source.close()
    assert time.monotonic() - start < 3


def test_a_still_picture_is_asked_for_at_the_requested_rate(opened, camera):
    source = opened("snapshot", fps=20)
    camera.seen.clear()
    start = time.monotonic()
    sizes = {source.read(2).view.size for _ in range(11)}
    assert time.monotonic() - start > 0.45
    assert len(camera.seen) == 10
    assert sizes == {(64, 48), (80, 48)}
    assert source.fps == 20
    assert opened("picture", fps=50).read(2).view.size == (64, 48)


def test_no_thread_and_no_descriptor_is_left(opened):
    def used():
        names = [thread.name for thread in threading.enumerate() if thread.name in ("http", "dns")]
        return len(names), len(os.listdir("/proc/self/fd"))

    opened("plain").close()
    time.sleep(0.3)
    before = used()
    for path in ("plain", "snapshot", "plain"):
        opened(path).close()
    with contextlib.suppress(SourceError):
        opened("page")
    time.sleep(0.3)
    assert used()[0] <= before[0]
    # Those of the server's connections, which belong to this process too, may end later.
    assert used()[1] <= before[1] + 8


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_pictures_are_the_same_however_their_bytes_arrive(step):
    pictures = [jpeg(level) for level in (10, 100, 200)] + [thumbnail(jpeg(50))]
    stream = b"".join(part(picture) for picture in pictures)
    splitter = JpegSplitter()
    found = [found.data for at in range(0, len(stream), step) for found in splitter.add(stream[at : at + step])]
    assert found == pictures
    assert splitter.cut == 0


def test_any_bytes_are_cut_into_pictures_without_an_error():
    random = np.random.default_rng(1)
    good = jpeg()
    for _ in range(60):
        data = bytearray(part(good) * 2)
        for at in random.integers(0, len(data), 20):
            data[at] = random.choice([0xFF, 0xD8, 0xD9, 0xDA, 0x00, random.integers(256)])
        splitter = JpegSplitter()
        assert all(item.data.startswith(b"\xff\xd8") for item in splitter.add(bytes(data)))
        # A wrong length skips 64 KB at most.
        assert [item.data for item in splitter.add(part(good) * 100)][-1:] == [good]
