"""Compares the CPU cost of a window at camera rate with the overlay over the camera's own preview (`--display drm`).

python -m tests.benchmarks.native_overlay [--rounds 100]

Both draw the same prediction and statistics on 1280x720 images in the format of a Pi camera; the overlay is drawn ten
times per second, its maximum rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np

from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Prediction
from camapp.core.status import Hud
from camapp.overlay.alpha import with_alpha
from camapp.overlay.overlay import Overlay
from camapp.system.shared_frames import SharedFrames
from tests.benchmarks.common import benchmark_parser, print_conditions

SIZE = 1280, 720
FRAMES_PER_SECOND, OVERLAYS_PER_SECOND = 30, 10


def cpu_ms(call: Callable[[int], None], rounds: int) -> float:
    """Return the median CPU milliseconds of a call."""
    used = []
    for index in range(rounds):
        began = time.thread_time()
        call(index)
        used.append(1000 * (time.thread_time() - began))
    return statistics.median(used)


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--rounds", type=int, default=100, help="number of measured calls")
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    print_conditions()
    width, height = SIZE
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    overlay, canvas = Overlay(), SharedFrames()
    hud = Hud(30.0, 30.0, 30.0, 30.0, {"infer": 9.0, "total": 14.0}, {"newer frame": 3}, 0.4, 3)

    def prediction(index: int) -> Prediction:
        box = Box(300 + index, 200, 500 + index, 420, "cup", 0.8)
        return Prediction(index, "classify", "cup", 0.9, "cup", 0.9, (("cup", 0.9), ("pen", 0.1)), boxes=(box,))

    def window(index: int) -> None:
        image = Image.of(pixels, Layout.RGBX).bgr().copy()
        overlay.draw(image, prediction(index), hud, 0.0, False)
        canvas.publish(image, index)

    backgrounds = {level: np.empty((height, width, 3), np.uint8) for level in (0, 255)}
    rgba = np.empty((height, width, 4), np.uint8)

    def native(index: int) -> None:
        for level, image in backgrounds.items():
            image.fill(level)
            overlay.draw(image, prediction(index), hud, 0.0, False)
        with_alpha(backgrounds[0], backgrounds[255], rgba)

    for name, cost, rate in (
        ("window, in the parent process", cpu_ms(window, rounds), FRAMES_PER_SECOND),
        ("overlay of --display drm", cpu_ms(native, rounds), OVERLAYS_PER_SECOND),
    ):
        print(f"{name}: {cost:.2f} ms of CPU each, {cost * rate / 10:.1f} % of a core at {rate} per second")
    canvas.close()


if __name__ == "__main__":
    main()
