"""Every example runs as a program and prints what its first line promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import camapp
from camapp.capture.source import create_source

ROOT = Path(__file__).resolve().parents[2]


def run(name, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_read_digits_prints_the_digits_of_an_image(tmp_path):
    source = create_source("pattern://digits?size=640x480&seed=3", camapp.SourceOptions(realtime=False))
    source.open()
    shot = source.read(1.0)
    path = tmp_path / "digits.png"
    cv2.imwrite(str(path), shot.view.bgr())
    first, *boxes = run("read_digits.py", str(path)).splitlines()
    assert first == f"{path}: {shot.truth.label}"
    assert len(boxes) == len(shot.truth.label)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_pictures_without_matplotlib(tmp_path):
    stored = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text(encoding="utf-8"))
    (tmp_path / "first_steps.ipynb").write_text(json.dumps(stored))
    code = """
import runpy, sys
sys.modules.update(dict.fromkeys(("matplotlib", "IPython", "torch", "PIL")))
sys.argv[1:] = ["first_steps.ipynb"]
runpy.run_module("tests.notebooks", run_name="__main__")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "first_steps.ipynb").read_text(encoding="utf-8"))
    cells = [[cell for cell in each["cells"] if cell["cell_type"] == "code"] for each in (stored, made)]
    outputs = [[output for cell in part for output in cell["outputs"]] for part in cells]
    kinds = [[sorted(output.get("data", ["text"])) for output in part] for part in outputs]
    assert kinds[0] == kinds[1]
    texts = ["".join(output.get("text") or output["data"]["text/plain"]) for output in outputs[1]]
    assert "'310'" in texts
    (right,) = [int(text.split()[0]) for text in texts if "new pictures are right" in text]
    assert right >= 32


@pytest.mark.slow
def test_own_sink_counts_labels():
    assert run("own_sink.py", "pattern://digits?size=320x240", "2").splitlines()[-1].startswith("[('")


@pytest.mark.slow
def test_on_events_prints_what_begins():
    lines = run("on_events.py", "pattern://digits?size=320x240", "digits", "3", "*", "count>99").splitlines()
    assert lines
    assert all(re.fullmatch(r"frame \d+: (\d+), now 1 \1 \(\d+%\)", line) for line in lines)


def test_own_task_labels_every_frame():
    lines = run("own_task.py", "pattern://objects?size=320x240", "1").splitlines()
    assert lines
    assert all(": vehicle (" in line or ": animal (" in line for line in lines)


def test_run_a_net_prints_shapes_and_a_time():
    assert "lenet: (1, 1, 32, 32) -> (1, 10), " in run("run_a_net.py")


@pytest.mark.slow
def test_drive_closed_loop_keeps_the_car_in_its_lane():
    laps, error, silence = run("drive_closed_loop.py", "--laps", "0.05", "--lockstep").splitlines()
    assert laps.startswith("0.05 laps of ")
    assert float(error.split(": ")[1].split()[0]) < 0.1
    assert float(silence.split()[-2]) < 0.3
