"""Measures the CPU that `pattern://track` costs for an image, with and without reading the lines of its truth.

Run: python -m tests.benchmarks.track_lap [--frames N] [--seeds N]
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from camapp.scenes.lap import LapScene
from camapp.scenes.scene import SceneOptions
from camapp.scenes.track import TrackScene
from tests.benchmarks.common import benchmark_parser, print_conditions

SIZE = (640, 480)


def milliseconds(scene: TrackScene, frames: int, reads_lines: bool) -> list[float]:
    """Return the CPU time of images spread over a lap."""
    spent = []
    for number in range(frames):
        began = time.process_time()
        _, truth = scene.render(number * 31)
        if reads_lines:
            len(truth.lines)
        spent.append((time.process_time() - began) * 1000)
    return spent


def main() -> None:
    """Print a line for each course, and one for all of them."""
    parser = benchmark_parser()
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    print_conditions()
    # As in a run.
    cv2.setNumThreads(1)
    print(f"{SIZE[0]}x{SIZE[1]}, ms of CPU for an image: median, 99th percentile; with its lines; the plain renderer")
    everything = []
    for seed in range(1, options.seeds + 1):
        fast, plain = (kind(SceneOptions(size=SIZE, seed=seed)) for kind in (LapScene, TrackScene))
        alone = milliseconds(fast, options.frames, False)
        with_lines = milliseconds(fast, options.frames // 4, True)
        slow = milliseconds(plain, 4, True)
        everything += alone
        print(
            f"seed {seed}: {np.median(alone):5.1f} {np.percentile(alone, 99):5.1f}"
            f"   {np.median(with_lines):5.1f}   {np.median(slow):6.1f}"
        )
    print(f"all: {np.median(everything):5.1f} {np.percentile(everything, 99):5.1f}")


if __name__ == "__main__":
    main()
