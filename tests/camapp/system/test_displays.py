from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camapp.system import displays


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
def test_without_a_display_the_reason_is_returned(environ: dict[str, str], words: str) -> None:
    display = displays.probe(environ)
    assert not display
    assert display.kind is displays.DisplayKind.NONE
    assert words in display.reason


def test_a_server_on_a_local_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X4322")
        server.listen(1)
        assert displays.probe({"DISPLAY": ":4322.0"}) == displays.Display(displays.DisplayKind.X11, ":4322.0")
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


def test_a_server_that_accepts_no_connection_costs_a_bounded_time() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X4323")
        server.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex("\0/tmp/.X11-unix/X4323")
            start = time.monotonic()
            display = displays.probe({"DISPLAY": ":4323"}, timeout=0.2)
            assert not display
            assert time.monotonic() - start < 5
        finally:
            for client in clients:
                client.close()


def test_probing_imports_no_window_code() -> None:
    code = "import sys; from camapp.system import displays; displays.probe({}); sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.fixture
def kiosk_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cage", "Xwayland"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("WLR_BACKENDS", raising=False)
    return folder


def connector(root: Path, name: str, status: str) -> None:
    folder = root / "sys/class/drm" / name
    folder.mkdir(parents=True)
    (folder / "status").write_text(f"{status}\n")


def test_a_kiosk_needs_its_programs_and_the_reason_names_their_packages(tmp_path: Path, kiosk_programs: Path) -> None:
    (kiosk_programs / "Xwayland").unlink()
    assert "sudo apt install -y xwayland" in displays.probe_kiosk(tmp_path).reason
    (kiosk_programs / "cage").unlink()
    assert "sudo apt install -y cage" in displays.probe_kiosk(tmp_path).reason


def test_a_kiosk_needs_a_connected_screen(tmp_path: Path, kiosk_programs: Path) -> None:
    assert "no screen connector" in displays.probe_kiosk(tmp_path).reason
    connector(tmp_path, "card1-HDMI-A-1", "disconnected")
    assert displays.probe_kiosk(tmp_path) == displays.Display(
        displays.DisplayKind.NONE, "no display: no screen is connected"
    )
    connector(tmp_path, "card1-HDMI-A-2", "connected")
    assert displays.probe_kiosk(tmp_path) == displays.Display(displays.DisplayKind.KIOSK, "card1-HDMI-A-2")
