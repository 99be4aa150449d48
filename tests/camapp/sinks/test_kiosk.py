"""Tests the kiosk without a screen: takes screenshots of camapp in a headless cage.

Slow. It needs cage, Xwayland and grim. cage does not run as root: root runs it under another user id in a separate user
namespace, where root still owns the files.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.overlay.style import ACCENT

ROOT = Path(__file__).parents[3]
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def missing():
    for program in ("cage", "Xwayland", "grim"):
        if not shutil.which(program):
            return f"needs {program} (Debian: {program.lower()})"
    if AS_USER and subprocess.run([*AS_USER, "true"], capture_output=True, timeout=20).returncode:
        return "cage does not run as root, and there are no user namespaces"
    return ""


class Kiosk:
    """Runs camapp with --display kiosk on a headless screen."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key} | {
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(folder),
            "WLR_BACKENDS": "headless",
            "WLR_LIBINPUT_NO_DEVICES": "1",
            "WLR_RENDERER": "pixman",
        }
        self.output = (folder / "output").open("w")
        command = [*AS_USER, sys.executable, "-m", "camapp", *arguments, "--display", "kiosk", "--workers", "1"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdout=self.output, stderr=self.output, start_new_session=True
        )

    def screenshot(self):
        """Return the screen's image, or None while there is none."""
        for display in self.folder.glob("wayland-?"):
            command = [*AS_USER, "grim", "-t", "ppm", str(self.folder / "screen.ppm")]
            environment = self.environment | {"WAYLAND_DISPLAY": display.name}
            # grim waits while the screen has no image.
            done = subprocess.run(["timeout", "10", *command], env=environment, capture_output=True)
            if done.returncode == 0:
                return cv2.imread(str(self.folder / "screen.ppm"))
        return None

    def wait_for(self, condition, seconds=90):
        deadline = time.monotonic() + seconds
        while not condition(screen := self.screenshot()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.5)
        return screen

    def text(self):
        return (self.folder / "output").read_text()

    def cages(self):
        """Return the process ids of this run's cages."""
        found = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--sid", str(self.process.pid)], capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in found.stdout.splitlines() if line.split()[1] == "cage"]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.output.close()


@pytest.fixture
def kiosk(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    made = []

    def start(*arguments):
        tmp_path.chmod(0o700)
        made.append(Kiosk(tmp_path, *arguments))
        return made[-1]

    yield start
    for each in made:
        each.end()


def is_lit(screen):
    return screen is not None and screen.mean() > 20


def has(screen, colour):
    return bool((np.abs(screen.astype(int) - colour) <= 8).all(axis=2).any())


def test_the_preview_fills_the_screen_with_its_statistics(kiosk):
    shown = kiosk("run", "--source", "pattern://digits")
    screen = shown.wait_for(lambda screen: is_lit(screen) and has(screen, ACCENT))
    if keep := os.environ.get("KEEP_SCREENSHOT"):
        cv2.imwrite(keep, screen)
    height, width = screen.shape[:2]
    print(f"a screen of {width}x{height}")
    # The scene reaches the two sides, or top and bottom: no window frame surrounds it.
    edges = screen[height // 2, [1, width - 2]], screen[[1, height - 2], width // 2]
    assert any(edge.mean() > 20 for edge in edges)


def test_a_killed_kiosk_is_replaced_and_predictions_continue(kiosk):
    shown = kiosk("run", "--source", "pattern://digits", "--log", "predictions.jsonl")
    shown.wait_for(is_lit)
    (cage,) = shown.cages()
    os.kill(cage, signal.SIGKILL)
    log = shown.folder / "predictions.jsonl"
    before = len(log.read_text().splitlines())
    shown.wait_for(lambda screen: is_lit(screen) and shown.cages() not in ([], [cage]))
    assert len(log.read_text().splitlines()) > before
    assert "the window is gone" in shown.text()
    assert "the window is back" in shown.text()


def test_images_are_collected_in_the_kiosk(kiosk):
    shown = kiosk("collect", "--source", "pattern://digits", "--label", "seven", "--every", "0.5")
    shown.wait_for(is_lit)
    shown.wait_for(lambda screen: len(list((shown.folder / "collected/seven").glob("*"))) > 2)
