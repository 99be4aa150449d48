"""The table of faults for a Pi's camera: planted in a stand-in for picamera2 (tests/fakes) under the real program.

python -m tests.benchmarks.camera_fault_table [--only WORD]

Reads as the table of fault_table.py does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.common import ROOT
from tests.benchmarks.fault_table import FAULTS, Measured, Run, checked, exits, fault, main

_OTHERS = len(FAULTS)
_STARTED = 60.0  # seconds that a start may take on a busy machine
CAMERA = {"Model": "imx708", "Id": "/base/soc/i2c0mux/i2c@1/imx708@1a", "Num": 0}


class Camera:
    """The stand-in's plan, which a child process follows."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "plan.json"
        self._plan: dict[str, object] = {}
        self.set(period=1 / 30, cameras=[CAMERA])

    def set(self, **plan: object) -> float:
        """Change the plan; when."""
        self._plan |= plan
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self._plan))
        partial.replace(self.file)
        return time.monotonic()

    @contextlib.contextmanager
    def run(self, *arguments: str) -> Iterator[Run]:
        """The program on this camera."""
        path = os.pathsep.join([str(ROOT / "tests/fakes"), str(ROOT)])
        environ = {"PYTHONPATH": path, "FAKE_PICAMERA2_PLAN": str(self.file)}
        with Run("--source", "picamera://0", "--size", "640x480", *arguments, environ=environ) as run:
            yield run


@fault("event loop of picamera2 dead, or frames stop")
def dead_loop(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        found = run.said("gave no frame", camera.set(frames=0))
        time.sleep(3)
        return Measured(found, run.predicted(camera.set(frames=None)))


@fault("camera gone (ribbon pulled), and back")
def pulled(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        found = run.said("gave no frame", camera.set(frames=0, cameras=[]))
        run.said("no Pi camera found", time.monotonic() - 1)
        time.sleep(2)
        return Measured(found, run.predicted(camera.set(frames=None, cameras=[CAMERA])))


@fault("camera gone for good (--reconnect 3): exit 69", found=3 + 2.0, back=None)
def gone_for_good(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run("--reconnect", "3") as run:
        run.steady()
        seconds, code = run.exit(camera.set(frames=0, cameras=[]))
        return Measured(seconds, note=exits(code, 69))


@fault("camera busy at the start, then free", found=None)
def busy(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(init_error="busy")
    with camera.run() as run:
        run.said("in use by", run.began, _STARTED)
        time.sleep(2)
        return Measured(None, run.predicted(camera.set(init_error="")))


@fault("memory for four buffers lacks (CMA): two are taken", found=None, back=3.0)
def short_memory(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(alloc_failures=1)
    with camera.run() as run:
        back = run.predicted(run.began, _STARTED)
        told = any("fewer buffers" in line for _, line in run.words)
        return Measured(None, back, checked(told, "from the start; said"))


@fault("low light halves the rate: told, with the cause", found=4.0, back=None)
def low_light(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        return Measured(run.said("low light", camera.set(slow_period=1 / 14, exposure_us=70_000)))


@fault("camera hangs when closed: exit 69, for another process to try", found=1.5 + 2.0 + 1.5, back=None)
def hanging_close(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        seconds, code = run.exit(camera.set(frames=0, close_hangs=True))
        return Measured(seconds, note=exits(code, 69))


@fault("camera hangs when opened: exit 69", found=10 + 2.0, back=None)
def hanging_open(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(init_error="hang")
    with camera.run() as run:
        seconds, code = run.exit(run.began, _STARTED)
        return Measured(seconds, note=exits(code, 69))


@fault("camera stamps its frames by another clock: arrival counts", found=None, back=3.0)
def other_clock(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(clock_offset_ns=10**15)
    with camera.run() as run:
        back = run.predicted(run.began, _STARTED)
        told = any("another clock" in line for _, line in run.words)
        return Measured(None, back, checked(told, "from the start; said"))


if __name__ == "__main__":
    main(FAULTS[_OTHERS:])
