"""The page in a real browser: what a person sees and does, against a real run of the pattern."""

import contextlib
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import sync_playwright

from camapp.app import build_cameras
from camapp.core.settings import load_settings
from camapp.remote.web.interface import WebInterface
from camapp.sinks.sink import ImageSink

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SLOWLY = 60_000  # milliseconds: machines that run tests are busy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
]


class Run:
    """A real run of generated digits, and its page."""

    def __init__(self, folder: Path, address="127.0.0.1:0", names=("camera",)):
        cameras = [
            {"source": f"pattern://digits?size=640x360&fps=10&seed={number}", "name": name, "target_fps": 10.0}
            for number, name in enumerate(names, 1)
        ]
        common = {"display": "none", "snapshots": folder / "snapshots"}
        self.cameras = build_cameras([load_settings(camera | common, environment={}) for camera in cameras])
        self.sinks = []
        for pipeline in self.cameras.pipelines:
            pipeline.add_sink = partial(self._add_sink, pipeline.add_sink)
        self.face = WebInterface(self.cameras.pipelines, address, state=folder / "state", say=lambda text: None)
        self._thread = threading.Thread(target=self.cameras.run, daemon=True)

    def _add_sink(self, add, sink):
        self.sinks.append(sink)
        add(sink)

    @property
    def pipeline(self):
        return self.cameras.pipelines[0]

    @property
    def url(self):
        return self.face.address.url

    def __enter__(self):
        self.face.start()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.cameras.request_stop("the test is over")
        self._thread.join(20)
        self.face.stop()


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
    page.set_default_timeout(SLOWLY)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda said: page.problems.append(said.text) if "Security Policy" in said.text else None)
    yield page
    context.close()
    assert page.problems == []


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path) as run:
        yield run


def eventually(what, seconds=SLOWLY / 1000):
    """Wait until it holds; what it gives."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
    return found


# A few pixels of the image as it is shown now.
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
    # Not `wait_for_function`: the page's policy forbids it, as it should.
    eventually(lambda: page.evaluate("document.getElementById('picture').naturalWidth") == 640)
    first = eventually(lambda: page.evaluate(PIXELS))
    eventually(lambda: page.evaluate(PIXELS) != first)
    assert page.locator("#state").text_content() == "live"


def test_what_is_told_is_what_the_pattern_shows(page, run):
    """Whenever the page has settled on a label, it is the one of the pattern."""
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
    spoken = page.locator("#spoken")
    eventually(lambda: spoken.text_content().split(",")[0].isdigit())
    assert spoken.get_attribute("aria-live") == "polite"


def test_pause_and_resume(page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#pause")
    page.wait_for_selector("#pause[aria-pressed=true]")
    assert run.pipeline.capture.paused.is_set()
    assert page.locator("#pause").text_content() == "Resume"
    page.click("#pause")
    page.wait_for_selector("#pause[aria-pressed=false]")
    assert not run.pipeline.capture.paused.is_set()


def test_a_region_drawn_by_the_mouse_changes_what_the_model_is_shown(page, run, tmp_path):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#edit")
    box = page.locator("#picture").bounding_box()

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


def test_a_region_by_keyboard_alone(page, run):
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


def test_of_two_pages_the_last_wins_and_the_other_is_told(browser, page, run):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    other = browser.new_context().new_page()
    other.goto(run.url)
    other.wait_for_selector("#state.good", timeout=SLOWLY)
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
    other.wait_for_selector("#toasts :text('Another page: region changed')", timeout=SLOWLY)
    other.context.close()


def test_a_snapshot_and_another_model(page, run, tmp_path):
    page.goto(run.url)
    page.wait_for_selector("#state.good")
    page.click("#snapshot")
    page.wait_for_selector("#toasts :text('snapshot saved')")
    assert len(list((tmp_path / "snapshots").glob("*.png"))) == 1
    page.select_option("#model", "lenet")
    page.wait_for_selector("#toasts :text('lenet runs now')")
    assert run.pipeline.settings.model == "lenet"


def test_the_page_comes_back_by_itself(page, run):
    page.goto(run.url)
    page.wait_for_selector("#link.good")
    old = run.face.pid
    os.kill(old, signal.SIGKILL)
    page.wait_for_selector("#link.poor")
    eventually(lambda: run.face.pid not in (old, None))
    page.wait_for_selector("#link.good")
    first = eventually(lambda: page.evaluate(PIXELS))
    eventually(lambda: page.evaluate(PIXELS) != first)


def test_the_token_is_asked_for_refused_and_taken(page, tmp_path):
    with Run(tmp_path, "0.0.0.0:0") as run:
        token = eventually(lambda: (path := tmp_path / "state" / "web-token").exists() and path.read_text().strip())
        page.goto(run.url)
        assert page.url.endswith("/login")
        page.fill("#token", "not the token")
        page.click("button")
        assert "not the token" in page.locator("#problem").text_content()
        page.fill("#token", token)
        page.click("button")
        page.wait_for_selector("#link.good")
        assert page.evaluate("document.cookie") == ""
        page.click("#logout button")
        page.wait_for_url("**/login")
        page.goto(run.url)
        assert page.url.endswith("/login")


def test_a_tab_that_is_closed_or_hidden_costs_nothing(browser, run):
    context = browser.new_context()
    page = context.new_page()
    page.goto(run.url)
    page.wait_for_selector("#state.good", timeout=SLOWLY)
    # The page's own sink; the one for snapshots comes first.
    watched = [sink for sink in run.sinks if isinstance(sink, ImageSink)][-1]
    deadline = time.monotonic() + SLOWLY / 1000
    while not watched.wanted():  # the page asks for its image when it has said how all is
        assert time.monotonic() < deadline
        time.sleep(0.02)
    context.close()
    eventually(lambda: not watched.wanted())
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
        page.wait_for_selector("#state.good", timeout=SLOWLY)
        page.click("#edit")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "Array.from(document.querySelectorAll('button, select, .button')).filter((e) => e.offsetParent && "
            "e.getBoundingClientRect().height < 32).map((e) => e.id)"
        )
        assert small == []
        page.click("#cameras button:nth-child(2)")
        eventually(lambda: page.title().startswith("yard"))
