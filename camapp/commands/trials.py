"""`camapp doctor --try` uses each part of this machine once and reports the result, for an issue.

The parts are: memory shared between processes, the matrix product, the camera, every shipped model on its frames, a
whole run with worker processes, and a window.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from camapp import __version__
from camapp.capture.source import EndOfStream, Source, build_source, redacted
from camapp.commands.bench import Discard
from camapp.commands.doctor import CheckResult, CheckStatus, collect, fail, ok, warn, warn_if
from camapp.core.errors import ExitCode, SourceError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.models import load_model, shipped_models
from camapp.core.program import spelled
from camapp.core.settings import Settings
from camapp.pipeline.pipeline import Pipeline
from camapp.system import displays
from camapp.system.machine import machine
from camapp.tasks.task import task_for
from engine.model import Model, ModelError

# 2 * 512^3 operations each.
_SIDE, _PRODUCTS = 512, 5
# Load a core above which the measured times are too high.
_BUSY = 0.75
# Frames that are kept for the models.
_KEPT = 10


@dataclass
class Trials:
    """Tries the parts of this machine, each with a method that yields results.

    Attributes:
        seconds: duration of the trial of the camera, and of the whole run.
        open_timeout: seconds within which a live source must open; an absent one may come back, as in a run.
        min_gflops: rate of matrix products below which they count as slow. A Pi 4 with OpenBLAS reaches about
            10 GFLOP/s a core, plain C loops less than one.
        shots: the last frames of the source, for the models.
    """

    settings: Settings
    seconds: float
    make_source: Callable[[Settings, Model], Source] = build_source
    open_timeout: float = 10.0
    window_timeout: float = 15.0
    min_gflops: float = 2.0
    shots: list[Shot] = field(default_factory=list)

    def run(self) -> list[CheckResult]:
        """Try everything; a trial that raises an unexpected exception has failed, and the next ones still run."""
        trials = (
            self.load, self.matrix_product, self.shared_memory, self.camera, self.models, self.whole_run, self.window,
        )  # fmt: skip
        return collect([(trial.__name__.replace("_", " "), trial) for trial in trials], CheckStatus.FAIL)

    def load(self) -> Iterator[CheckResult]:
        """Compare the load average with the number of cores."""
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        remedy = "the rates below are too low: end other programs, retry"
        yield warn_if(load > _BUSY * cores, "load", f"{load:.1f} on {cores} cores", remedy)

    def matrix_product(self) -> Iterator[CheckResult]:
        """Measure the rate of float32 matrix products."""
        left = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)
        best = float("inf")
        for _ in range(_PRODUCTS):
            began = time.perf_counter()
            _ = left @ left
            best = min(best, time.perf_counter() - began)
        gflops = 2 * _SIDE**3 / best / 1e9
        detail = f"{gflops:.1f} GFLOP/s (float32 {_SIDE}x{_SIDE}), {machine()['cpu']}"
        slow = gflops < self.min_gflops
        yield warn_if(slow, "matrix product", detail, "slow: sudo apt install -y libopenblas0-pthread")

    def shared_memory(self) -> Iterator[CheckResult]:
        """Publish an image of a 4K preview for another process, 75 MB with all its buffers."""
        from camapp.system.shared_frames import SharedFrames

        frames = SharedFrames()
        image = np.arange(2160 * 3840 * 3, dtype=np.uint32).astype(np.uint8).reshape(2160, 3840, 3)
        try:
            frames.publish(image, 1)
            began = time.perf_counter()
            frames.publish(image, 2)
            seconds = time.perf_counter() - began
        except (OSError, MemoryError) as error:
            yield fail("shared memory", f"cannot allocate 75 MB: {error}", "close other programs, or a smaller --size")
            return
        finally:
            frames.close()
        yield ok("shared memory", f"{image.nbytes / seconds / 1e9:.1f} GB/s written")

    def camera(self) -> Iterator[CheckResult]:
        """Open the source, read it for some seconds, and check its frames."""
        source = self.make_source(self.settings, load_model(self.settings))
        try:
            began = time.monotonic()
            _open(source, self.open_timeout)
            opened = time.monotonic() - began
            gaps, shots = _read(source, self.seconds)
            yield from _check_frames(source, opened, gaps, shots)
            self.shots = shots[-_KEPT:]
        except SourceError as error:
            yield fail("camera", str(error), "see the line above; 'camapp sources' lists the sources of this machine")
        finally:
            source.close()

    def models(self) -> Iterator[CheckResult]:
        """Run each shipped model on the kept frames, in this process."""
        if not self.shots:
            yield warn("models", "not tried: there were no frames", "repair the camera first")
            return
        for path, _ in shipped_models():
            yield self._model(path.stem)

    def _model(self, name: str) -> CheckResult:
        settings = replace(self.settings, model=name, net=None, task=None, labels=None, mean=None, std=None)
        try:
            times, label = _predict(load_model(settings), settings, self.shots)
        except (ModelError, ValueError, RuntimeError) as error:
            return fail(f"model {name}", f"{type(error).__name__}: {error}", "install again: git checkout weights")
        middle, target = float(np.median(times)), settings.target_fps
        detail = f"{middle:.1f} ms a frame ({1000 / middle:.0f} fps of one core), label '{label}'"
        remedy = f"{target:g} fps need more --workers or a smaller model"
        return warn_if(middle * target > 1000, f"model {name}", detail, remedy)

    def whole_run(self) -> Iterator[CheckResult]:
        """Run capture, shared memory, worker processes and drawing, without a screen."""
        pipeline = Pipeline(replace(self.settings, duration=self.seconds))
        pipeline.add_sink(Discard())
        run = pipeline.run()
        p50, p99 = pipeline.stats.latency["total"].at(50, 99)
        fps = run.balance.predicted / max(0.1, self.seconds)
        detail = f"{run.balance}; {fps:.1f} fps, latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, {pipeline.workers} workers"
        if run.code is not ExitCode.OK or not run.balance.is_conserved or not run.balance.predicted:
            yield fail("whole run", f"{run.reason}: {detail}", "report this")
        elif pipeline.inference.restarts:
            yield warn("whole run", f"{detail}, {pipeline.inference.restarts} workers replaced", "report this")
        else:
            yield ok("whole run", detail)

    def window(self) -> Iterator[CheckResult]:
        """Open a window for a moment; without a desktop report which displays are usable."""
        display = displays.probe()
        if not display:
            yield ok("window", display.reason)
            yield ok("kiosk", displays.probe_kiosk().reason)
            yield ok("console", displays.probe_drm().reason)
            return
        from camapp.sinks.window import WindowSink

        shown: list[int] = []
        window = WindowSink("camapp doctor", on_shown=lambda seq, t_ns: shown.append(seq))
        window.start()
        try:
            until = time.monotonic() + self.window_timeout
            while len(shown) < _KEPT and time.monotonic() < until:
                window.show(np.full((240, 320, 3), 90, np.uint8), Trace(len(shown)))
                time.sleep(0.05)
        finally:
            window.stop()
        if shown:
            yield ok("window", f"opened on {display.reason}, {len(shown)} images were painted")
        else:
            yield fail("window", f"none opened on {display.reason}", "'camapp run --display window --debug' logs why")


def _open(source: Source, timeout: float) -> None:
    until = time.monotonic() + timeout
    while True:
        try:
            return source.open()
        except SourceError:
            source.close()
            if not source.live or time.monotonic() > until:
                raise
            time.sleep(min(1.0, timeout))


def _read(source: Source, seconds: float) -> tuple[list[float], list[Shot]]:
    """Return the milliseconds between frames, and the last few frames."""
    shots, arrivals = [source.read(5.0)], [time.monotonic()]
    while arrivals[-1] - arrivals[0] < seconds:
        try:
            shots.append(source.read(5.0))
        except EndOfStream:
            break
        arrivals.append(time.monotonic())
        del shots[:-_KEPT]
    return [1000 * (after - before) for before, after in pairwise(arrivals)], shots


def _check_frames(source: Source, opened: float, gaps: list[float], shots: list[Shot]) -> Iterator[CheckResult]:
    view = shots[-1].view
    yield ok(
        "camera", f"{source.describe()}; open after {opened:.1f} s, {view.layout.value} {view.width}x{view.height}"
    )
    if gaps:
        rate, worst = 1000 * len(gaps) / sum(gaps), float(np.percentile(gaps, 99))
        detail = f"{rate:.1f} fps, 99 % of the frames at most {worst:.0f} ms after the one before"
        if source.fps and rate < 0.9 * source.fps:
            why = source.slowness or "perhaps the machine is busy"
            yield warn("camera rate", f"{detail}; {source.fps:g} requested: {why}", "more light, a smaller --size")
        else:
            yield ok("camera rate", detail)
    stamped = shots[-1].sensor_ns > 0
    yield ok("camera clock", "stamps its frames in monotonic time" if stamped else "no stamps: arrival times are used")
    levels = view.rgb().astype(np.float32)
    mean = ", ".join(f"{level:.0f}" for level in levels.mean(axis=(0, 1)))
    if levels.max() < 16:
        yield warn("picture", f"black (mean RGB {mean})", "is the cap on the lens, or the room dark?")
    elif levels.std() < 2:
        yield warn("picture", f"one colour all over (mean RGB {mean})", "check what the camera is pointed at")
    else:
        yield ok("picture", f"mean RGB {mean}, contrast {levels.std():.0f}")


def _predict(model: Model, settings: Settings, shots: Sequence[Shot]) -> tuple[list[float], str]:
    """Return the milliseconds of prepare, run and decode together for each frame, and the last label."""
    task = task_for(settings, model.card)
    batch = np.zeros((task.max_items, *model.card.input_shape), np.float32)
    plan = model.plan(batch.shape)
    times, label = [], ""
    for number, shot in enumerate(shots):
        frame = Frame(number, shot)
        began = time.perf_counter()
        prepared = task.prepare(frame, batch)
        outputs = plan.run(batch)
        each = outputs if isinstance(outputs, tuple) else (outputs,)
        if not all(np.isfinite(output).all() for output in each):
            raise ValueError("its outputs are not finite")
        # All of a full batch: some outputs have no batch axis.
        whole = prepared.count == len(batch)
        found = [output if whole else output[: prepared.count] for output in each] if prepared.count else []
        label = task.decode(frame, found, prepared, number * 10**8).label
        times.append(1000 * (time.perf_counter() - began))
    return times, label


def without_names(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the results for publication: without home folders, user names and passwords in addresses."""
    home, user = str(Path.home()), getpass.getuser()

    def cleaned(text: str) -> str:
        text = re.sub(r"\b[a-z]+://\S+", lambda found: redacted(found[0]), text)
        text = text.replace(home, "~") if home != "/" else text
        text = re.sub(r"/home/[^/\s]+", "/home/USER", text)
        # These names occur in our own texts and identify no person.
        return text if user in ("root", "pi", "camapp") else re.sub(rf"\b{re.escape(user)}\b", "USER", text)

    return [replace(result, detail=cleaned(result.detail), remedy=cleaned(result.remedy)) for result in results]


def print_trials(results: Sequence[CheckResult], as_json: bool) -> None:
    """Print results with the version: as a table in Markdown to paste into an issue, or as a JSON object."""
    if as_json:
        record = {"version": __version__, "findings": [result.as_dict() for result in results]}
        print(json.dumps(record, indent=2))
        return
    print(f"### camapp {__version__} doctor --try: {summary(results)}\n\n| | what | found | to do |\n|---|---|---|---|")
    for result in results:
        cells = (" ".join(spelled(cell).replace("|", "\\|").split()) for cell in result.as_dict().values())
        name, status, detail, remedy = cells
        print(f"| {status} | {name} | {detail} | {remedy} |")


def summary(results: Sequence[CheckResult]) -> str:
    """Return such as '2 failed, 1 to look at', or 'all is well'."""
    count = Counter(result.status for result in results)
    words = {CheckStatus.FAIL: "failed", CheckStatus.WARN: "to look at"}
    return ", ".join(f"{count[status]} {word}" for status, word in words.items() if count[status]) or "all is well"
