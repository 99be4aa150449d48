"""`classify` over 10,000 PNG files, beside a bare loop of imread and Plan.run, and beside S0's loops in a process pool.

S0's loops run S0's net, `mnist`, whatever the model of the rest is.

python -m tests.benchmarks.classify_folder [--workers 2] [--model mnist]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.capture.images import walk_images
from camapp.commands.classify.command import classify_files
from camapp.commands.classify.job import FilesOptions
from camapp.core.models import load_model
from camapp.core.settings import load_settings
from camapp.system.process import cpu_seconds
from camapp.tasks.task import TaskOptions
from engine.model import Model
from tests.benchmarks.common import ROOT, print_conditions
from weights.datasets import MNIST_IMAGES, MNIST_LABELS, read_idx

BATCH = 64
REPEATS = 5  # times that all images are classified in a round: once all workers run, they are done in no time
LOOPED = 60  # images for S0's loops, which take a tenth of a second each
MNIST = ROOT.parent / "shared" / "data" / "mnist"


def images(count: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """28x28 digits with their labels: MNIST's last where it is at hand, else digits of OpenCV's font."""
    if MNIST.exists():
        yield from zip(read_idx(MNIST / MNIST_IMAGES)[-count:], read_idx(MNIST / MNIST_LABELS)[-count:], strict=True)
        return
    rng = np.random.default_rng(1)
    for index in range(count):
        image = np.zeros((28, 28), np.uint8)
        x, y = rng.integers(5, 11, 2).tolist()
        cv2.putText(image, str(index % 10), (x, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
        yield cv2.GaussianBlur(image, (3, 3), 0.6), index % 10


def write_folder(folder: Path, count: int) -> list[str]:
    """Names of the files, in order."""
    for index, (image, label) in enumerate(images(count)):
        cv2.imwrite(str(folder / f"{index}_{label}.png"), image)
    return list(walk_images(folder))


@dataclass(frozen=True)
class Pace:
    """Images a second by the clock, and microseconds of CPU an image, which other programs disturb less.

    Attributes:
        rate: once all processes run.
        cpu_us: of all processes together.
        parent_us: of this one alone.
        rate_with_start: from the start of the processes to their end.
        right: share of right labels.
    """

    rate: float
    cpu_us: float
    parent_us: float = 0.0
    rate_with_start: float = 0.0
    right: float = 0.0


def bare(model: Model, files: list[str]) -> Pace:
    """Of imread and Plan.run alone, in this process."""
    plan = model.plan()
    item = plan.inputs[0][0, 0]
    began, cpu = time.perf_counter(), time.process_time()
    for file in files:
        item[...] = cv2.imread(file, cv2.IMREAD_GRAYSCALE)
        plan.run()
    spent = time.process_time() - cpu
    return Pace(len(files) / (time.perf_counter() - began), spent / len(files) * 1e6)


def all_cpu() -> float:
    """CPU seconds so far of this process and its children."""
    children = [Path(task, "children").read_text().split() for task in Path("/proc/self/task").iterdir()]
    return sum(cpu_seconds([os.getpid(), *(int(pid) for pids in children for pid in pids)]).values())


def bare_of(name: str, files: list[str]) -> Pace:
    """`bare` for a pool's process."""
    return bare(load_model(load_settings({"model": name}, environment={})), files)


def ours(model: Model, files: list[str], workers: int) -> Pace:
    """Of the whole job, and of its part from when all workers run to the last line."""
    options = FilesOptions(TaskOptions(smoothing=0), BATCH, "auto", ("csv",), "mnist")
    began = time.perf_counter()
    done = right = labelled = steady_from = 0
    marks = []  # by the clock, of all processes, of this one
    for read in classify_files(model, options, files, workers):
        done += read.files
        right += sum(count for (truth, label), count in read.said.items() if truth == label)
        labelled += sum(read.said.values())
        if (not marks and done >= len(files) // 5) or done == len(files):  # by a fifth every worker has started
            marks.append((time.perf_counter(), all_cpu(), time.process_time()))
            steady_from = steady_from or done
    seconds, cpu, own = (last - first for first, last in zip(*marks, strict=True))
    steady = done - steady_from
    whole = done / (time.perf_counter() - began)
    return Pace(steady / seconds, cpu / steady * 1e6, own / steady * 1e6, whole, right / labelled)


def loops(path: str) -> int:
    """One image as S0 classifies it: a Python loop over every output pixel of every channel."""
    x = cv2.imread(path, cv2.IMREAD_GRAYSCALE)[None].astype(np.float32) / 255
    weight, bias = _arrays["conv1.weight"], _arrays["conv1.bias"]
    out = np.zeros((10, 24, 24), np.float32)
    for channel in range(10):
        for row in range(24):
            for column in range(24):
                part = x[:, row : row + 5, column : column + 5]
                out[channel, row, column] = np.sum(part * weight[channel]) + bias[channel]
    out = np.maximum(out, 0)
    pooled = np.zeros((10, 12, 12), np.float32)
    for channel in range(10):
        for row in range(12):
            for column in range(12):
                pooled[channel, row, column] = np.max(out[channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2])
    return int(np.argmax(_arrays["fc.weight"] @ pooled.ravel() + _arrays["fc.bias"]))


_arrays: dict[str, NDArray[np.float32]] = {}


def looped(pool: Pool, files: list[str]) -> float:
    """Images a second of S0's loops in a pool that already runs."""
    began = time.perf_counter()
    pool.map(loops, files, chunksize=1)
    return len(files) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--model", default="mnist", help="one that reads digits")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print_conditions()
    cv2.setNumThreads(1)
    model = load_model(load_settings({"model": options.model}, environment={}))
    _arrays.update(load_model(load_settings({"model": "mnist"}, environment={})).graph.initializers)
    with tempfile.TemporaryDirectory() as name, Pool(options.workers) as pool:
        files = write_folder(Path(name), options.images)
        looped(pool, files[: options.workers])
        few, many = rss_growth(model, files, options.workers)
        shares, machine_shares, cpu_shares, factors = [], [], [], []
        for _ in range(options.rounds):
            alone, other = bare(model, files[:3000]), bare(model, files[-3000:])
            at_once = pool.starmap(bare_of, [(options.model, files[:3000])] * options.workers, chunksize=1)
            together = sum(pace.rate for pace in at_once)
            done = ours(model, files * REPEATS, options.workers)
            slow = looped(pool, files[:LOOPED])
            shares.append(done.rate / (options.workers * (alone.rate + other.rate) / 2))
            machine_shares.append(done.rate / together)
            cpu_shares.append((alone.cpu_us + other.cpu_us) / 2 / done.cpu_us)
            factors.append(done.rate / slow)
            print(
                f"bare loop {alone.rate:.0f}/s, {alone.cpu_us:.0f} us of CPU an image, "
                f"{options.workers} at once {together:.0f}/s; "
                f"classify with {options.workers} workers {done.rate:.0f}/s ({done.rate_with_start:.0f}/s with its "
                f"start), {done.cpu_us:.0f} us, {done.parent_us:.0f} of them in this process, {done.right:.2%} right; "
                f"S0's loops {slow:.1f}/s"
            )
    print(
        f"median: {statistics.median(shares):.2f} of workers x bare loop by the clock, "
        f"{statistics.median(machine_shares):.2f} of as many bare loops at once, "
        f"{statistics.median(cpu_shares):.2f} by CPU time; {statistics.median(factors):.0f} times S0's"
    )
    print(f"most memory of this process: {few:.1f} MB after {len(files) // 10} images, {many:.1f} MB after all, twice")


def rss_growth(model: Model, files: list[str], workers: int) -> tuple[float, float]:
    """Peak resident MB of this process after a tenth of the images, and after twice all of them."""
    ours(model, files[: len(files) // 10], workers)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    ours(model, files + files, workers)
    return few, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
