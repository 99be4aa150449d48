"""`camapp selftest`: tries everything this machine would be used for, and reports it for an issue.

Beyond what the doctor sees by looking, each part is used: frames from the camera, every shipped model on them, a whole
run with its workers, a window, memory shared between processes, the speed of the matrix product.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from camapp import __version__
from camapp.capture.source import EndOfStream, Source, build_source, redacted
from camapp.commands.bench import Discard
from camapp.commands.doctor import CheckResult, CheckStatus, examine, fail, ok, warn
from camapp.core.errors import ExitCode, SourceError
from camapp.core.frames import Frame, Shot
from camapp.core.models import load_model, shipped_models
from camapp.core.settings import Settings
from camapp.pipeline.pipeline import Pipeline
from camapp.system import displays
from camapp.system.machine import machine
from camapp.tasks.task import task_for
from engine.model import Model, ModelError

# 2 * 512^3 operations each; a Pi 4 with OpenBLAS makes about 10 GFLOP/s a core, plain C loops less than one.
_SIDE, _PRODUCTS, _MIN_GFLOPS = 512, 5, 2.0
_BUSY = 0.75
_KEPT = 10
_OPEN_PATIENCE = 10.0
_WINDOW_WAIT = 15.0


@dataclass
class Tried:
    """What the steps leave for one another.

    Attributes:
        settings: the source and the rest, as asked for.
        seconds: how long each of the camera and the whole run is tried.
        shots: the last ones that the source gave.
    """

    settings: Settings
    seconds: float
    shots: list[Shot] = field(default_factory=list)


def _load(tried: Tried) -> Iterator[CheckResult]:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > _BUSY * cores:
        yield warn(
            "load", f"{load:.1f} on {cores} cores: the figures below are too low", "end other programs, try again"
        )
    else:
        yield ok("load", f"{load:.1f} on {cores} cores")


def _blas(tried: Tried) -> Iterator[CheckResult]:
    left = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)
    best = float("inf")
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        _ = left @ left
        best = min(best, time.perf_counter() - began)
    gflops = 2 * _SIDE**3 / best / 1e9
    detail = f"{gflops:.1f} GFLOP/s (float32 {_SIDE}x{_SIDE}), {machine()['cpu']}"
    if gflops >= _MIN_GFLOPS:
        yield ok("matrix product", detail)
    else:
        yield warn("matrix product", f"{detail}: slow", "sudo apt install -y libopenblas0-pthread")


def _camera(tried: Tried) -> Iterator[CheckResult]:
    """Open the source, read it for some seconds, and look at what came."""
    model = load_model(tried.settings)
    source = build_source(tried.settings, model)
    try:
        began = time.monotonic()
        _open(source)
        opened = time.monotonic() - began
        gaps, shots = _read(source, tried.seconds)
        yield from _seen(source, opened, gaps, shots)
        tried.shots = shots[-_KEPT:]
    except SourceError as error:
        yield fail("camera", str(error), "see the line above; 'camapp sources' lists what there is")
    finally:
        source.close()


def _open(source: Source) -> None:
    """A source that is away may come back in a moment, as for a run."""
    until = time.monotonic() + _OPEN_PATIENCE
    while True:
        try:
            return source.open()
        except SourceError:
            source.close()
            if not source.live or time.monotonic() > until:
                raise
            time.sleep(1.0)


def _read(source: Source, seconds: float) -> tuple[list[float], list[Shot]]:
    """The milliseconds between frames, and the frames' last few."""
    shots, arrivals = [source.read(5.0)], [time.monotonic()]
    while arrivals[-1] - arrivals[0] < seconds:
        try:
            shots.append(source.read(5.0))
        except EndOfStream:
            break
        arrivals.append(time.monotonic())
        del shots[:-_KEPT]
    return [1000 * (now - then) for then, now in pairwise(arrivals)], shots


def _seen(source: Source, opened: float, gaps: list[float], shots: list[Shot]) -> Iterator[CheckResult]:
    last = shots[-1]
    view = last.view
    detail = f"{source.describe()}; open after {opened:.1f} s, {view.layout.value} {view.width}x{view.height}"
    yield ok("camera", detail)
    if gaps:
        rate, worst = 1000 * len(gaps) / sum(gaps), float(np.percentile(gaps, 99))
        detail = f"{rate:.1f} fps, 99 % of the frames within {worst:.0f} ms of the one before"
        if source.fps and rate < 0.9 * source.fps:
            why = source.slowness or "perhaps the machine is busy"
            yield warn("camera rate", f"{detail}; {source.fps:g} were asked: {why}", "more light, a smaller --size")
        else:
            yield ok("camera rate", detail)
    stamped = last.sensor_ns > 0
    yield ok("camera clock", "stamps its frames in monotonic time" if stamped else "no stamps: arrival counts")
    levels = view.rgb().astype(np.float32)
    mean = ", ".join(f"{level:.0f}" for level in levels.mean(axis=(0, 1)))
    if levels.max() < 16:
        yield warn("picture", f"black (mean RGB {mean})", "is the cap on the lens, or the room dark?")
    elif levels.std() < 2:
        yield warn("picture", f"one colour all over (mean RGB {mean})", "what does the camera look at?")
    else:
        yield ok("picture", f"mean RGB {mean}, contrast {levels.std():.0f}")


def _models(tried: Tried) -> Iterator[CheckResult]:
    """Each shipped model on the frames that were kept, in this process."""
    if not tried.shots:
        yield warn("models", "not tried: there were no frames", "mend the camera first")
        return
    for path, _ in shipped_models():
        yield _model(path.stem, tried)


def _model(name: str, tried: Tried) -> CheckResult:
    settings = replace(tried.settings, model=name, net=None, task=None, labels=None, mean=None, std=None)
    try:
        model = load_model(settings)
        times, label = _predict(model, settings, tried.shots)
    except (ModelError, ValueError, RuntimeError) as error:
        return fail(f"model {name}", f"{type(error).__name__}: {error}", "install again: git checkout weights")
    middle = float(np.median(times))
    detail = f"{middle:.1f} ms a frame ({1000 / middle:.0f} fps of one core), says '{label}'"
    if middle * tried.settings.target_fps > 1000:
        return warn(
            f"model {name}", detail, f"{tried.settings.target_fps:g} fps take more --workers or a smaller model"
        )
    return ok(f"model {name}", detail)


def _predict(model: Model, settings: Settings, shots: Sequence[Shot]) -> tuple[list[float], str]:
    """Milliseconds of prepare, run and decode together, and the last label."""
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
            raise ValueError("gives values that are no numbers")
        found = [output[: prepared.count] for output in each] if prepared.count else []
        label = task.decode(frame, found, prepared, number * 10**8).label
        times.append(1000 * (time.perf_counter() - began))
    return times, label


def _whole_run(tried: Tried) -> Iterator[CheckResult]:
    """Capture, shared memory, worker processes, drawing: all but a screen."""
    pipeline = Pipeline(replace(tried.settings, duration=tried.seconds))
    pipeline.add_sink(Discard())
    summary = pipeline.run()
    stats, balance = pipeline.stats, summary.balance
    p50, p99 = stats.latency["total"].at(50, 99)
    rate = balance.predicted / max(0.1, tried.seconds)
    detail = f"{balance}; {rate:.1f} fps, latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, {pipeline.workers} workers"
    if summary.code is not ExitCode.OK or not balance.is_conserved or not balance.predicted:
        yield fail("whole run", f"{summary.reason}: {detail}", "report this")
    elif pipeline.inference.restarts:
        yield warn("whole run", f"{detail}, {pipeline.inference.restarts} workers replaced", "report this")
    else:
        yield ok("whole run", detail)


def _shared_memory(tried: Tried) -> Iterator[CheckResult]:
    """An image's way from process to process: as much as a 4K preview needs."""
    from camapp.system.shared_frames import SharedFrames

    canvas = SharedFrames(readers=1)
    image = np.arange(2160 * 3840 * 3, dtype=np.uint32).astype(np.uint8).reshape(2160, 3840, 3)
    try:
        canvas.publish(image, 1)
        began = time.perf_counter()
        canvas.publish(image, 2)
        seconds = time.perf_counter() - began
    except (OSError, MemoryError) as error:
        yield fail("shared memory", f"75 MB cannot be had: {error}", "close other programs, or a smaller --size")
        return
    finally:
        canvas.close()
    yield ok("shared memory", f"{image.nbytes / seconds / 1e9:.1f} GB/s into it")


def _window(tried: Tried) -> Iterator[CheckResult]:
    """A window for a moment, where there is a desktop; else what there is for a preview."""
    display = displays.probe()
    if not display:
        yield ok("window", display.reason)
        yield ok("kiosk", displays.probe_kiosk().reason)
        yield ok("console", displays.probe_drm().reason)
        return
    from camapp.core.frames import Trace
    from camapp.sinks.window import WindowSink

    shown: list[int] = []
    window = WindowSink("camapp selftest", on_shown=lambda seq, t_ns: shown.append(seq))
    window.start()
    try:
        until = time.monotonic() + _WINDOW_WAIT
        while len(shown) < _KEPT and time.monotonic() < until:
            window.show(np.full((240, 320, 3), 90, np.uint8), Trace(len(shown)))
            time.sleep(0.05)
    finally:
        window.stop()
    if shown:
        yield ok("window", f"opened on {display.reason}, {len(shown)} images were painted")
    else:
        yield fail("window", f"none opened on {display.reason}", "camapp run --display window --debug says why")


Step = Callable[[Tried], Iterator[CheckResult]]
STEPS: tuple[Step, ...] = (_load, _blas, _shared_memory, _camera, _models, _whole_run, _window)


def selftest(settings: Settings, seconds: float, look: Callable[[], list[CheckResult]] = examine) -> list[CheckResult]:
    """The doctor's findings, then those of every step; one that breaks is a finding too."""
    findings = look()
    tried = Tried(settings, seconds)
    for step in STEPS:
        try:
            findings += step(tried)
        except Exception as error:  # noqa: BLE001 - the others are still worth knowing
            name = step.__name__.strip("_").replace("_", " ")
            findings.append(fail(name, f"{type(error).__name__}: {error}", "report this"))
    return [_without_names(finding) for finding in findings]


def _without_names(finding: CheckResult) -> CheckResult:
    """A report is for all to read: no home folder, no user's name, no password in an address."""
    home, user = str(Path.home()), getpass.getuser()

    def cleaned(text: str) -> str:
        text = re.sub(r"\b(?:rtsps?|https?)://\S+", lambda found: redacted(found[0]), text)
        text = text.replace(home, "~") if home != "/" else text
        text = re.sub(r"/home/[^/\s]+", "/home/USER", text)
        # Names that are also words of ours say nothing about anybody.
        return text if user in ("root", "pi", "camapp") else re.sub(rf"\b{re.escape(user)}\b", "USER", text)

    return replace(finding, detail=cleaned(finding.detail), remedy=cleaned(finding.remedy))


def verdict(findings: Sequence[CheckResult]) -> str:
    """Such as '2 failed, 1 to look at', or 'all is well'."""
    count = {kind: sum(finding.verdict is kind for finding in findings) for kind in CheckStatus}
    parts = [f"{count[kind]} {word}" for kind, word in ((CheckStatus.FAIL, "failed"), (CheckStatus.WARN, "to look at"))
             if count[kind]]  # fmt: skip
    return ", ".join(parts) or "all is well"


def markdown(findings: Sequence[CheckResult]) -> str:
    """A table to paste into an issue."""
    lines = [
        f"### camapp {__version__} selftest: {verdict(findings)}",
        "",
        "| | what | found | to do |",
        "|---|---|---|---|",
    ]
    for finding in findings:
        cells = (finding.verdict.value, finding.name, finding.detail, finding.remedy)
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines)


def run_selftest(settings: Settings, seconds: float, as_json: bool) -> bool:
    """Try everything and print the report; whether all is well enough to work."""
    findings = selftest(settings, seconds)
    if as_json:
        print(json.dumps({"version": __version__, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(markdown(findings))
    return all(finding.verdict is not CheckStatus.FAIL for finding in findings)
