"""The engine beside other runtimes: same weights and input, one thread each, taking turns; ratios of medians.

python -m tests.benchmarks.engine_vs_peers --against onnxruntime,opencv,torch,reference --nets resnet50 --json
python -m tests.benchmarks.engine_vs_peers --nets resnet50 --batch 1 4 8      # throughput too
python -m tests.benchmarks.engine_vs_peers --cpu-time      # on a machine busy with other things
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from camapp.system.machine import machine
from engine import nets
from engine.graph import Array, Graph
from engine.kernels import blas
from engine.model import Model
from tests.benchmarks.common import print_conditions
from tests.benchmarks.peers import PEERS, USUAL

TURNS = 15  # the runtimes take turns, so that a slow moment of the machine hits all of them
TURN_SECONDS = 0.1  # of runs each, at least one
SLOW_SECONDS = 2.0  # a runtime that takes longer for one run gets three turns
PACKAGES = {"onnxruntime": "onnxruntime", "opencv": "opencv-python", "torch": "torch", "reference": "onnx"}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a run."""

    median: float
    low: float  # a quarter of the runs took less
    high: float  # a quarter took more


@dataclass(frozen=True)
class Row:
    """One net."""

    net: str
    batch: int
    mmacs: float
    plan_s: float
    arena_mb: float
    engine: Timing
    peers: Mapping[str, Timing]
    ratios: Mapping[str, float]  # of medians: the engine's time over the peer's
    items_per_s: float
    error: float  # largest difference from the first peer, in units of its largest output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--against", default=",".join(USUAL), help=f"of {', '.join(PEERS)}; those not installed are left out"
    )
    parser.add_argument("--nets", nargs="*", default=list(nets.REGISTRY), metavar="NET")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="one or several")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the thread's own time, not the clock's: on a busy machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with machine, versions and rows")
    options = parser.parse_args()
    peers = options.against.split(",")
    unknown = [name for name in peers if name not in PEERS] + [
        name for name in options.nets if name not in nets.REGISTRY
    ]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; peers are {', '.join(PEERS)}, nets {', '.join(nets.REGISTRY)}")
    if not options.json:
        print_conditions()
        unit = "ms of CPU time a run" if options.cpu_time else "ms a run"
        print(f"BLAS {blas.describe()}, one thread each; {unit}, and engine / peer")
        print(", ".join(f"{name} {found}" for name, found in versions(peers).items()))
        print(
            f"{'net':<22} {'batch':>5} {'MMAC':>6} {'plan s':>6} {'engine':>8} {'+-':>5} {'items/s':>8}",
            *(f"{name:>19}" for name in peers),
            "error",
        )
    rows = []
    for name in options.nets:
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
        }
        print(json.dumps({**conditions, "load": os.getloadavg()[0], "rows": [asdict(row) for row in rows]}, indent=1))


def versions(peers: list[str]) -> dict[str, str]:
    """Of the packages of the peers; '-' where one is not installed."""
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
        theirs = row.peers.get(name)
        cells.append(f"{theirs.median:11.3f} ({row.engine.median / theirs.median:4.2f}x)" if theirs else f"{'-':>19}")
    start = (
        f"{row.net:<22} {row.batch:>5} {row.mmacs:6.0f} {row.plan_s:6.2f} {row.engine.median:8.3f} {100 * spread:4.0f}%"
    )
    start = f"{start} {row.items_per_s:8.1f}"
    return " ".join([start, *cells, f"{row.error:.0e}"])


def measure(name: str, peers: list[str], batch: int, clock: Callable[[], float]) -> Row:
    """Time one net with seeded weights."""
    graph = with_weights(nets.build(name))
    model, start = Model(nets.default_card(name), graph), time.perf_counter()
    plan = model.plan((batch, *model.card.input_shape))
    seconds = time.perf_counter() - start
    x = np.random.default_rng(1).standard_normal(plan.inputs[0].shape, np.float32)
    runs: dict[str, Callable[[], object]] = {"engine": lambda: plan.run(x)}
    error = float("nan")
    for peer in peers:
        try:
            runs[peer] = PEERS[peer](graph, x)
            expected = np.asarray(runs[peer]())
        except Exception as problem:  # noqa: BLE001 - each peer has errors of its own; the row goes on without it
            print(f"  {peer} left out: {problem!r:.100}", file=sys.stderr)
            runs.pop(peer, None)
            continue
        if np.isnan(error):
            error = float(np.abs(np.asarray(plan.run(x)) - expected).max() / np.abs(expected).max())
    times = take_turns(runs, clock)
    macs = sum(step.step.macs for step in model.chosen((batch, *model.card.input_shape)))
    engine = times.pop("engine")
    ratios = {peer: engine.median / theirs.median for peer, theirs in times.items()}
    rate = 1e3 * batch / engine.median
    return Row(name, batch, macs / 1e6, seconds, plan.arena_bytes / 1e6, engine, times, ratios, rate, error)


def with_weights(graph: Graph) -> Graph:
    """Seeded weights, scaled so that numbers stay of one size through the net."""
    state = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for key, shape in graph.parameters.items():
        fan_in = float(np.prod(shape[1:])) if len(shape) > 1 else 100.0
        arrays[key] = state.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        if f"{key.rpartition('.')[0]}.running_var" in graph.parameters and key.endswith((".weight", "running_var")):
            arrays[key] = state.uniform(0.5, 1, shape).astype(np.float32)
    return graph.bind(arrays)


def take_turns(runs: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, Timing]:
    """Milliseconds of each, over many short turns; with one thread each, all of a run is in the calling thread."""
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
