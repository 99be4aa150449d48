"""Network streams that FFmpeg reads, pipes, and the sentence for each reason why one gives no picture."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from camapp.capture.source import EndOfStream, SourceOptions, create_source
from camapp.core.errors import ExitCode, PermanentSourceError, SourceAbsent, SourceDenied, SourceError, SourceLost
from tests.programs import program


def ffmpeg(*arguments, **options):
    return subprocess.Popen([program("ffmpeg"), "-v", "error", "-y", *map(str, arguments)], **options)


PICTURES = "-f", "lavfi", "-i", "testsrc=size=160x120:rate=20"
H264 = "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"


def opened(uri, **options):
    source = create_source(uri, SourceOptions(**options))
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        source.open()
        stack.pop_all()
    return source


def read_into(source, shots, timeout=5):
    """Read until an exception is raised."""
    while True:
        shots.append(source.read(timeout))


@contextlib.contextmanager
def listener(answer=b"", close=False):
    """Serve one TCP port; yield its number. Each request gets `answer`."""
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                held.append(connection)
                with contextlib.suppress(OSError):
                    while answer and connection.recv(65536):
                        connection.sendall(answer)
                        if close:
                            connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in held:
            connection.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def reason(uri, **options):
    with pytest.raises(SourceError) as caught:
        opened(uri, **options).close()
    return caught.value


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_unknown_host_is_named(scheme):
    error = reason(f"{scheme}://no-such-host.invalid/x")
    assert isinstance(error, SourceAbsent)
    assert "no host is called 'no-such-host.invalid'" in str(error)


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp", "http"])
def test_a_refused_port_is_named(scheme):
    port = free_port()
    error = reason(f"{scheme}://127.0.0.1:{port}/x")
    assert isinstance(error, SourceAbsent)
    assert f"127.0.0.1:{port} refuses the connection" in str(error)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_silent_host_is_named_in_bounded_time(scheme):
    with listener() as port:
        start = time.monotonic()
        error = reason(f"{scheme}://127.0.0.1:{port}/x", open_timeout=0.7)
        assert isinstance(error, SourceLost)
        assert ("sent nothing within" in str(error)) or ("sent no picture within" in str(error))
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("uri", "what"), [("{}@", "refuses this user and password"), ("", "wants a user and a password")]
)
def test_an_rtsp_camera_that_wants_another_password_is_not_asked_again(uri, what):
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    with listener(answer) as port:
        error = reason(f"rtsp://{uri.format('me:hunter2')}127.0.0.1:{port}/x")
    assert isinstance(error, SourceDenied)
    assert error.code == ExitCode.DENIED
    assert what in str(error)
    assert "hunter2" not in str(error)


def test_a_missing_rtsp_path_is_named():
    with listener(b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n") as port:
        assert "has no such stream: check the path" in str(reason(f"rtsp://127.0.0.1:{port}/x"))


@pytest.mark.parametrize("password", ["p#w", "p/w", "p?w", "12#3", "#x", "a#b@c"])
def test_a_password_with_bare_special_characters_is_refused_with_the_remedy(password):
    error = reason(f"rtsp://admin:{password}@camera/x")
    assert "%23" in str(error)
    assert password not in str(error)
    assert isinstance(error, PermanentSourceError)


@pytest.mark.parametrize(
    "uri", ["http://camera/a@b", "http://[::1]:8080/x", "rtsp://a:b%23@camera:554/x?y=z", "udp://@:5000"]
)
def test_ordinary_addresses_are_accepted(uri):
    create_source(uri, SourceOptions())


def test_a_wrong_port_is_named():
    assert "the port in" in str(reason("http://camera:99999/x"))


def test_what_ffmpeg_was_built_without_is_named_with_a_way_round():
    error = reason("rist://127.0.0.1:9")
    assert isinstance(error, PermanentSourceError)
    assert "cannot read rist://" in str(error)
    assert "ffmpeg -i" in str(error)


@pytest.mark.slow
def test_a_stream_by_udp_is_read_and_its_silence_noticed():
    port = free_port()
    sender = ffmpeg("-re", *PICTURES, *H264, "-g", 5, "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316")
    try:
        source = opened(f"udp://127.0.0.1:{port}")
        assert source.read(5).view.size == (160, 120)
    finally:
        sender.kill()
        sender.wait()
    start = time.monotonic()
    with pytest.raises(SourceLost, match="sends no more frames"):
        read_into(source, [], 0.5)
    assert time.monotonic() - start < 5
    source.close()


def test_a_live_mpeg_ts_that_changes_its_size_goes_on(caplog):
    port = free_port()
    source = create_source(f"tcp://127.0.0.1:{port}?listen=1", SourceOptions(open_timeout=10))

    def send():
        for size in ("160x120", "320x240"):
            time.sleep(0.5)
            pictures = "-f", "lavfi", "-i", f"testsrc=size={size}:rate=20"
            sent = ffmpeg(*pictures, "-frames:v", 20, *H264, "-f", "mpegts", "-", stdout=subprocess.PIPE)
            connection.sendall(sent.communicate()[0])
        connection.shutdown(socket.SHUT_WR)

    def connect():
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", port))
            time.sleep(0.02)

    opening = threading.Thread(target=source.open)
    opening.start()
    connection = connect()
    send()
    opening.join()
    shots = []
    with pytest.raises(SourceLost, match="sends no more frames"):
        read_into(source, shots)
    sizes = [shot.view.size for shot in shots]
    source.close()
    connection.close()
    assert sizes == [(160, 120)] * 20 + [(320, 240)] * 20
    assert "changes from 160x120 h264 yuv420p to 320x240 h264 yuv420p" in caplog.text


LIVE = {
    "fragmented MP4": ("video/mp4", *H264, "-g", "5", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "MPEG-TS": ("video/mp2t", *H264, "-g", "5", "-f", "mpegts"),
    "FLV": ("video/x-flv", *H264, "-g", "5", "-f", "flv"),
    "octets": ("application/octet-stream", *H264, "-g", "5", "-f", "mpegts"),
}


@pytest.mark.parametrize("kind", LIVE)
def test_a_live_container_over_http_is_read_to_its_end(kind):
    mime, *output = LIVE[kind]
    made = ffmpeg(*PICTURES, "-frames:v", 20, *output, "-", stdout=subprocess.PIPE)
    body = made.communicate()[0]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {mime}\r\nConnection: close\r\n\r\n".encode()
    with listener(head + body, close=True) as port:
        source = opened(f"http://127.0.0.1:{port}/live")
        shots = []
        with pytest.raises(SourceLost, match=r"sends no more frames|breaks off"):
            read_into(source, shots)
        source.close()
    assert source.live
    assert [shot.view.size for shot in shots] == [(160, 120)] * 20


# Pipes

PIPES = {
    "MPEG-TS": (*H264, "-f", "mpegts"),
    "H.264": (*H264, "-f", "h264"),
    "MJPEG": ("-c:v", "mjpeg", "-pix_fmt", "yuvj422p", "-f", "mjpeg"),
    "Y4M": ("-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"),
    "Matroska": (*H264, "-f", "matroska"),
    "MP4": (*H264, "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
}


@pytest.mark.parametrize("kind", PIPES)
def test_a_camera_programs_pipe_is_read_to_its_end(tmp_path, kind):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = ffmpeg(*PICTURES, "-frames:v", 30, *PIPES[kind], pipe)
    source = opened(str(pipe))
    assert source.live
    shots = []
    with pytest.raises(SourceLost, match="has closed it"):
        read_into(source, shots)
    source.close()
    writer.wait()
    assert [shot.view.size for shot in shots] == [(160, 120)] * 30


def run_with_input(feed, *arguments):
    command = sys.executable, "-m", "camapp", "--source", "-", "--model", "mnist", "--display", "none", *arguments
    return subprocess.run(command, stdin=feed, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_standard_input_is_a_source_and_its_end_ends_the_run():
    writer = ffmpeg("-re", *PICTURES, "-frames:v", 40, *PIPES["MPEG-TS"], "-", stdout=subprocess.PIPE)
    done = run_with_input(writer.stdout)
    writer.stdout.close()
    writer.wait()
    assert done.returncode == 0
    assert "the other program has ended" in done.stderr
    assert "captured 40" in done.stderr


def test_a_file_as_standard_input_is_read_as_a_file(tmp_path):
    path = tmp_path / "film.mp4"
    ffmpeg(*PICTURES, "-frames:v", 7, *H264, path).wait()
    code = (
        "from camapp.capture.source import *\nsource = create_source('-', SourceOptions()); source.open()\n"
        "count = 0\ntry:\n    while source.read(1): count += 1\nexcept EndOfStream: print(source.live, count)"
    )
    with path.open("rb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, timeout=30)
    assert done.stdout == "False 7\n", done.stderr


def test_a_pipe_without_a_writer_is_lost_in_bounded_time(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    error = reason(str(tmp_path / "pipe"), open_timeout=0.3)
    assert isinstance(error, SourceLost)
    assert "nothing arrives" in str(error)


def test_a_pipe_of_text_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"yes no video | head -c 100000 > {tmp_path}/pipe"])
    assert "brings no video that FFmpeg knows" in str(reason(str(tmp_path / "pipe")))
    writer.wait()


def test_the_wait_for_a_pipe_ends_with_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    source = create_source(str(tmp_path / "pipe"), SourceOptions())
    source.stopping = threading.Event()
    source.stopping.set()
    with pytest.raises(EndOfStream):
        source.open()
    source.close()
