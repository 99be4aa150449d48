"""Injects faults of a Pi camera into the real program with a fake picamera2 (tests/fakes), and measures the effects.

python -m tests.benchmarks.camera_fault_table [--only WORD]

The table has the columns of fault_table.py.
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
# Maximum seconds of a start on a busy machine.
_START_TIMEOUT = 60.0
CAMERA = {"Model": "imx708", "Id": "/base/soc/i2c0mux/i2c@1/imx708@1a", "Num": 0}


class Camera:
    """The behaviour of the fake camera, read by a child process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "plan.json"
        self._plan: dict[str, object] = {}
        self.set(period=1 / 30, cameras=[CAMERA])

    def set(self, **plan: object) -> float:
        """Change the behaviour and return the time."""
        self._plan |= plan
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self._plan))
        partial.replace(self.file)
        return time.monotonic()

    @contextlib.contextmanager
    def run(self, *arguments: str) -> Iterator[Run]:
        """Start the program with this camera."""
        path = os.pathsep.join([str(ROOT / "tests/fakes"), str(ROOT)])
        environ = {"PYTHONPATH": path, "FAKE_PICAMERA2_PLAN": str(self.file)}
        with Run("--source", "picamera://0", "--size", "640x480", *arguments, environ=environ) as run:
            yield run


@fault("event loop of picamera2 stopped, or frames stop")
def dead_loop(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        found = run.reported("gave no frame", camera.set(frames=0))
        time.sleep(3)
        return Measured(found, run.predicted(camera.set(frames=None)))


@fault("camera unplugged and reconnected")
def pulled(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        found = run.reported("gave no frame", camera.set(frames=0, cameras=[]))
        run.reported("no Pi camera found", time.monotonic() - 1)
        time.sleep(2)
        return Measured(found, run.predicted(camera.set(frames=None, cameras=[CAMERA])))


@fault("camera unplugged permanently (--reconnect 3): exit 69", found=3 + 2.0, back=None)
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
        run.reported("in use by", run.began, _START_TIMEOUT)
        time.sleep(2)
        return Measured(None, run.predicted(camera.set(init_error="")))


@fault("not enough memory for four buffers (CMA): two are used", found=None, back=3.0)
def short_memory(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(alloc_failures=1)
    with camera.run() as run:
        back = run.predicted(run.began, _START_TIMEOUT)
        was_reported = any("fewer buffers" in line for _, line in run.messages)
        return Measured(None, back, checked(was_reported, "from the start; reported"))


@fault("low light halves the rate: reported with the cause", found=4.0, back=None)
def low_light(folder: Path) -> Measured:
    camera = Camera(folder)
    with camera.run() as run:
        run.steady()
        return Measured(run.reported("low light", camera.set(slow_period=1 / 14, exposure_us=70_000)))


@fault("camera hangs when closed: exit 69, so that another process can try", found=1.5 + 2.0 + 1.5, back=None)
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
        seconds, code = run.exit(run.began, _START_TIMEOUT)
        return Measured(seconds, note=exits(code, 69))


@fault("camera stamps its frames with another clock: the arrival time is used", found=None, back=3.0)
def other_clock(folder: Path) -> Measured:
    camera = Camera(folder)
    camera.set(clock_offset_ns=10**15)
    with camera.run() as run:
        back = run.predicted(run.began, _START_TIMEOUT)
        was_reported = any("another clock" in line for _, line in run.messages)
        return Measured(None, back, checked(was_reported, "from the start; reported"))


if __name__ == "__main__":
    main(FAULTS[_OTHERS:])
