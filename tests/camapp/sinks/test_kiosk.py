"""The kiosk without a screen: camapp in a headless cage, photographed.

Slow. It needs cage, Xwayland and grim. cage refuses to run as root: root runs it under another number in a user
namespace of its own, where its files stay its own.
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


def why_not():
    for program in ("cage", "Xwayland", "grim"):
        if not shutil.which(program):
            return f"needs {program} (Debian: {program.lower()})"
    if AS_USER and subprocess.run([*AS_USER, "true"], capture_output=True, timeout=20).returncode:
        return "cage refuses root, and there are no user namespaces here"
    return ""


class Kiosk:
    """A run of camapp with --display kiosk, and the screen it does not have."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key} | {
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(folder),
            "WLR_BACKENDS": "headless",
            "WLR_LIBINPUT_NO_DEVICES": "1",
            "WLR_RENDERER": "pixman",
        }
        self.told = (folder / "told").open("w")
        command = [*AS_USER, sys.executable, "-m", "camapp", *arguments, "--display", "kiosk", "--workers", "1"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdout=self.told, stderr=self.told, start_new_session=True
        )

    def photograph(self):
        """What is on the screen, or None while there is none."""
        for display in self.folder.glob("wayland-?"):
            command = [*AS_USER, "grim", "-t", "ppm", str(self.folder / "screen.ppm")]
            environment = self.environment | {"WAYLAND_DISPLAY": display.name}
            # A screen that has no image yet keeps grim waiting.
            done = subprocess.run(["timeout", "10", *command], env=environment, capture_output=True)
            if done.returncode == 0:
                return cv2.imread(str(self.folder / "screen.ppm"))
        return None

    def wait_for(self, condition, seconds=90):
        deadline = time.monotonic() + seconds
        while not condition(screen := self.photograph()):
            assert self.process.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.5)
        return screen

    def words(self):
        return (self.folder / "told").read_text()

    def cages(self):
        """Process ids of the cages of this run."""
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
        self.told.close()


@pytest.fixture
def kiosk(tmp_path):
    if reason := why_not():
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


def test_the_preview_fills_the_screen_with_its_figures(kiosk):
    shown = kiosk("run", "--source", "pattern://digits")
    screen = shown.wait_for(lambda screen: is_lit(screen) and has(screen, ACCENT))
    if keep := os.environ.get("KEEP_SCREENSHOT"):
        cv2.imwrite(keep, screen)
    height, width = screen.shape[:2]
    print(f"a screen of {width}x{height}")
    # The scene reaches the two sides, or top and bottom: no window's frame is around it.
    edges = screen[height // 2, [1, width - 2]], screen[[1, height - 2], width // 2]
    assert any(edge.mean() > 20 for edge in edges)


def test_a_shell_that_dies_is_replaced_and_costs_no_prediction(kiosk):
    shown = kiosk("run", "--source", "pattern://digits", "--log", "predictions.jsonl")
    shown.wait_for(is_lit)
    (cage,) = shown.cages()
    os.kill(cage, signal.SIGKILL)
    log = shown.folder / "predictions.jsonl"
    before = len(log.read_text().splitlines())
    shown.wait_for(lambda screen: is_lit(screen) and shown.cages() not in ([], [cage]))
    assert len(log.read_text().splitlines()) > before
    assert "the window is gone" in shown.words()
    assert "the window is back" in shown.words()


def test_images_are_collected_before_the_kiosks_screen(kiosk):
    shown = kiosk("collect", "--source", "pattern://digits", "--label", "seven", "--every", "0.5")
    shown.wait_for(is_lit)
    shown.wait_for(lambda screen: len(list((shown.folder / "collected/seven").glob("*"))) > 2)
