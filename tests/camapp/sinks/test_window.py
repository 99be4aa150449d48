from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from camapp.core.frames import Trace
from camapp.core.letterbox import letterboxed
from camapp.sinks.window import WindowSink, explain
from camapp.sinks.window_process import next_area
from camapp.sinks.x_events import MAP_NOTIFY, send_to_own_windows
from camapp.system import displays
from tests.camapp.desktop import Desktop
from tests.programs import children_of

TITLE = "camapp-window-test"
needs_x = pytest.mark.skipif(
    not all(map(shutil.which, ("Xvfb", "xdotool", "import"))), reason="needs Xvfb, xdotool and ImageMagick's import"
)


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    desktop = Desktop()
    monkeypatch.setenv("DISPLAY", desktop.name)
    yield desktop
    desktop.kill()


@pytest.fixture
def managed(desktop: Desktop) -> Iterator[Desktop]:
    """A desktop with a window manager."""
    if shutil.which("openbox") is None:
        pytest.skip("needs openbox, a window manager")
    environment = {**os.environ, "DISPLAY": desktop.name}
    with subprocess.Popen(["openbox"], env=environment, stderr=subprocess.DEVNULL) as manager:
        ready = ["xdotool", "get_desktop"]  # fails without a window manager
        assert until(lambda: not subprocess.run(ready, env=environment, capture_output=True, timeout=10).returncode)
        yield desktop
        manager.terminate()


class Show:
    """A window sink that gets images from another thread, as from a renderer."""

    def __init__(self, image: np.ndarray, answer_s: float = 10.0, full_screen: bool = False) -> None:
        self.image = image
        self.keys: list[str] = []
        self.shown: list[tuple[int, int]] = []
        self.slowest = 0.0
        self.sink = WindowSink(
            TITLE, full_screen, self.keys.append, lambda *what: self.shown.append(what), retry_s=0.2, answer_s=answer_s
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)

    def __enter__(self) -> Show:
        self.sink.start()
        self._thread.start()
        return self

    def __exit__(self, *what: object) -> None:
        self._ended.set()
        self._thread.join()
        start = time.monotonic()
        self.sink.stop()
        assert time.monotonic() - start < 3
        assert not self.is_supervised()

    @staticmethod
    def is_supervised() -> bool:
        return any(thread.name == "window" for thread in threading.enumerate())

    def _feed(self) -> None:
        seq = 0
        while not self._ended.wait(1 / 60):
            start = time.thread_time()
            self.sink.show(self.image, Trace(seq))
            self.slowest = max(self.slowest, time.thread_time() - start)
            seq += 1


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def striped(width: int = 320, height: int = 240) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (0, 0, 250)
    image[:, width // 2 :] = (0, 250, 0)
    return image


def area(screen: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(screen.astype(int) - colour) < 12).all(axis=2).sum())


def fills_the_screen(desktop: Desktop) -> bool:
    """Press f once the window manager manages the window and the image is visible."""
    active = ["xdotool", "getactivewindow", "getwindowname"]
    if not until(lambda: desktop.run(*active).decode().strip() == TITLE, 10):
        return False
    if not until(lambda: 30_000 < area(desktop.image(), (0, 0, 250)) < 100_000, 10):
        return False
    desktop.press(TITLE, "f")
    return until(lambda: area(desktop.image(), (0, 0, 250)) > 0.95 * 800 * 600 / 2, 10)


def windows_run(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have the window's process run this code instead of its module, with the same arguments."""
    spawn = subprocess.Popen

    def with_code(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        if "camapp.sinks.window_process" in command:
            command = [command[0], "-c", code, *command[4:]]
        return spawn(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", with_code)


def children() -> list[str]:
    files = [Path(f"/proc/{pid}/cmdline") for pid in children_of()]
    commands = [file.read_text() for file in files if file.exists()]
    return [command for command in commands if "window_process" in command]


@needs_x
def test_window_shows_the_image_reports_times_and_keys(desktop: Desktop) -> None:
    with Show(striped()) as show:
        assert until(lambda: len(show.shown) > 5)
        assert show.sink.alive
        assert until(lambda: min(area(desktop.image(), (0, 0, 250)), area(desktop.image(), (0, 250, 0))) > 30_000)
        # The first key may arrive before the focus does.
        assert until(lambda: desktop.press(TITLE, "s") or bool(show.keys))
        first = len(show.keys)
        for key in ("H", "p", "x", "Escape", "q"):
            desktop.press(TITLE, key)
        assert until(lambda: show.keys[first:][-4:] == ["h", "p", "q", "q"]), show.keys
        assert set(show.keys[:first]) == {"s"}
        show.image = striped(400, 100)
        assert until(lambda: 0 < area(desktop.image(), (0, 0, 250)) < 30_000), "another size keeps its shape"
        seqs, stamps = zip(*show.shown, strict=True)
        assert list(seqs) == sorted(set(seqs))
        assert list(stamps) == sorted(stamps)
        assert abs(time.monotonic_ns() - stamps[-1]) < 5e9
        assert show.slowest < 0.02
    assert not children()


@needs_x
def test_full_screen_fills_the_screen(managed: Desktop) -> None:
    # On an overloaded machine a key may be lost between the window manager and the window.
    for _ in range(3):
        with Show(striped()) as show:
            if fills_the_screen(managed):
                assert until(lambda: show.keys == ["f"])
                return
    pytest.fail("three windows did not fill the screen")


@needs_x
def test_full_screen_fills_the_screen_without_a_window_manager_too(desktop: Desktop) -> None:
    with Show(striped(), full_screen=True) as show:
        assert until(lambda: show.sink.alive)
        assert until(lambda: area(desktop.image(), (0, 0, 250)) > 200_000), "the image has 4:3, as the screen"
        corners = [desktop.image()[y, x].max() for x in (0, 799) for y in (0, 599)]
        assert min(corners) > 100, corners


@needs_x
def test_the_close_button_counts_as_q(managed: Desktop) -> None:
    with Show(striped()) as show:
        assert until(lambda: show.sink.alive)

        def closed() -> bool:
            managed.press(TITLE, "alt+F4")  # repeatedly: the window manager may not manage the window yet
            time.sleep(0.1)
            return "q" in show.keys

        assert until(closed)
        assert until(lambda: not show.sink.alive)
        assert until(lambda: not children())


def test_the_last_report_is_read_even_if_the_window_left_a_frame_unread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel reports the unread frame, by ECONNRESET, before it delivers the window's last packet."""
    monkeypatch.setattr(displays, "probe", lambda: displays.Display(displays.DisplayKind.X11, ":0"))
    code = """
import select, socket, sys
from camapp.sinks.window_process import CLOSED, KEY, REPORT
parent = socket.socket(fileno=int(sys.argv[1]))
select.select([parent], [], [])
parent.send(REPORT.pack(KEY, ord(CLOSED), 0))
"""
    windows_run(monkeypatch, code)
    with Show(striped()) as show:
        assert until(lambda: not show.is_supervised())
        assert show.keys == ["q"]
    assert not caplog.records


@needs_x
# Both wait for a window: with 0 events for one that stays black.
@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 0])
def test_a_window_that_qt_does_not_paint_is_painted_after_another_map_notify(
    count: int, desktop: Desktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A false UnmapNotify has the effect of a lost MapNotify; without another one the window stays black.
    code = f"""
import sys, cv2
from camapp.sinks import window_process
from camapp.sinks.x_events import UNMAP_NOTIFY, send_to_own_windows
named_window = cv2.namedWindow
def lose_the_event(*arguments):
    named_window(*arguments)
    cv2.waitKey(500)  # the X server's own event comes first
    assert send_to_own_windows(UNMAP_NOTIFY) == 1
    cv2.waitKey(500)
cv2.namedWindow = lose_the_event
sys.exit(window_process.main(sys.argv[1:], {count}))
"""
    windows_run(monkeypatch, code)
    with Show(striped()) as show:
        assert until(lambda: show.shown)
        assert until(lambda: area(desktop.image(), (0, 0, 250)) > 30_000, 30 if count else 4) == bool(count)
        show.image = striped()[:, ::-1]
        frames = len(show.shown)
        assert until(lambda: len(show.shown) > frames + 60)
        assert (list(desktop.image()[100, 10]) == [0, 250, 0]) == bool(count)
    assert show.keys == []


@needs_x
def test_an_event_is_sent_to_windows_of_this_process_only(desktop: Desktop) -> None:
    code = """
import cv2
from camapp.sinks.x_events import MAP_NOTIFY, send_to_own_windows
print(send_to_own_windows(MAP_NOTIFY))
for title in ("one", "two"):
    cv2.namedWindow(title)
    print(send_to_own_windows(MAP_NOTIFY))
"""
    with Show(striped()) as show:
        assert until(lambda: show.shown)
        sent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=True).stdout
        assert sent.split() == [b"0", b"1", b"2"]


def test_without_an_x_server_no_event_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":99999")
    assert send_to_own_windows(MAP_NOTIFY) == 0


@needs_x
def test_a_dead_x_server_costs_the_window_only_and_a_new_one_brings_it_back(
    desktop: Desktop, caplog: pytest.LogCaptureFixture
) -> None:
    with Show(striped()) as show:
        assert until(lambda: show.sink.alive)
        desktop.kill()
        assert until(lambda: not show.sink.alive)
        time.sleep(0.6)
        assert caplog.text.count("the window is gone") == 1
        assert len(caplog.records) == 1, "one warning, however often it looks for a display"
        count = len(show.shown)
        desktop.start()
        assert until(lambda: show.sink.alive)
        assert until(lambda: len(show.shown) > count + 3)
        assert until(lambda: area(desktop.image(), (0, 0, 250)) > 30_000)


@pytest.mark.slow
@needs_x
def test_a_window_process_that_is_killed_or_hangs_is_replaced(desktop: Desktop) -> None:
    with Show(striped(), answer_s=3.0) as show:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            assert until(lambda: show.sink.alive)
            found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", TITLE], capture_output=True, timeout=10)
            os.kill(int(found.stdout.split()[0]), number)
            assert until(lambda: not show.sink.alive)
        assert until(lambda: show.sink.alive)


@needs_x
def test_the_window_ends_with_its_parent(desktop: Desktop, tmp_path: Path) -> None:
    title = f"{TITLE}-orphan"
    code = f"""
import time, numpy as np
from camapp.core.frames import Trace
from camapp.sinks.window import WindowSink
sink = WindowSink({title!r})
sink.start()
while True:
    sink.show(np.full((90, 120, 3), 200, np.uint8), Trace(0))
    if sink.alive:
        print("up", flush=True)
    time.sleep(0.02)
"""
    find = ["pgrep", "-f", f"window_process .* {title}"]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert subprocess.run(find, capture_output=True, timeout=10).stdout
        parent.kill()
    assert until(lambda: not subprocess.run(find, capture_output=True, timeout=10).stdout, 10)


def test_without_a_display_the_run_continues_with_one_warning_and_no_window_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with Show(striped()) as show:
        time.sleep(0.7)
        assert not children()
        assert not show.sink.alive
    (record,) = caplog.records
    assert "DISPLAY is not set" in record.getMessage()
    assert "the run continues without a window" in record.getMessage()


def test_an_opencv_without_windows_is_reported_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "cv2.py").write_text(
        "WINDOW_NORMAL = WINDOW_FREERATIO = WINDOW_GUI_NORMAL = 0\n"
        "class error(Exception): pass\n"
        "def namedWindow(*a): raise error('The function is not implemented. Rebuild the library with GTK')\n"
    )
    monkeypatch.setattr(displays, "probe", lambda: displays.Display(displays.DisplayKind.X11, ":0"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from camapp.sinks.window_process import main; "
    windows_run(monkeypatch, code + "sys.exit(main(sys.argv[1:]))")
    with Show(striped()) as show:
        assert until(lambda: not show.is_supervised())
        show.sink.show(striped(), None)
    assert len(caplog.records) == 1
    assert "install opencv-python instead" in caplog.text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ImportError: libGL.so.1: cannot open shared object file", "apt install libgl1"),
        ("error: odd", "no window: error: odd"),
    ],
)
def test_the_message_says_what_is_wrong_with_opencv(reason: str, words: str) -> None:
    assert words in explain(reason)


@pytest.mark.parametrize("size", [(320, 240), (800, 600), (800, 100), (100, 800), (1, 1)])
def test_images_keep_their_shape_in_any_window(size: tuple[int, int]) -> None:
    image = np.full((240, 320, 3), 255, np.uint8)
    fitted = letterboxed(image, *size)
    assert fitted.shape == (size[1], size[0], 3)
    rows, columns = (np.flatnonzero(fitted.any(axis=(2, axis))) for axis in (1, 0))
    scale = min(size[0] / 320, size[1] / 240)
    assert abs(len(columns) - 320 * scale) <= 1
    assert abs(len(rows) - 240 * scale) <= 1
    assert abs(columns[0] - (size[0] - 1 - columns[-1])) <= 1


def test_area_follows_the_window_both_ways_whatever_opencv_reports() -> None:
    for exact in (True, False):
        area = (640, 480)
        for size in ((1920, 1080), (300, 1000), (640, 480)):
            for _ in range(8):
                shown = area[0] + 1, area[1] + 1
                reported = size if exact else (min(size[0], shown[0]), min(size[1], shown[1]))
                area = next_area(reported, shown)
            assert area == size
