"""Soak: minutes of a 60 fps pattern with faults; afterwards every frame is accounted for and nothing has grown.

python -m tests.benchmarks.soak [--minutes 30] [--every 20]

A fault every few seconds, in turn: a worker killed, a worker stopped, the source lost for 3 s, the log's disk full for
5 s, another model. Printed: what happened, the balance of frames, and how resident memory, descriptors, threads and the
latency change over time, as a slope and as the medians of the first and the last third.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from camapp.capture.pattern import PatternSource
from camapp.capture.source import SourceLost
from camapp.pipeline import Pipeline
from camapp.processes import rss_bytes
from camapp.records import Shot
from camapp.settings import load_settings
from camapp.sinks.log import LogSink
from tests.benchmarks.common import print_conditions

_LOST_S, _FULL_S = 3.0, 5.0
_SAMPLE_S = 1.0


class Frail(PatternSource):
    """A pattern that can be unplugged."""

    away_until = 0.0

    def open(self) -> None:
        """Refuse while unplugged."""
        self._check()
        super().open()

    def read(self, timeout: float) -> Shot:
        """Fail while unplugged."""
        self._check()
        return super().read(timeout)

    def _check(self) -> None:
        if time.monotonic() < self.away_until:
            raise SourceLost("unplugged")


class FrailLog(LogSink):
    """A log whose disk can be full."""

    full_until = 0.0

    def _append(self, file, line: bytes) -> None:  # type: ignore[no-untyped-def]
        if time.monotonic() < self.full_until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._append(file, line)


@dataclass(frozen=True)
class Sample:
    """What must not grow, at one moment."""

    at: float
    rss_mb: float
    workers_mb: float
    descriptors: int
    threads: int
    p99_ms: float
    conserved: bool


class Soak:
    """A run, its faults and its samples."""

    def __init__(self, minutes: float, every: float, log: Path) -> None:
        source = "pattern://digits?fps=60&size=640x480"
        self.settings = load_settings({"source": source, "workers": 2, "display": "none"}, environment={})
        self.pipeline = Pipeline(self.settings)
        self.source = Frail(self.settings.source, self.pipeline.source.options)
        self.pipeline.source = self.pipeline.capture.source = self.source
        self.log = FrailLog(str(log), self.settings.source, self.pipeline.stats.inference.rate, 2_000_000, 3)
        self.pipeline.prediction_sinks.append(self.log)
        self.samples: list[Sample] = []
        self.faults = 0
        self._minutes, self._every = minutes, every
        self._models = cycle(("lenet", "mnist"))

    def run(self) -> None:
        """Start, injure, watch, stop."""
        breaker = threading.Thread(target=self._break_all, daemon=True)
        watcher = threading.Thread(target=self._watch, daemon=True)
        breaker.start()
        watcher.start()
        self.summary = self.pipeline.run()
        breaker.join(5)
        watcher.join(5)

    def _break_all(self) -> None:
        faults: tuple[Callable[[], None], ...] = (self.kill, self.freeze, self.unplug, self.fill, self.swap)
        end = time.monotonic() + 60 * self._minutes
        for fault in cycle(faults):
            if time.monotonic() + self._every > end:
                break
            time.sleep(self._every)
            fault()
            self.faults += 1
            print(f"{len(self.samples):6d} s  {fault.__name__}", file=sys.stderr)
        time.sleep(max(0.0, end - time.monotonic()))
        self.pipeline.request_stop("the soak is over")

    def kill(self) -> None:
        """A worker is gone at once."""
        os.kill(self.pipeline.inference.pool.processes()[0], signal.SIGKILL)

    def freeze(self) -> None:
        """A worker answers no more."""
        os.kill(self.pipeline.inference.pool.processes()[-1], signal.SIGSTOP)

    def unplug(self) -> None:
        """The camera is away for a while."""
        self.source.away_until = time.monotonic() + _LOST_S

    def fill(self) -> None:
        """The log's disk takes nothing for a while."""
        self.log.full_until = time.monotonic() + _FULL_S

    def swap(self) -> None:
        """Another model takes over."""
        self.pipeline.change(load_settings({"model": next(self._models)}, environment={}))

    def _watch(self) -> None:
        began = time.monotonic()
        while self.pipeline.capture.is_alive() or not self.samples:
            time.sleep(_SAMPLE_S)
            stats = self.pipeline.stats
            self.samples.append(
                Sample(
                    time.monotonic() - began,
                    rss_bytes([os.getpid()]) / 1e6,
                    rss_bytes(self.pipeline.inference.pool.processes()) / 1e6,
                    len(os.listdir("/proc/self/fd")),
                    threading.active_count(),
                    stats.latency["total"].at(99, last=60)[0],
                    stats.balance().is_conserved,
                )
            )


def report(soak: Soak) -> None:
    """Print what came of it."""
    replaced = soak.pipeline.inference.restarts
    print(f"{soak.faults} faults in {soak.samples[-1].at / 60:.1f} min; workers replaced {replaced}")
    print(soak.summary.balance)
    print(f"conserved in {sum(sample.conserved for sample in soak.samples)} of {len(soak.samples)} samples")
    print(f"log lines lost to the full disk: {soak.log.lost}")
    minutes = np.array([sample.at / 60 for sample in soak.samples])
    third = len(minutes) // 3
    print(f"{'':12} {'first third':>12} {'last third':>12} {'slope a minute':>16}")
    for name in ("rss_mb", "workers_mb", "descriptors", "threads", "p99_ms"):
        values = np.array([getattr(sample, name) for sample in soak.samples], float)
        slope = np.polyfit(minutes[third:], values[third:], 1)[0]  # the first third warms up
        first, last = np.median(values[:third]), np.median(values[-third:])
        print(f"{name:12} {first:12.2f} {last:12.2f} {slope:16.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults")
    parser.add_argument("--log", type=Path, default=Path("/tmp/camapp-soak.jsonl"))
    options = parser.parse_args()
    print_conditions()
    soak = Soak(options.minutes, options.every, options.log)
    soak.run()
    report(soak)


if __name__ == "__main__":
    main()
