"""Measures the task `detect` after the net: decoding and suppression, in milliseconds of CPU a frame.

python -m tests.benchmarks.detect_decode [--rounds 200]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from camapp.core.frames import Frame
from camapp.core.image import Image, Layout
from camapp.core.model_table import labels_named
from camapp.tasks.nms import suppress
from camapp.tasks.task import TaskOptions, create_task
from engine.model_card import ModelCard, Output
from tests.benchmarks.common import benchmark_parser, print_conditions


def milliseconds(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median and the shortest CPU time of a call."""
    call()
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        call()
        times.append(1000 * (time.thread_time() - began))
    return statistics.median(times), min(times)


def one_person(numbers: np.ndarray, row: int) -> None:
    """Let some neighbouring cells of a YOLOX output (cells, 85) find the same person."""
    numbers[:, 4] = 0.001
    for cell in (row, row + 1, row + 52, row + 53):
        numbers[cell, :4] = [0.5, 0.5, 2.2, 2.9]
        numbers[cell, 4] = 0.9
        numbers[cell, 5:] = 0.01
        numbers[cell, 5] = 0.9


def main() -> None:
    """Run the script."""
    parser = benchmark_parser()
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind")
    rounds = parser.parse_args().rounds
    print_conditions()
    rng = np.random.default_rng(0)
    image = Image.of(np.zeros((480, 640, 3), np.uint8), Layout.BGR)
    frame = Frame.still(image)

    def report(title: str, call: Callable[[], object]) -> None:
        median, shortest = milliseconds(call, rounds)
        print(f"{title:58} median {median:6.3f} ms, shortest {shortest:6.3f} ms")

    def decoding(head: str, side: int, output: np.ndarray) -> Callable[[], object]:
        card = ModelCard(
            "any", "detect", (3, side, side), labels=labels_named("coco"), head=head,
            outputs=(Output("output", output.shape, ("Conv", "Sigmoid") if head == "yolox" else ("Mul", "Sigmoid")),),
        )  # fmt: skip
        task = create_task("detect", card, TaskOptions())
        prepared = task.prepare(frame, np.zeros((1, 3, side, side), np.float32))
        assert len(task.decode(frame, [output[None]], prepared, 0).boxes) == 1
        return lambda: task.decode(frame, [output[None]], prepared, 0)

    yolox = rng.uniform(0, 0.02, (3549, 85)).astype(np.float32)
    one_person(yolox, 1000)
    report("YOLOX 416, 3549 anchors x 80 classes, one person", decoding("yolox", 416, yolox))
    yolov8 = rng.uniform(0, 0.02, (84, 2100)).astype(np.float32)
    yolov8[:4, :9], yolov8[4, :9] = [[60], [70], [40], [90]], 0.9
    report("YOLOv8 320, 2100 cells x 80 classes, one person", decoding("yolov8", 320, yolov8))
    large = rng.uniform(0, 0.02, (84, 8400)).astype(np.float32)
    large[:4, :9], large[4, :9] = [[60], [70], [40], [90]], 0.9
    report("YOLOv8 640, 8400 cells x 80 classes, one person", decoding("yolov8", 640, large))
    for spread, name in ((600, "all over the image"), (30, "in one place"), (150, "in a quarter of it")):
        low = rng.uniform(0, spread, (50_000, 2))
        boxes = np.concatenate([low, low + rng.uniform(5, 80, (50_000, 2))], axis=1).astype(np.float32)
        scores, classes = rng.uniform(0, 1, 50_000).astype(np.float32), rng.integers(0, 80, 50_000)
        for count in (80, 1):
            kinds = classes % count
            title = f"suppression of 50,000 candidates {name}, {count} classes"
            report(title, lambda boxes=boxes, scores=scores, kinds=kinds: suppress(boxes, scores, kinds, 0.45))


if __name__ == "__main__":
    main()
