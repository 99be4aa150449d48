"""`camapp bench` measures a run; its output is enough to repeat the measurement."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from camapp.capture.source import redacted
from camapp.core.arrays import Pixels
from camapp.core.errors import ExitCode
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.core.settings import Settings
from camapp.core.stats import STAGES
from camapp.pipeline.pipeline import Pipeline, Summary
from camapp.sinks.sink import ImageSink, PredictionSink
from camapp.system.machine import machine
from camapp.system.process import cpu_seconds, peak_rss_bytes
from camapp.system.systemd import on_stop_signals

PERCENTS = (50, 95, 99)


class Discard(ImageSink):
    """Accepts drawn images and discards them."""

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Do nothing: only the time of drawing matters."""


@dataclass
class _Mark:
    """Holds the counters at one moment."""

    time: float
    cpu: float
    captured: int
    predicted: int

    @classmethod
    def now(cls, pipeline: Pipeline) -> _Mark:
        balance = pipeline.stats.balance()
        # Of the processes that run, and of those that have ended: a decoder ends with its file.
        ended = os.times()
        used = sum(cpu_seconds(_processes(pipeline)).values()) + ended.children_user + ended.children_system
        return cls(time.monotonic(), used, balance.captured, balance.predicted)


def _processes(pipeline: Pipeline) -> list[int]:
    return [os.getpid(), *pipeline.inference.pool.processes(), *pipeline.source.processes()]


class Meter(PredictionSink):
    """Marks the first prediction, so that the start is not measured."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.first: _Mark | None = None
        self.last: _Mark | None = None
        self.peak_rss = 0
        self._pipeline = pipeline

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Mark the first prediction."""
        if self.first is None:
            self.first = _Mark.now(self._pipeline)

    def finish(self) -> None:
        """Mark the end, while the workers still run."""
        self.last = _Mark.now(self._pipeline)
        self.peak_rss = peak_rss_bytes(_processes(self._pipeline))


def measure(settings: Settings, seconds: float, draw: bool) -> dict[str, Any]:
    """Run for some seconds from the first captured frame, without display and log; return the figures."""
    pipeline = Pipeline(replace(settings, duration=seconds))
    meter = Meter(pipeline)
    pipeline.add_sink(meter)
    if draw:
        pipeline.add_sink(Discard())
    on_stop_signals(pipeline.request_stop)
    summary = pipeline.run(before_stop=meter.finish)
    return _figures(pipeline, meter, summary, draw)


def _figures(pipeline: Pipeline, meter: Meter, summary: Summary, draw: bool) -> dict[str, Any]:
    stats = pipeline.stats
    first, last = meter.first, meter.last
    figures: dict[str, Any] = {
        "command": " ".join(["camapp", *map(redacted, sys.argv[1:])]),
        "machine": machine(),
        "source": pipeline.source.describe(),
        "model": pipeline.model.card.net,
        "workers": pipeline.workers,
        "draw": draw,
        "exit": int(summary.code),
        "reason": summary.reason,
        "balance": str(summary.balance),
        "dropped": summary.balance.dropped,
        "failed": summary.balance.failed,
        "latency_ms": {
            stage: dict(zip(("p50", "p95", "p99"), stats.latency[stage].at(*PERCENTS), strict=True)) for stage in STAGES
        },
        "peak_rss_mb": meter.peak_rss / 1e6,
    }
    if draw:
        figures["latency_ms"]["shown"] = dict(zip(("p50", "p95", "p99"), stats.shown_ms.at(*PERCENTS), strict=True))
    if first is not None and last is not None and last.predicted > first.predicted:
        span = last.time - first.time
        cpu = last.cpu - first.cpu
        figures |= {
            "seconds": span,
            "camera_fps": (last.captured - first.captured) / span,
            "inference_fps": (last.predicted - first.predicted) / span,
            "display_fps": stats.display.rate() if draw else 0.0,
            "cpu_ms_per_frame": 1000 * cpu / max(1, last.captured - first.captured),
        }
    return figures


def run_bench(settings: Settings, seconds: float, draw: bool, as_json: bool) -> None:
    """Measure a run and print the figures."""
    figures = measure(settings, seconds, draw)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        _print_table(figures)
    if figures["exit"]:
        raise SystemExit(figures["exit"])


def _print_table(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    host = figures["machine"]
    console.print(f"[bold]{figures['model']}[/bold] on {figures['source']}, {figures['workers']} workers")
    versions = f"Python {host['python']}, NumPy {host['numpy']}, OpenCV {host['opencv']}"
    console.print(f"{host['cpu']}, {host['cores']} cores, {versions}")
    if "seconds" in figures:
        console.print(
            f"over {figures['seconds']:.1f} s: camera {figures['camera_fps']:.1f} fps, inference "
            f"{figures['inference_fps']:.1f} fps, display {figures['display_fps']:.1f} fps"
        )
        console.print(
            f"CPU {figures['cpu_ms_per_frame']:.2f} ms a frame over all processes, "
            f"peak RSS {figures['peak_rss_mb']:.0f} MB"
        )
    table = Table("latency, ms", *(f"p{percent}" for percent in PERCENTS))
    for stage, values in figures["latency_ms"].items():
        table.add_row(stage, *(f"{value:.2f}" for value in values.values()))
    console.print(table)
    console.print(figures["balance"])
    if figures["exit"] != ExitCode.OK:
        console.print(f"[red]{figures['reason']}[/red]")
