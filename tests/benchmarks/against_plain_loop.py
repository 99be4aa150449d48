"""Compares the CPU time per frame of the application with a plain single-process loop with OpenCV DNN on the same net.

Both decode the same file with cv2.VideoCapture, resize by averaging and draw; neither displays. Each runs in a separate
process, in turns; CPU is user and system time over all processes, from the first prediction to the last.

python -m tests.benchmarks.against_plain_loop [--model cifar10] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from camapp.commands.bench import measure
from camapp.core.models import load_model
from camapp.core.settings import load_settings
from tests.benchmarks.common import benchmark_parser, clip, onnx_bytes, print_conditions, run_child

SECONDS = 20.0


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--model", default="cifar10", help="name or path of a classification model")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements of each program")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.model)))
        return
    print_conditions()
    clip(SECONDS)
    measured: dict[str, list[float]] = {name: [] for name in CHILDREN}
    for _ in range(options.rounds):
        for name, values in measured.items():
            arguments = ("-m", "tests.benchmarks.against_plain_loop", "--model", options.model, "--child", name)
            values.append(json.loads(run_child(*arguments)))
    loop = measured["loop"]
    print(f"{options.model}, {SECONDS * 30:g} frames of 1280x720, {options.rounds} rounds in turns")
    for name, values in measured.items():
        ratio = statistics.median(value / base for value, base in zip(values, loop, strict=True))
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:<10} {statistics.median(values):6.2f} ms of CPU per frame ({spread}), ratio to loop {ratio:.2f}")


def plain_loop(model: str) -> float:
    """Run the loop with a resize that averages pixels, as downscaling needs; return CPU ms per frame."""
    return _loop(model, cv2.INTER_AREA)


def quick_loop(model: str) -> float:
    """Run the loop with OpenCV's default resize, which ignores most pixels; return CPU ms per frame."""
    return _loop(model, cv2.INTER_LINEAR)


def _loop(model: str, interpolation: int) -> float:
    cv2.setNumThreads(1)
    loaded = load_model(load_settings({"model": model}, environment={}))
    _, height, width = loaded.card.input_shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(onnx_bytes(loaded.graph))
        net = cv2.dnn.readNetFromONNX(str(path))
    labels = loaded.card.labels
    capture = cv2.VideoCapture(str(clip(SECONDS)))
    frames, started, shown = 0, 0.0, time.monotonic()
    while True:
        good, frame = capture.read()
        if not good:
            break
        side = min(frame.shape[:2])
        left, top = (frame.shape[1] - side) // 2, (frame.shape[0] - side) // 2
        small = cv2.resize(frame[top : top + side, left : left + side], (width, height), interpolation=interpolation)
        net.setInput(cv2.dnn.blobFromImage(small, 1 / 127.5, (width, height), (127.5, 127.5, 127.5), swapRB=True))
        scores = net.forward()[0]
        best = int(np.argmax(scores))
        odds = np.exp(scores - scores.max())
        now = time.monotonic()
        text = f"{labels[best]} {odds[best] / odds.sum():.0%}"
        cv2.putText(frame, text, (20, 700), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2)
        cv2.putText(frame, f"{1 / (now - shown):.1f} fps", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
        shown = now
        if not frames:
            started = time.process_time()
        frames += 1
    return 1000 * (time.process_time() - started) / (frames - 1)


def application(model: str) -> float:
    """Run the application on every frame, as fast as possible; return CPU ms per frame."""
    return _application(model, {})


def paced(model: str) -> float:
    """Run the application at 30 frames per second, as with a camera; return CPU ms per frame."""
    return _application(model, {"realtime": True})


def _application(model: str, options: dict[str, object]) -> float:
    settings = load_settings({"source": str(clip(SECONDS)), "model": model, "workers": 1, **options}, environment={})
    figures = measure(settings, 60.0, draw=True)
    if figures["failed"] or (figures["dropped"] and not options):
        raise SystemExit(f"not every frame was predicted: {figures['balance']}")
    return float(figures["cpu_ms_per_frame"])


CHILDREN = {"loop": plain_loop, "quick loop": quick_loop, "camapp": application, "camapp 30": paced}


if __name__ == "__main__":
    main()
