"""What a preview costs: a window's image at camera rate against an overlay for the camera's own (`--display drm`).

`python -m tests.benchmarks.native_overlay`. Both draw the same findings and figures on 1280x720 images as a Pi
gives them; the overlay is redrawn ten times a second at the most, and this is that most.
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
from tests.benchmarks.common import print_conditions

SIZE = 1280, 720
ROUNDS = 100
FRAMES_A_SECOND, OVERLAYS_A_SECOND = 30, 10


def cpu_ms(call: Callable[[int], None]) -> float:
    """Median CPU milliseconds of a call."""
    used = []
    for index in range(ROUNDS):
        began = time.thread_time()
        call(index)
        used.append(1000 * (time.thread_time() - began))
    return statistics.median(used)


def main() -> None:
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

    grounds = {ground: np.empty((height, width, 3), np.uint8) for ground in (0, 255)}
    rgba = np.empty((height, width, 4), np.uint8)

    def native(index: int) -> None:
        for ground, image in grounds.items():
            image.fill(ground)
            overlay.draw(image, prediction(index), hud, 0.0, False)
        with_alpha(grounds[0], grounds[255], rgba)

    for name, cost, rate in (
        ("window, parent's side", cpu_ms(window), FRAMES_A_SECOND),
        ("overlay of --display drm", cpu_ms(native), OVERLAYS_A_SECOND),
    ):
        print(f"{name}: {cost:.2f} ms of CPU each, {cost * rate / 10:.1f} % of a core at {rate} a second")
    canvas.close()


if __name__ == "__main__":
    main()
