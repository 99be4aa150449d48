"""Compares `classify` over 10,000 PNG files with a bare loop of imread and Plan.run, and with Python loops in a pool.

The Python loops are the project's first version (S0) and always run its net, `mnist`.

python -m tests.benchmarks.classify_folder [--workers 2] [--model mnist]
"""

from __future__ import annotations

import os

# BLAS reads these when NumPy is imported.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

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
from tests.benchmarks.common import ROOT, benchmark_parser, print_conditions
from weights.datasets import MNIST_IMAGES, MNIST_LABELS, read_idx

BATCH = 64
# Number of times that all images are classified per round; once the workers run, a single pass is too short.
REPEATS = 5
# Number of images for the Python loops, which take 0.1 s each.
LOOPED = 60
MNIST = ROOT.parent / "shared" / "data" / "mnist"


def images(count: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield 28x28 digits with labels: the last of MNIST if it is on this machine, else digits of OpenCV's font."""
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
    """Write the images and return the names of the files, in order."""
    for index, (image, label) in enumerate(images(count)):
        cv2.imwrite(str(folder / f"{index}_{label}.png"), image)
    return list(walk_images(folder))


@dataclass(frozen=True)
class Pace:
    """Images per second, and microseconds of CPU per image, which are less affected by other programs.

    Attributes:
        rate: images per second after the start of all processes.
        cpu_us: CPU time per image of all processes.
        parent_us: CPU time per image of this process.
        rate_with_start: images per second including the start of the processes.
        right: share of correct labels.
    """

    rate: float
    cpu_us: float
    parent_us: float = 0.0
    rate_with_start: float = 0.0
    right: float = 0.0


def bare(model: Model, files: list[str]) -> Pace:
    """Measure imread and Plan.run only, in this process."""
    plan = model.plan()
    item = plan.inputs[0][0, 0]
    began, cpu = time.perf_counter(), time.process_time()
    for file in files:
        item[...] = cv2.imread(file, cv2.IMREAD_GRAYSCALE)
        plan.run()
    spent = time.process_time() - cpu
    return Pace(len(files) / (time.perf_counter() - began), spent / len(files) * 1e6)


def all_cpu() -> float:
    """Return the CPU seconds used by this process and its children."""
    children = [Path(task, "children").read_text().split() for task in Path("/proc/self/task").iterdir()]
    return sum(cpu_seconds([os.getpid(), *(int(pid) for pids in children for pid in pids)]).values())


def bare_of(name: str, files: list[str]) -> Pace:
    """Call `bare` in a process of a pool."""
    return bare(load_model(load_settings({"model": name}, environment={})), files)


def application(model: Model, files: list[str], workers: int) -> Pace:
    """Measure the whole job, and the part after the start of all workers."""
    options = FilesOptions(TaskOptions(smoothing=0), BATCH, "auto", ("csv",), "mnist")
    began = time.perf_counter()
    done = right = labelled = steady_from = 0
    # (elapsed time, CPU of all processes, CPU of this process)
    snapshots = []
    for read in classify_files(model, options, files, workers):
        done += read.files
        right += sum(count for (truth, label), count in read.predicted.items() if truth == label)
        labelled += sum(read.predicted.values())
        # After a fifth of the files every worker has started.
        if (not snapshots and done >= len(files) // 5) or done == len(files):
            snapshots.append((time.perf_counter(), all_cpu(), time.process_time()))
            steady_from = steady_from or done
    seconds, cpu, own = (last - first for first, last in zip(*snapshots, strict=True))
    steady = done - steady_from
    whole = done / (time.perf_counter() - began)
    return Pace(steady / seconds, cpu / steady * 1e6, own / steady * 1e6, whole, right / labelled)


def loops(path: str) -> int:
    """Classify one image as S0 does: a Python loop over every output pixel of every channel."""
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
    """Return the images per second of the Python loops in a running pool."""
    began = time.perf_counter()
    pool.map(loops, files, chunksize=1)
    return len(files) / (time.perf_counter() - began)


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--images", "--pictures", type=int, default=10_000, help="number of files")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of worker processes")
    parser.add_argument("--model", default="mnist", help="a model that reads digits")
    parser.add_argument("--rounds", type=int, default=5, help="number of comparisons")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print_conditions()
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
            done = application(model, files * REPEATS, options.workers)
            slow = looped(pool, files[:LOOPED])
            shares.append(done.rate / (options.workers * (alone.rate + other.rate) / 2))
            machine_shares.append(done.rate / together)
            cpu_shares.append((alone.cpu_us + other.cpu_us) / 2 / done.cpu_us)
            factors.append(done.rate / slow)
            print(
                f"bare loop {alone.rate:.0f}/s, {alone.cpu_us:.0f} us of CPU per image, "
                f"{options.workers} in parallel {together:.0f}/s; "
                f"classify with {options.workers} workers {done.rate:.0f}/s ({done.rate_with_start:.0f}/s with "
                f"start-up), {done.cpu_us:.0f} us, {done.parent_us:.0f} of it in this process, "
                f"{done.right:.2%} correct; Python loops {slow:.1f}/s"
            )
    print(
        f"median: {statistics.median(shares):.2f} of workers x bare loop in elapsed time, "
        f"{statistics.median(machine_shares):.2f} of as many bare loops in parallel, "
        f"{statistics.median(cpu_shares):.2f} by CPU time; {statistics.median(factors):.0f} times the Python loops"
    )
    print(f"peak memory of this process: {few:.1f} MB after {len(files) // 10} images, {many:.1f} MB after all, twice")


def rss_growth(model: Model, files: list[str], workers: int) -> tuple[float, float]:
    """Return the peak resident MB of this process after a tenth of the images, and after all of them twice."""
    application(model, files[: len(files) // 10], workers)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    application(model, files + files, workers)
    return few, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
