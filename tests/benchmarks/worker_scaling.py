"""Compares two workers with one on a heavy model (plain convolutions, random weights), and measures the preview.

python -m tests.benchmarks.worker_scaling [--rounds 5] [--frames 160]
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import numpy as np

from camapp.capture.source import EndOfStream, Source, SourceOptions
from camapp.commands.bench import Discard, Meter
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout
from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from engine.model import Model
from tests.benchmarks.common import benchmark_parser, heavy_model, print_conditions


class Rendered(Source):
    """Repeats a few frames from memory, so that capture costs nothing."""

    live = False

    def __init__(self, frames: int) -> None:
        super().__init__("rendered", SourceOptions())
        rng = np.random.default_rng(1)
        images = [Image.of(rng.integers(0, 255, (240, 320, 3), np.uint8, endpoint=True), Layout.RGB) for _ in range(8)]
        self._shots = [Shot(image, image) for image in images]
        self._left = frames

    def open(self) -> None:
        """Do nothing."""

    def read(self, timeout: float) -> Shot:
        """Return the next frame."""
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return self._shots[self._left % len(self._shots)]

    def close(self) -> None:
        """Do nothing."""


def throughput(model: Model, workers: int, frames: int) -> tuple[float, float]:
    """Return (frames per second, median milliseconds of inference)."""
    pipeline = Pipeline(load_settings({"workers": workers}, environment={}), model, source=Rendered(frames))
    meter = Meter(pipeline)
    pipeline.add_sink(meter)
    stamps: list[int] = []
    meter.accept = lambda prediction, frame, trace: stamps.append(trace.decoded)  # type: ignore[method-assign]
    summary = pipeline.run()
    if summary.balance.predicted != frames:
        raise SystemExit(f"not every frame was predicted: {summary.balance}")
    # The first quarter is left out: workers are still starting.
    steady = stamps[frames // 4 :]
    return (len(steady) - 1) * 1e9 / (steady[-1] - steady[0]), pipeline.stats.latency["infer"].at(50)[0]


def preview(model: Model, seconds: float) -> None:
    """Print the camera and drawing rates while inference is slower than the camera, and the growth of memory."""
    settings = load_settings({"source": "pattern://objects", "workers": 1, "duration": seconds}, environment={})
    pipeline = Pipeline(settings, model)
    pipeline.add_sink(Discard())
    resident: list[float] = []
    rates: list[tuple[float, float, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * 4096 / 1e6)
            rates.append((pipeline.stats.camera.rate(), pipeline.stats.display.rate(), pipeline.stats.inference.rate()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    summary = pipeline.run()
    ended.set()
    watcher.join()
    camera, display, inference = (statistics.median(column) for column in zip(*rates[3:-1], strict=True))
    print(
        f"preview: camera {camera:.1f} fps, display {display:.1f} fps, inference {inference:.1f} fps; {summary.balance}"
    )
    print(f"resident memory of the parent from {resident[3]:.0f} MB (after 3 s) to {resident[-2]:.0f} MB")


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--rounds", type=int, default=5, help="number of comparisons")
    parser.add_argument("--frames", type=int, default=160, help="frames per measurement")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of the preview part")
    options = parser.parse_args()
    print_conditions()
    model = heavy_model()
    ratios = []
    for _ in range(options.rounds):
        (one, infer_one), (two, infer_two) = (throughput(model, workers, options.frames) for workers in (1, 2))
        ratios.append(two / one)
        print(
            f"1 worker {one:5.1f} fps ({infer_one:.1f} ms per frame), 2 workers {two:5.1f} fps ({infer_two:.1f} ms), "
            f"ratio {two / one:.2f}",
            flush=True,
        )
        time.sleep(0.5)
    print(f"median ratio {statistics.median(ratios):.2f}")
    preview(heavy_model(layers=24), options.seconds)


if __name__ == "__main__":
    main()
