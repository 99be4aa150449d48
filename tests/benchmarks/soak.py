"""Runs a 60 fps pattern with faults for minutes; checks that every frame is counted and that nothing grows.

python -m tests.benchmarks.soak [--minutes 30] [--every 20] [--plot soak.png]

A fault every few seconds, in turn: a worker killed, a worker stopped, the source lost for 3 s, the log's disk full for
5 s, another model, the X server stopped for 3 s (with Xvfb; without it there is no window). It prints the faults, the
balance of frames, and the change of memory, descriptors, threads and latency after the warm-up: the slope per hour by
least squares, and the medians of the first and the last third.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from camapp.capture.pattern import PatternSource
from camapp.core.errors import SourceLost
from camapp.core.frames import Shot
from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.jsonl_log import LogSink
from camapp.sinks.rotating_file import RotatingFile
from camapp.sinks.window import WindowSink
from camapp.system.process import rss_bytes
from tests.benchmarks.common import benchmark_parser, print_conditions
from tests.camapp.desktop import Desktop

_UNPLUGGED_S, _FULL_S, _NO_SCREEN_S = 3.0, 5.0, 3.0
_SAMPLE_S = 1.0
# Share of the run. By then each fault occurred once, and every window of percentiles is full.
_WARM_UP = 0.2
_UNITS = {
    "rss_mb": "resident memory, MB",
    "workers_mb": "the workers' memory, MB",
    "shared_mb": "shared memory, MB",
    "descriptors": "descriptors",
    "threads": "threads",
    "p99_ms": "p99 latency, ms",
}


class Frail(PatternSource):
    """A pattern source that can be unplugged."""

    away_until = 0.0

    def open(self) -> None:
        """Raise SourceLost while unplugged."""
        self._check()
        super().open()

    def read(self, timeout: float) -> Shot:
        """Raise SourceLost while unplugged."""
        self._check()
        return super().read(timeout)

    def _check(self) -> None:
        if time.monotonic() < self.away_until:
            raise SourceLost("unplugged")


class FrailFile(RotatingFile):
    """A file whose disk can be full."""

    full_until = 0.0

    def append(self, line: bytes) -> None:
        """Fail while the disk is full."""
        if time.monotonic() < self.full_until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(line)


@dataclass(frozen=True)
class Sample:
    """Values at one moment that must not grow."""

    at: float
    rss_mb: float
    workers_mb: float
    shared_mb: float
    descriptors: int
    threads: int
    p99_ms: float
    conserved: bool


class Soak:
    """A run, its faults and its samples."""

    def __init__(self, minutes: float, every: float, log: Path) -> None:
        source = "pattern://digits?fps=60&size=640x480"
        self.settings = load_settings({"source": source, "workers": 2}, environment={})
        self.pipeline = Pipeline(self.settings)
        self.source = Frail(self.settings.source, self.pipeline.source.options)
        self.pipeline.source = self.pipeline.capture.source = self.source
        self.file = FrailFile(str(log), 2_000_000, 3)
        self.log = LogSink(self.file, lambda: {"source": source, "fps": self.pipeline.stats.inference.rate()})
        self.pipeline.add_sink(self.log)
        self.samples: list[Sample] = []
        self.faults: list[tuple[float, str]] = []
        self._over = threading.Event()
        self.screen: Desktop | None = None
        if shutil.which("Xvfb"):
            self.screen = Desktop()
            os.environ["DISPLAY"] = self.screen.name
            self.pipeline.add_sink(WindowSink("soak", on_shown=self.pipeline.renderer.shown))
        self._minutes, self._every = minutes, every
        self._models = cycle(("lenet", "mnist"))

    def run(self) -> None:
        """Run the pipeline with faults and samples until the end."""
        injector = threading.Thread(target=self._inject_faults, daemon=True)
        sampler = threading.Thread(target=self._sample, daemon=True)
        injector.start()
        sampler.start()
        try:
            self.summary = self.pipeline.run()
        finally:
            self._over.set()
            injector.join(5)
            sampler.join(5)
            if self.screen is not None:
                self.screen.kill()

    def _inject_faults(self) -> None:
        faults: list[Callable[[], None]] = [self.kill, self.freeze, self.unplug, self.fill, self.swap]
        if self.screen is not None:
            faults.append(self.darken)
        end = time.monotonic() + 60 * self._minutes
        for fault in cycle(faults):
            if time.monotonic() + self._every > end:
                break
            time.sleep(self._every)
            at = self.samples[-1].at
            fault()
            self.faults.append((at, fault.__name__))
            print(f"{at:6.0f} s  {fault.__name__}", file=sys.stderr)
        time.sleep(max(0.0, end - time.monotonic()))
        self.pipeline.request_stop("the soak is over")

    def kill(self) -> None:
        """Kill a worker."""
        os.kill(self.pipeline.inference.pool.processes()[0], signal.SIGKILL)

    def freeze(self) -> None:
        """Stop a worker with SIGSTOP."""
        os.kill(self.pipeline.inference.pool.processes()[0], signal.SIGSTOP)

    def unplug(self) -> None:
        """Unplug the camera for a while."""
        self.source.away_until = time.monotonic() + _UNPLUGGED_S

    def fill(self) -> None:
        """The log's disk takes nothing for a while."""
        self.file.full_until = time.monotonic() + _FULL_S

    def darken(self) -> None:
        """Stop the X server for a while; the window's process ends with it."""
        assert self.screen is not None
        self.screen.kill()
        time.sleep(_NO_SCREEN_S)
        self.screen.start()

    def swap(self) -> None:
        """Change the model."""
        self.pipeline.apply(load_settings({"model": next(self._models)}, environment={}))

    def _sample(self) -> None:
        began = time.monotonic()
        while not self._over.wait(_SAMPLE_S):
            stats = self.pipeline.stats
            workers = rss_bytes(self.pipeline.inference.pool.processes()) / 1e6
            self.samples.append(
                Sample(
                    time.monotonic() - began,
                    rss_bytes([os.getpid()]) / 1e6,
                    workers,
                    shared_bytes() / 1e6,
                    len(os.listdir("/proc/self/fd")),
                    threading.active_count(),
                    stats.latency["total"].at(99, last=60)[0],
                    stats.balance().is_conserved,
                )
            )


def shared_bytes() -> int:
    """Return the shared memory in bytes, both named in /dev/shm and unnamed."""
    status = Path("/proc/self/status").read_text()
    mapped = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssShmem"))
    named = os.statvfs("/dev/shm")
    return mapped + (named.f_blocks - named.f_bfree) * named.f_frsize


def report(soak: Soak) -> None:
    """Print the results."""
    replaced = soak.pipeline.inference.restarts
    print(f"{len(soak.faults)} faults in {soak.samples[-1].at / 60:.1f} min; workers replaced {replaced}")
    print(soak.summary.balance)
    print(f"conserved in {sum(sample.conserved for sample in soak.samples)} of {len(soak.samples)} samples")
    print(f"log lines lost to the full disk: {soak.log.lost}")
    steady = soak.samples[int(_WARM_UP * len(soak.samples)) :]
    hours = np.array([sample.at / 3600 for sample in steady])
    third = len(steady) // 3
    print(f"| after a warm-up of {_WARM_UP:.0%} | first third | last third | slope per hour |")
    print("|---|---|---|---|")
    for name, title in _UNITS.items():
        values = np.array([getattr(sample, name) for sample in steady], float)
        slope = np.polyfit(hours, values, 1)[0]
        print(f"| {title} | {np.median(values[:third]):.2f} | {np.median(values[-third:]):.2f} | {slope:+.2f} |")


def plot(soak: Soak, path: Path) -> None:
    """Plot each value over time, with a grey line at each fault."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(_UNITS), sharex=True, figsize=(10, 2 * len(_UNITS)), layout="constrained")
    minutes = [sample.at / 60 for sample in soak.samples]
    for axis, (name, title) in zip(axes, _UNITS.items(), strict=True):
        axis.plot(minutes, [getattr(sample, name) for sample in soak.samples], linewidth=1)
        axis.set_ylabel(title)
        for at, _ in soak.faults:
            axis.axvline(at / 60, color="0.85", linewidth=0.5, zorder=0)
    axes[-1].set_yscale("log")
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--minutes", type=float, default=30.0, help="duration of the run")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults")
    parser.add_argument("--plot", type=Path, help="write a plot of the values to this PNG file")
    options = parser.parse_args()
    print_conditions()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(options.minutes, options.every, Path(folder, "soak.jsonl"))
        soak.run()
    report(soak)
    if options.plot:
        plot(soak, options.plot)


if __name__ == "__main__":
    main()
