"""Measures what the encoders of `--record` cost: CPU per frame, bit rate and quality on a generated scene.

Run: python -m tests.benchmarks.recording
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from camapp.capture.pattern import PatternSource
from camapp.capture.source import SourceOptions
from camapp.core.arrays import Pixels
from camapp.sinks.encoders import Encoder, JpegEncoder, OpenCvEncoder, h264_encoder, open_encoder
from camapp.sinks.film_files import FilmFiles
from tests.benchmarks.common import benchmark_parser, print_conditions

SIZE, FPS, IMAGES, ROUNDS = (1280, 720), 30.0, 60, 3


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(path: Path, images: list[Pixels], make: Callable[[Callable[[bytes], None]], Encoder]) -> str:
    """Record the images and return a line with the figures."""
    began = cpu_seconds()
    files = FilmFiles(path)
    files.start()
    encoder = make(files.add)
    files.begin(encoder.codec, SIZE, FPS)
    for _ in range(ROUNDS):
        for image in images:
            encoder.write(image)
    encoder.finish(60)
    files.close()
    milliseconds = (cpu_seconds() - began) / (ROUNDS * len(images)) * 1000
    megabits = path.stat().st_size * 8 / (ROUNDS * len(images) / FPS) / 1e6
    video = cv2.VideoCapture(str(path))
    psnr = np.mean([cv2.PSNR(image, np.asarray(video.read()[1], np.uint8)) for image in images])
    return f"{encoder.name:28} {milliseconds:5.1f} ms of CPU per frame, {megabits:5.1f} Mbit/s, PSNR {psnr:.1f} dB"


def main() -> None:
    """Print a line for each encoder of this machine."""
    benchmark_parser().parse_args()
    print_conditions()
    source = PatternSource(f"pattern://digits?size={SIZE[0]}x{SIZE[1]}", SourceOptions(realtime=False))
    source.open()
    images = [source.read(1.0).view.bgr().copy() for _ in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        if h264_encoder():
            print(measure(Path(folder, "h264.mp4"), images, lambda on: open_encoder(SIZE, FPS, on)))
        print(measure(Path(folder, "mpeg4.mp4"), images, lambda on: OpenCvEncoder(SIZE, FPS, on)))
        print(measure(Path(folder, "jpeg.avi"), images, JpegEncoder))


if __name__ == "__main__":
    main()
