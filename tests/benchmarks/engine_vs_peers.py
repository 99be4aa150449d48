"""Compares the engine with other runtimes: same weights and input, one thread each, in turns; ratios of medians.

python -m tests.benchmarks.engine_vs_peers --against onnxruntime,ncnn,opencv,torch,reference --nets resnet50 --json
python -m tests.benchmarks.engine_vs_peers --nets resnet50 --batch 1 4 8      # throughput too
python -m tests.benchmarks.engine_vs_peers --cpu-time      # on a machine busy with other things
"""

from __future__ import annotations

import os

# BLAS reads these when NumPy is imported.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
# All kernels are timed, however long that takes.
os.environ.setdefault("ENGINE_CHOICES", "all")

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from camapp.system.machine import machine
from engine import nets
from engine.kernels import blas
from engine.model import Model
from tests.benchmarks.common import benchmark_parser, command, print_conditions
from tests.benchmarks.detector_nets import DETECTORS, card_of, with_weights
from tests.benchmarks.peers import PEERS, USUAL

# The runtimes run in turns, so that a slow moment of the machine affects all of them.
TURNS = 15
# Duration of a turn; it has at least one run.
TURN_SECONDS = 0.1
# A runtime with longer runs gets only three turns.
SLOW_SECONDS = 2.0
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "ncnn": "ncnn",
    "opencv": "opencv-python",
    "torch": "torch",
    "reference": "onnx",
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a run: the median, and the lower and upper quartile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Result of one net.

    Attributes:
        net: name of the net.
        batch: batch size.
        mmacs: millions of multiply-adds per item.
        plan_s: seconds to make the plan.
        arena_mb: size of the arena, MB.
        engine: times of the engine.
        peers: times of the other runtimes.
        ratios: ratios of medians, engine / peer.
        items_per_s: throughput of the engine.
        error: maximum difference from the first peer, relative to its largest output.
    """

    net: str
    batch: int
    mmacs: float
    plan_s: float
    arena_mb: float
    engine: Timing
    peers: Mapping[str, Timing]
    ratios: Mapping[str, float]
    items_per_s: float
    error: float


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument(
        "--against", default=",".join(USUAL), help=f"comma-separated, of {', '.join(PEERS)}; missing ones are skipped"
    )
    parser.add_argument("--nets", nargs="*", default=(), metavar="NET", help="names of nets; none for all")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="one or more batch sizes")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU time instead of elapsed time, for a busy machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with conditions and rows")
    options = parser.parse_args()
    peers = options.against.split(",")
    known = [*nets.REGISTRY, *DETECTORS]
    names = options.nets or known
    unknown = [name for name in peers if name not in PEERS] + [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; peers are {', '.join(PEERS)}, nets {', '.join(known)}")
    if not options.json:
        print_conditions()
        unit = "ms of CPU time per run" if options.cpu_time else "ms per run"
        print(f"BLAS {blas.describe()}, one thread each; {unit}, and engine / peer")
        print(", ".join(f"{name} {found}" for name, found in versions(peers).items()))
        print(
            f"{'net':<22} {'batch':>5} {'MMAC':>6} {'plan s':>6} {'engine':>8} {'+-':>5} {'items/s':>8}",
            *(f"{name:>19}" for name in peers),
            "error",
        )
    rows = []
    for name in names:
        for batch in options.batch:
            row = measure(name, peers, batch, time.thread_time if options.cpu_time else time.perf_counter)
            rows.append(row)
            if not options.json:
                print(as_line(row, peers), flush=True)
    if options.json:
        conditions = {
            "machine": machine(),
            "blas": blas.describe().as_dict(),
            "versions": versions(peers),
            "threads": 1,
            "command": command(),
        }
        print(json.dumps({**conditions, "load": os.getloadavg()[0], "rows": [asdict(row) for row in rows]}, indent=1))


def versions(peers: list[str]) -> dict[str, str]:
    """Return the versions of the peers' packages; '-' if one is not installed."""
    found = {}
    for name in peers:
        try:
            found[name] = version(PACKAGES[name])
        except PackageNotFoundError:
            found[name] = "-"
    return found


def as_line(row: Row, peers: list[str]) -> str:
    spread = (row.engine.high - row.engine.low) / 2 / row.engine.median
    cells = []
    for name in peers:
        peer = row.peers.get(name)
        cells.append(f"{peer.median:11.3f} ({row.engine.median / peer.median:4.2f}x)" if peer else f"{'-':>19}")
    start = (
        f"{row.net:<22} {row.batch:>5} {row.mmacs:6.0f} {row.plan_s:6.2f} {row.engine.median:8.3f} {100 * spread:4.0f}%"
    )
    start = f"{start} {row.items_per_s:8.1f}"
    return " ".join([start, *cells, f"{row.error:.0e}"])


def measure(name: str, peers: list[str], batch: int, clock: Callable[[], float]) -> Row:
    """Measure one net with seeded weights."""
    graph = with_weights(DETECTORS[name]() if name in DETECTORS else nets.build(name))
    model, start = Model(card_of(graph), graph), time.perf_counter()
    plan = model.plan((batch, *model.card.input_shape))
    seconds = time.perf_counter() - start
    x = np.random.default_rng(1).standard_normal(plan.inputs[0].shape, np.float32)
    runs: dict[str, Callable[[], object]] = {"engine": lambda: plan.run(x)}
    error = float("nan")
    for peer in peers:
        try:
            runs[peer] = PEERS[peer](graph, x)
            expected = np.asarray(runs[peer]())
        except Exception as problem:  # noqa: BLE001 - each peer raises different errors; the row is measured without it
            print(f"  {peer} skipped: {problem!r:.100}", file=sys.stderr)
            runs.pop(peer, None)
            continue
        if np.isnan(error):
            found = np.asarray(plan.run(x)).reshape(expected.shape)
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
    times = take_turns(runs, clock)
    macs = sum(step.step.macs for step in model.chosen((batch, *model.card.input_shape)))
    engine = times.pop("engine")
    ratios = {peer: engine.median / timing.median for peer, timing in times.items()}
    rate = 1e3 * batch / engine.median
    return Row(name, batch, macs / 1e6, seconds, plan.arena_bytes / 1e6, engine, times, ratios, rate, error)


def take_turns(runs: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, Timing]:
    """Return the times of each run over many short turns; with one thread, all work is in the calling thread."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS):
        for name, run in runs.items():
            if turn >= 3 and found[name][0] > 1e3 * SLOW_SECONDS:
                continue
            end = time.perf_counter() + TURN_SECONDS
            while True:
                start = clock()
                run()
                found[name].append(1e3 * (clock() - start))
                if time.perf_counter() >= end:
                    break
    return {
        name: Timing(*(float(np.percentile(times, share)) for share in (50, 25, 75))) for name, times in found.items()
    }


if __name__ == "__main__":
    main()
