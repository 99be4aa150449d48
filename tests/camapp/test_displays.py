from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from camapp import displays


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "DISPLAY is not set"),
        ({"DISPLAY": ""}, "DISPLAY is not set"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "install xwayland"),
        ({"DISPLAY": "nonsense"}, "expected something like ':0'"),
        ({"DISPLAY": ":abc"}, "expected something like ':0'"),
        ({"DISPLAY": ":99999"}, "expected something like ':0'"),
        ({"DISPLAY": ":4321"}, "does not answer"),
        ({"DISPLAY": "127.0.0.1:4321"}, "does not answer"),
        ({"DISPLAY": "no such host:1"}, "does not answer"),
    ],
)
def test_without_a_display_the_reason_is_told(environ: dict[str, str], words: str) -> None:
    display = displays.probe(environ)
    assert not display
    assert display.kind is displays.Kind.NONE
    assert words in display.reason


def test_a_server_on_a_local_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X4322")
        server.listen(1)
        assert displays.probe({"DISPLAY": ":4322.0"}) == displays.Display(displays.Kind.X11, ":4322.0")
        assert displays.probe({"DISPLAY": "unix:4322"})


def test_a_server_behind_tcp_is_found() -> None:
    for number in range(4000, 4050):
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", 6000 + number))
            except OSError:
                continue
            server.listen(1)
            assert displays.probe({"DISPLAY": f"127.0.0.1:{number}.0"})
            return
    pytest.skip("no free port")


def test_a_server_that_accepts_nobody_costs_a_bounded_time() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X4323")
        server.listen(0)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for caller in crowd:
                caller.setblocking(False)
                caller.connect_ex("\0/tmp/.X11-unix/X4323")
            start = time.monotonic()
            display = displays.probe({"DISPLAY": ":4323"}, timeout=0.2)
            assert not display
            assert time.monotonic() - start < 1.5
        finally:
            for caller in crowd:
                caller.close()


def test_probing_imports_no_window_code() -> None:
    code = "import sys; from camapp import displays; displays.probe({}); sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
