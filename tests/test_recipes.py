"""docs/recipes.md: its --on-label lines, as a shell reads them, with stand-ins; its stream with an RTSP receiver."""

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Prediction
from camapp.core.settings import load_settings
from camapp.sinks.label_command import LabelCommandSink
from tests.programs import wait_until

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
RECIPES = [code for code in re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL) if "--on-label " in code]
PIXEL = Image.of(np.zeros((1, 1, 3), np.uint8), Layout.RGB)
JPEG = b"\xff\xd8\xff\xe0 a picture"


class Hook(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(JPEG if self.path == "/snapshot.jpg" else b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.append((self.path, self.headers["content-type"], body))
        self.reply(b"")

    def reply(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.posts = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Programs that note how they were called, in the PATH; returns a function that reads the notes."""
    note = tmp_path / "calls"
    for program in ("pinctrl", "gpioset", "aplay"):
        script = tmp_path / program
        script.write_text(f'#!/bin/sh\necho "{program} $*" >> {note}\n')
        script.chmod(0o755)
    camapp = tmp_path / "camapp"
    camapp.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    camapp.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: note.read_text().splitlines() if note.exists() else []


def options_of(recipe):
    """The options of a recipe, as a shell passes them to camapp."""
    shell = subprocess.run(["bash", "-euc", recipe], capture_output=True, text=True, check=True, timeout=30)
    arguments = json.loads(shell.stdout)
    names = {"--on-label", "--on-label-when", "--region", "--model"}
    given = itertools.pairwise(arguments)
    return load_settings({name[2:].replace("-", "_"): value for name, value in given if name in names}, environment={})


def see(sink, seq, label):
    """Send a prediction of a region that has this state, or of an image with one such object."""
    found = {"counts": {label: 1}, "boxes": (Box(0, 0, 1, 1, label, 0.9),)} if label == "person" else {}
    sink.accept(Prediction(seq, "x", label, 0.9, **found), Frame(seq, Shot(PIXEL, PIXEL)), Trace(seq))


def follow(recipe, hook, *labels):
    """Run the program of a recipe for the labels, with the addresses replaced by the stand-in's."""
    for program in ("curl", "jq"):
        if f"{program} " in recipe and not shutil.which(program):
            pytest.skip(f"needs {program}")
    settings = options_of(recipe)
    here = f"127.0.0.1:{hook.server_address[1]}"
    command = re.sub(r"homeassistant\.local:8123|127\.0\.0\.1:8080", here, settings.on_label)
    sink = LabelCommandSink(command, 0.01, events=settings.on_label_when, camera="gate")
    sink.start()
    for number, label in enumerate(labels):
        see(sink, number, label)
        wait_until(lambda expected=number + 1: sink.started == expected, 90)
    sink.stop()
    assert (sink.started, sink.lost) == (len(labels), 0)


def recipe_with(text):
    (found,) = (recipe for recipe in RECIPES if text in recipe)
    return found


def test_every_recipe_of_the_page_is_tried_here():
    assert len(RECIPES) == 7


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("case", ("open", "closed", "open"), [f"pinctrl set 17 op d{level}" for level in "hlh"]),
        ("car>2", ("person",), ["pinctrl set 17 op dh", "pinctrl set 17 dl"]),
        ("gpioset", ("person",), ["gpioset --chip gpiochip0 --toggle 200ms,0 17=1"]),
        ("aplay", ("person",), ["aplay -q /usr/share/sounds/alsa/Front_Center.wav"]),
    ],
)
def test_pins_and_sounds(text, labels, expected, calls, hook):
    follow(recipe_with(text), hook, *labels)
    assert calls() == expected


def test_a_webhook_gets_form_fields(calls, hook):
    follow(recipe_with("data-urlencode"), hook, "person")
    form = "application/x-www-form-urlencoded"
    assert hook.posts == [("/api/webhook/gate", form, b"camera=gate&label=person")]


def test_a_webhook_gets_json(calls, hook):
    follow(recipe_with("jq -n"), hook, "person")
    ((_, kind, body),) = hook.posts
    assert (kind, json.loads(body)) == ("application/json", {"camera": "gate", "label": "person", "count": "1"})


def test_a_webhook_gets_the_picture(calls, hook):
    follow(recipe_with("snapshot.jpg"), hook, "person")
    ((_, kind, body),) = hook.posts
    assert kind.startswith("multipart/form-data")
    assert JPEG in body
    assert b'filename="person.jpg"' in body


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_the_command_for_mediamtx_sends_the_stream_of_the_page_by_rtsp(tmp_path):
    web, rtsp = free_port(), free_port()
    (command,) = re.findall(r"runOnInit: >-\n(.*?)    runOnInitRestart", PAGE, re.DOTALL)
    # In place of MediaMTX, ffmpeg listens for the stream and writes what comes.
    received = tmp_path / "received.mp4"
    listen = ["ffmpeg", "-v", "error", "-rtsp_flags", "listen", "-i", f"rtsp://127.0.0.1:{rtsp}/camapp"]
    program = [sys.executable, "-m", "camapp", "--source", "pattern://digits?size=320x240", "--display", "none"]
    environment = os.environ | {"RTSP_PORT": str(rtsp), "MTX_PATH": "camapp"}
    children = []
    try:
        children.append(subprocess.Popen([*program, "--fps", "15", "--web", f"127.0.0.1:{web}"], cwd=ROOT))
        children.append(subprocess.Popen([*listen, "-t", "2", "-c", "copy", str(received)]))
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", web)), 90)
        wait_until(lambda: f":{rtsp:04X} " in Path("/proc/net/tcp").read_text(), 90)
        words = " ".join(command.split()).replace("127.0.0.1:8080", f"127.0.0.1:{web}")
        children.append(subprocess.Popen(["sh", "-c", f"exec {words}"], env=environment))
        assert children[1].wait(60) == 0
    finally:
        for child in reversed(children):
            child.terminate()
            child.wait(20)
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", received],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == "h264,320,240"
