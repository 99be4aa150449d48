"""The page in a real browser, with a real run of generated digits."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import sync_playwright

from camapp.app import build_cameras
from camapp.core.predictions import Box, LineState, ZoneState
from camapp.core.settings import load_settings
from camapp.overlay.class_colours import class_colour
from camapp.remote.web.interface import WebInterface
from camapp.tasks.collect import CollectTask, LabelBoard
from camapp.tasks.digits import DigitsTask

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Milliseconds; machines that run tests are busy.
TIMEOUT_MS = 60_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
]


class Run:
    """A real run of generated digits, and its page."""

    def __init__(self, folder: Path, address="127.0.0.1:0", names=("camera",), task=None, board=None):
        cameras = [
            {"source": f"pattern://digits?size=640x360&fps=10&seed={number}", "name": name, "target_fps": 10.0}
            for number, name in enumerate(names, 1)
        ]
        common = {"display": "none", "snapshots": folder / "snapshots"}
        self.cameras = build_cameras([load_settings(camera | common, environment={}) for camera in cameras], task=task)
        self.pipeline.board = board
        self.interface = WebInterface(
            self.cameras.pipelines, address, state=folder / "state", print_line=lambda text: None
        )
        self.interface.attach()
        self._thread = threading.Thread(target=self.cameras.run, daemon=True)

    @property
    def pipeline(self):
        return self.cameras.pipelines[0]

    @property
    def url(self):
        return self.interface.address.url

    def __enter__(self):
        self.interface.start()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.cameras.request_stop("the test is over")
        self._thread.join(20)
        self.interface.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if "Security Policy" in line.text else None)
    yield page
    context.close()
    assert page.problems == []


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path) as run:
        yield run


def eventually(what, seconds=TIMEOUT_MS / 1000):
    """Wait until `what()` is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
    return found


# A few pixels of the image on the page.
PIXELS = """() => {
  const canvas = document.createElement("canvas"), image = document.getElementById("image");
  if (!image.naturalWidth) return null;
  [canvas.width, canvas.height] = [64, 36];
  const c = canvas.getContext("2d");
  c.drawImage(image, 0, 0, 64, 36);
  return Array.from(c.getImageData(0, 0, 64, 36).data.filter((_, n) => n % 4 === 0));
}"""


def test_the_page_loads_and_the_image_moves(page, run):
    page.goto(run.url)
    # The page's security policy forbids `wait_for_function`.
    eventually(lambda: page.evaluate("document.getElementById('image').naturalWidth") == 640)
    first = eventually(lambda: page.evaluate(PIXELS))
    eventually(lambda: page.evaluate(PIXELS) != first)
    # The first image may come before the first prediction.
    eventually(lambda: page.locator("#state").text_content() == "live")


def test_the_labels_are_those_of_the_pattern(page, run):
    page.goto(run.url)
    page.wait_for_selector("#truth.right, #truth.wrong")
    seen = set()

    def right():
        label, truth = page.evaluate(
            "[document.getElementById('label').textContent, document.getElementById('truth').textContent]"
        )
        if truth == f"truth: {label}":
            seen.add(label)
        return len(seen) >= 2

    eventually(right, 60)
    announced = page.locator("#announced")
    eventually(lambda: announced.text_content().split(",")[0].isdigit())
    assert announced.get_attribute("aria-live") == "polite"


def test_a_question_mark_shows_and_hides_the_keys(page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    heights = []
    for _ in range(3):
        heights.append(page.locator("#keys").bounding_box()["height"])
        page.keyboard.press("?")
    assert heights[0] == heights[2] < 5
    assert heights[1] > 10


def test_labels_to_collect_are_chosen_by_keys_and_buttons_and_space_saves(page, tmp_path):
    board = LabelBoard({"cup": 0, "pen": 0})
    saved = []
    board.request = lambda: (saved.append(board.label), board.saved(tmp_path / board.label / "1.jpg"))
    with Run(tmp_path, task=type("BoardTask", (CollectTask,), {"board": board}), board=board) as run:
        page.goto(run.url)
        page.wait_for_selector("#labels button[aria-pressed=true]")
        assert not page.locator("#model").is_visible()
        # Nothing has the focus yet.
        page.keyboard.press("2")
        page.get_by_role("button", name="Save pen").wait_for()
        page.keyboard.press(" ")
        page.get_by_role("button", name="2 pen: 1").wait_for()
        # The focus is on the label's button now, and space saves all the same.
        page.get_by_role("button", name="1 cup: 0").click()
        page.get_by_role("button", name="Save cup").wait_for()
        page.keyboard.press(" ")
        page.get_by_role("button", name="1 cup: 1").wait_for()
        page.get_by_role("button", name="Save cup").click()
        page.get_by_role("button", name="1 cup: 2").wait_for()
        assert saved == ["pen", "cup", "cup"]


def test_the_button_pauses_and_resumes(page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#pause")
    page.wait_for_selector("#pause[aria-pressed=true]")
    assert run.pipeline.capture.paused.is_set()
    assert page.locator("#pause").text_content() == "Resume"
    page.click("#pause")
    page.wait_for_selector("#pause[aria-pressed=false]")
    assert not run.pipeline.capture.paused.is_set()


def test_a_region_drawn_by_the_mouse_changes_the_models_input(page, run, tmp_path):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#edit")
    box = page.locator("#image").bounding_box()

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*at(0.25, 0.25))
    page.mouse.down()
    page.mouse.move(*at(0.6, 0.6), steps=4)
    page.mouse.move(*at(0.75, 0.75))
    page.mouse.up()
    page.click("#save")
    eventually(lambda: run.pipeline.settings.roi is not None)
    assert run.pipeline.settings.roi == pytest.approx((0.25, 0.25, 0.5, 0.5), abs=0.02)
    eventually(lambda: (region := run.pipeline.status().prediction.region) and region.x1 - region.x0 < 400)
    assert "roi" in (tmp_path / "state" / "remembered.json").read_text()
    page.click("#edit")
    page.click("#whole")
    eventually(lambda: run.pipeline.settings.roi is None)


def test_a_region_is_set_by_keyboard_alone(page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.focus("#stage")
    page.keyboard.press("r")
    page.fill("#rw", "50")
    page.fill("#rx", "10")
    page.press("#rx", "Tab")
    page.focus("#region")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    page.focus("#save")
    page.keyboard.press("Enter")
    eventually(lambda: run.pipeline.settings.roi is not None)
    assert run.pipeline.settings.roi == pytest.approx((0.11, 0, 0.5, 0.99), abs=0.001)


def test_of_two_pages_the_last_wins_and_the_other_shows_a_notice(browser, page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    other = browser.new_context().new_page()
    other.goto(run.url)
    other.wait_for_selector("#state.good", timeout=TIMEOUT_MS)
    page.click("#edit")
    other.click("#edit")
    other.fill("#rw", "40")
    other.press("#rw", "Tab")
    other.click("#save")
    eventually(lambda: run.pipeline.settings.roi is not None)
    page.wait_for_selector("#toasts :text('Another page: region changed')")
    assert "Another page has just saved a region" in page.locator("#advice").text_content()
    page.fill("#rw", "70")
    page.press("#rw", "Tab")
    page.click("#save")
    eventually(lambda: run.pipeline.settings.roi[2] == 0.7)
    other.wait_for_selector("#toasts :text('Another page: region changed')", timeout=TIMEOUT_MS)
    other.context.close()


def test_a_snapshot_is_saved_and_another_model_chosen(page, run, tmp_path):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#snapshot")
    page.wait_for_selector("#toasts :text('snapshot saved')")
    assert len(list((tmp_path / "snapshots").glob("*.png"))) == 1
    page.select_option("#model", "lenet")
    page.wait_for_selector("#toasts :text('lenet runs now')")
    assert run.pipeline.settings.model == "lenet"


def test_the_page_reconnects_to_a_restarted_server(page, run):
    page.goto(run.url)
    page.wait_for_selector("#connection.good")
    old = run.interface.pid
    os.kill(old, signal.SIGKILL)
    page.wait_for_selector("#connection.poor")
    eventually(lambda: run.interface.pid not in (old, None))
    page.wait_for_selector("#connection.good")
    first = eventually(lambda: page.evaluate(PIXELS))
    eventually(lambda: page.evaluate(PIXELS) != first)


def test_a_wrong_token_is_refused_and_the_right_one_accepted(page, tmp_path):
    with Run(tmp_path, "0.0.0.0:0") as run:
        token = eventually(lambda: (path := tmp_path / "state" / "web-token").exists() and path.read_text().strip())
        page.goto(run.url)
        assert page.url.endswith("/login")
        page.fill("#token", "not the token")
        page.click("button")
        assert "token is wrong" in page.locator("#problem").text_content()
        page.fill("#token", token)
        page.click("button")
        page.wait_for_selector("#connection.good")
        assert page.evaluate("document.cookie") == ""
        page.click("#logout button")
        page.wait_for_url("**/login")
        page.goto(run.url)
        assert page.url.endswith("/login")


def watchers(run):
    """Return the number of clients that want the run's images."""
    with urllib.request.urlopen(run.url + "status") as answer:
        return json.load(answer)["web"]["visitors"]["camera"]


def test_no_image_is_drawn_for_a_closed_tab(browser, run):
    context = browser.new_context()
    page = context.new_page()
    page.goto(run.url)
    page.wait_for_selector("#state.good", timeout=TIMEOUT_MS)
    eventually(lambda: watchers(run) == 1)
    context.close()
    eventually(lambda: watchers(run) == 0)
    before = run.pipeline.stats.predictions()
    eventually(lambda: run.pipeline.stats.predictions() > before)


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_nothing_is_wider_than_the_screen(browser, tmp_path, width):
    with (
        Run(tmp_path, names=("porch", "yard")) as run,
        contextlib.closing(
            browser.new_context(viewport={"width": width, "height": 800}, has_touch=width < 700)
        ) as context,
    ):
        page = context.new_page()
        page.goto(run.url)
        page.wait_for_selector("#state.good", timeout=TIMEOUT_MS)
        page.click("#edit")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "Array.from(document.querySelectorAll('button, select, .button')).filter((e) => e.offsetParent && "
            "e.getBoundingClientRect().height < 32).map((e) => e.id)"
        )
        assert small == []
        page.click("#cameras button:nth-child(2)")
        eventually(lambda: page.title().startswith("yard"))


class ObjectsTask(DigitsTask):
    """Turns the digits that it reads into objects in a zone, before a counting line."""

    name = "detect"

    def decode(self, frame, outputs, prepared, now_ns):
        found = super().decode(frame, outputs, prepared, now_ns)
        width, height = frame.view.size
        boxes = tuple(
            Box(40 * number, 20, 40 * number + 30, 120, label, 0.9, number + 1)
            for number, label in enumerate(["dog"] + ["person"] * 14)
        )
        corners = ((0.0, 0.0), (width / 2, 0.0), (width / 2, height / 1.0))
        return replace(
            found,
            task="detect",
            boxes=boxes,
            counts={"person": 14, "dog": 1},
            zones=(ZoneState("porch", corners, {"person": 2}, {"person": 5, "dog": 1}, {"person": 3}, 75.0),),
            counting_lines=(LineState("gate", (10.0, 10.0), (10.0, 90.0), {"person": 7}, {}),),
        )


def test_objects_zones_and_lines_are_listed_beside_the_image(page, tmp_path):
    with Run(tmp_path, names=("porch",), task=ObjectsTask) as run:
        page.goto(run.url)
        page.wait_for_selector("#objects li")
        assert page.locator("#label").text_content() == "14 person, 1 dog"
        assert page.locator("#name").text_content() == "porch"
        rows = [row.replace("\xa0", " ") for row in page.locator("#objects li").all_text_contents()]
        assert rows[:2] == ["dog #190 %", "person #290 %"]
        assert len(rows) == 12
        assert page.locator("#more").text_content() == "and 3 more"
        colour = page.evaluate("getComputedStyle(document.querySelector('#objects i')).backgroundColor")
        blue, green, red = class_colour("dog")
        assert colour == f"rgb({red}, {green}, {blue})"
        assert page.locator("#zones tbody tr").all_text_contents() == ["porch2631 min 15 s"]
        assert page.locator("#lines tbody tr").all_text_contents() == ["gate70"]
        assert page.locator("#zones tbody td").nth(1).get_attribute("title") == "5 person, 1 dog"
        page.hover("#objects li:nth-child(2)")
        page.wait_for_selector("#mark:not([hidden])")
        mark, image = page.locator("#mark").bounding_box(), page.locator("#image").bounding_box()
        assert (mark["x"] - image["x"]) / image["width"] == pytest.approx(40 / 640, abs=0.01)
        assert mark["height"] / image["height"] == pytest.approx(100 / 360, abs=0.02)


def test_zones_and_lines_are_drawn_renamed_and_deleted(browser, tmp_path):
    with (
        Run(tmp_path, names=("porch",), task=ObjectsTask) as run,
        contextlib.closing(browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)) as context,
    ):
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(run.url)
        page.click("#edit-places")

        def at(x, y):
            # The page scrolls to what is clicked.
            image = page.locator("#image").bounding_box()
            return image["x"] + x * image["width"], image["y"] + y * image["height"]

        def drag(start, end):
            page.mouse.move(*at(*start))
            page.mouse.down()
            page.mouse.move(*at(*end), steps=4)
            page.mouse.up()

        def points(kind):
            (text,) = getattr(run.pipeline.settings, kind)
            name, _, rest = text.partition("=")
            return name, pytest.approx([float(number) for number in rest.replace(" ", ",").split(",")], abs=0.02)

        page.click("#new-zone")
        for corner in ((0.2, 0.2), (0.8, 0.25), (0.5, 0.8), (0.4, 0.9)):
            page.touchscreen.tap(*at(*corner))
        page.click("#place-undo")
        drag((0.5, 0.8), (0.6, 0.7))
        shape = page.locator("#drawn .stroke").bounding_box()
        assert shape["width"] / page.locator("#image").bounding_box()["width"] == pytest.approx(0.6, abs=0.03), (
            "the outline is shown"
        )
        page.fill("#place-name", "door")
        page.click("#place-save")
        eventually(lambda: run.pipeline.settings.zone)
        assert points("zone") == ("door", [0.2, 0.2, 0.8, 0.25, 0.6, 0.7])
        page.click("#new-line")
        drag((0.5, 0.9), (0.5, 0.2))
        sign = page.locator("#corners .inward").bounding_box()
        assert sign["x"] + sign["width"] / 2 > at(0.5, 0.5)[0], "from below to above, in is to the right"
        page.click("#place-save")
        eventually(lambda: run.pipeline.settings.line)
        assert points("line") == ("line1", [0.5, 0.9, 0.5, 0.2])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#places-list :text('door')")
        page.fill("#place-name", "gate")
        page.fill("#place-points", "10,10 50,10 50,50 10,50")
        page.click("#place-save")
        eventually(lambda: points("zone") == ("gate", [0.1, 0.1, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5]))

        def kept():
            return json.loads((tmp_path / "state" / "remembered.json").read_text())["cameras"]["porch"]

        now = run.pipeline.settings
        eventually(lambda: kept() == {"zone": [*now.zone], "line": [*now.line]})
        page.click("#places-list :text('gate')")
        page.click("#place-delete")
        eventually(lambda: not run.pipeline.settings.zone)
        page.click("#new-zone")
        drag((0.3, 0.3), (0.6, 0.6))
        page.click("#place-save")
        eventually(lambda: run.pipeline.settings.zone)
        assert points("zone") == ("zone1", [0.3, 0.3, 0.6, 0.3, 0.6, 0.6, 0.3, 0.6])


class Proxy:
    """Stands for a reverse proxy that serves the page below a path, over bare connections."""

    def __init__(self, port, path):
        self._port, self._path = port, path.encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            if not (part := client.recv(65536)):
                return
            head += part
        method, _, rest = head.partition(b" ")
        if not rest.startswith(self._path):
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()
            return
        # One request a connection, so that only the first line has to be rewritten.
        request = method + b" /" + rest[len(self._path) :]
        if b"Upgrade: websocket" not in request:
            request = request.replace(b"Connection: keep-alive", b"Connection: close")
        server = socket.create_connection(("127.0.0.1", self._port))
        server.sendall(request)
        threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
        self._copy(server, client)

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


def test_the_page_works_below_a_proxys_path(page, tmp_path):
    with (
        Run(tmp_path, "0.0.0.0:0") as run,
        contextlib.closing(Proxy(run.interface.address.port, "/home/cam1/")) as proxy,
    ):
        token = eventually(lambda: (path := tmp_path / "state" / "web-token").exists() and path.read_text().strip())
        page.goto(proxy.url)
        assert page.url == f"{proxy.url}login"
        page.fill("#token", token)
        page.click("button")
        page.wait_for_selector("#state.good")
        assert page.url == proxy.url
        (cookie,) = page.context.cookies()
        assert cookie["path"] == "/home/cam1", "another camera's page below the same host has its own"
        first = eventually(lambda: page.evaluate(PIXELS))
        eventually(lambda: page.evaluate(PIXELS) != first)
        page.click("#pause")
        page.wait_for_selector("#pause[aria-pressed=true]")
        page.click("#logout button")
        page.wait_for_url("**/home/cam1/login")
