"""The stop of a car on the page: from the order to the drive line, and in a real browser with two pages."""

import json
import shutil
import socket
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from camapp.app import check
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.remote.commands import CommandRejected
from camapp.remote.web.interface import WebInterface
from camapp.sinks.drive import DriveSink
from camapp.sinks.drive_gate import DriveGate
from tests.camapp.remote.web.stand_in import StandIn

VALUES = {"offset_m": 0.1, "heading_deg": 1.0, "curvature_1_m": 0.0, "confidence": 0.9, "age_ms": 0.0}


class Car:
    """The page of a stand-in camera, and the receiver of its drive lines."""

    def __init__(self, folder, silence_s=0.5):
        self.camera = StandIn(folder)
        self.gate = DriveGate(silence_s=silence_s)
        self.port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port.bind(("127.0.0.1", 0))
        self.port.settimeout(10)
        self.sink = DriveSink(f"udp://127.0.0.1:{self.port.getsockname()[1]}", gate=self.gate)
        self.page = WebInterface(
            [self.camera], "127.0.0.1:0", state=folder / "state", print_line=lambda text: None, gate=self.gate
        )
        self.page.attach()

    def __enter__(self):
        self.sink.start()
        self.page.start()
        self.token = (self.page._state / "web-token").read_text().strip()
        return self

    def __exit__(self, *_):
        self.page.stop()
        self.sink.stop()
        self.port.close()

    def predict(self):
        trace = Trace(0, captured=time.monotonic_ns())
        self.sink.accept(Prediction(0, "track", values=VALUES), Frame(0, Shot(None, None)), trace)

    def next_is_stale(self):
        return self.port.recv(200).split(b",")[2] == b"1"

    def drives(self):
        """Return whether a fresh prediction becomes an order to drive; others wait in the socket."""
        self.predict()
        return not self.next_is_stale()

    def post(self, token=True, **body):
        request = urllib.request.Request(f"{self.page.address.url}api/drive", json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def car(tmp_path):
    # Browsers are slow on machines that run tests: the page's 0.5 s would end by chance.
    with Car(tmp_path, silence_s=4.0) as car:
        yield car


def eventually(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


def test_the_order_needs_the_token_on_this_machine_too_and_stops_the_line(tmp_path):
    with Car(tmp_path, silence_s=30.0) as car:
        assert car.post(token=False, go=True, client="a")[0] == 401
        assert not car.drives()
        assert car.post(go=True, client="a")[1]["driving"]
        eventually(car.drives)
        assert car.post(go=True, client="b")[0] == 409
        assert car.post(token=False, go=False)[0] == 401
        # Any page stops it, and it stays stopped.
        assert car.post(go=False, client="b") == (200, {"driving": False, "grant": ""})
        eventually(car.next_is_stale)
        assert not car.drives()
        assert car.post(go=True, client="b")[1]["driving"]


def test_without_the_option_no_order_is_taken(tmp_path):
    page = WebInterface([StandIn(tmp_path)], "127.0.0.1:0", state=tmp_path / "state")
    with pytest.raises(CommandRejected, match="--drive-page"):
        page.run_command("drive", "camera", {"go": True, "client": "a"})


@pytest.mark.parametrize("body", [{}, {"go": 1, "client": "a"}, {"go": True}, {"go": True, "client": 7}, {"go": None}])
def test_an_order_that_is_none_is_refused_and_changes_nothing(tmp_path, body):
    gate = DriveGate()
    page = WebInterface([StandIn(tmp_path)], "127.0.0.1:0", state=tmp_path / "state", gate=gate)
    with pytest.raises(CommandRejected, match="go is true or false"):
        page.run_command("drive", "camera", body)
    assert not gate.state.driving


def test_the_option_needs_a_page_and_a_car():
    given = {"source": "pattern://track?size=64x64", "model": "track", "drive_page": True}
    for more in ({}, {"web": "127.0.0.1:0"}, {"drive": "udp://127.0.0.1:5005"}):
        faults = check([load_settings(given | more, environment={})], outputs=False).faults
        assert any("--drive-page needs --drive" in str(fault) for fault in faults)


# -- a real browser

CHROMIUM = shutil.which("chromium")
TIMEOUT_MS = 60_000


@pytest.fixture
def pages(car):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    opened = []
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)

        def open_page(width=1440, height=900):
            page = browser.new_context(viewport={"width": width, "height": height}).new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.on("pageerror", lambda error: opened.append(str(error)))
            page.goto(car.page.address.url)
            page.fill("input[name=token]", car.token)
            page.press("input[name=token]", "Enter")
            page.wait_for_selector("#drive:not([hidden])")
            return page

        yield open_page
        browser.close()
    assert opened == []


@pytest.mark.slow
def test_two_pages_and_the_space_bar(car, pages):
    first, second = pages(), pages(390, 844)
    first.click("#go")
    eventually(lambda: second.text_content("#drive-state") == "Another page lets it drive.")
    assert second.is_hidden("#go")
    eventually(lambda: "as long as this page is open" in first.text_content("#drive-state"))
    # It holds for longer than the silence that stops it.
    until = time.monotonic() + 5
    while time.monotonic() < until:
        car.predict()
        assert car.gate.state.driving
        time.sleep(0.1)
    # The space bar of the other page, with the focus on a button that it would press.
    second.focus("#pause")
    second.keyboard.press("Space")
    eventually(lambda: not car.gate.state.driving)
    assert car.gate.state.reason == "stopped from a page"
    assert not car.camera.paused
    eventually(lambda: first.text_content("#drive-state") == "Stopped: stopped from a page.")
    # It never lets the car drive again, though the button for that has the focus.
    first.focus("#go")
    first.keyboard.press("Space")
    eventually(lambda: first.text_content("#drive-state").startswith("Stopp"))
    assert not car.gate.state.driving
    second.click("#go")
    eventually(lambda: car.gate.state.driving)
    first.click("#stop")
    eventually(lambda: not car.gate.state.driving)


@pytest.mark.slow
def test_the_car_stops_if_the_page_that_lets_it_drive_vanishes(car, pages):
    page = pages()
    page.click("#go")
    eventually(lambda: car.gate.state.driving)
    # Its network is gone, without a goodbye.
    page.context.set_offline(True)
    page.evaluate("socket.close()")
    eventually(lambda: not car.gate.state.driving)
    assert car.gate.state.reason == "the page that let it drive is silent"
    page.context.set_offline(False)
    other = pages()
    other.click("#go")
    eventually(lambda: car.gate.state.driving)
    other.close()
    eventually(lambda: not car.gate.state.driving)
