"""The engine beside other runtimes: same weights and input, one thread each, taking turns; ratios of medians.

python -m tests.benchmarks.engine_vs_peers [--against onnxruntime,opencv,torch] [--nets NET ...] [--batch N] [--json]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from engine import blas, nets
from engine.graph import Array, Graph, UnsupportedOperator
from engine.model import Model
from tests.benchmarks.common import print_conditions
from tests.benchmarks.peers import PEERS

TURNS = 15  # the runtimes take turns, so that a slow moment of the machine hits all of them
TURN_SECONDS = 0.1  # of runs each, at least one


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
    error: float  # largest difference from the first peer, in units of its largest output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=",".join(PEERS), help="peers, by commas; those not installed are left out")
    parser.add_argument("--nets", nargs="*", default=list(nets.REGISTRY), metavar="NET")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object a net instead of a table")
    options = parser.parse_args()
    peers = options.against.split(",")
    if not options.json:
        print_conditions()
        print(f"BLAS {blas.describe()}, one thread each, batch {options.batch}; ms, and engine / peer")
        print(
            f"{'net':<22} {'MMAC':>6} {'plan s':>6} {'engine':>8} {'+-':>5}",
            *(f"{name:>19}" for name in peers),
            "error",
        )
    for name in options.nets:
        try:
            row = measure(name, peers, options.batch)
        except UnsupportedOperator as error:
            print(f"{name:<22} left out: {error}"[:120])
            continue
        print(json.dumps(asdict(row)) if options.json else as_line(row, peers), flush=True)


def as_line(row: Row, peers: list[str]) -> str:
    spread = (row.engine.high - row.engine.low) / 2 / row.engine.median
    cells = []
    for name in peers:
        theirs = row.peers.get(name)
        cells.append(f"{theirs.median:11.3f} ({row.engine.median / theirs.median:4.2f}x)" if theirs else f"{'-':>19}")
    start = f"{row.net:<22} {row.mmacs:6.0f} {row.plan_s:6.2f} {row.engine.median:8.3f} {100 * spread:4.0f}%"
    return " ".join([start, *cells, f"{row.error:.0e}"])


def measure(name: str, peers: list[str], batch: int) -> Row:
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
            print(f"  {peer} left out: {problem!r:.100}")
            runs.pop(peer, None)
            continue
        if np.isnan(error):
            error = float(np.abs(np.asarray(plan.run(x)) - expected).max() / np.abs(expected).max())
    times = take_turns(runs)
    macs = sum(step.step.macs for step in model.chosen((batch, *model.card.input_shape)))
    return Row(name, batch, macs / 1e6, seconds, plan.arena_bytes / 1e6, times.pop("engine"), times, error)


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


def take_turns(runs: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
    """Milliseconds of each, over many short turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            end = time.perf_counter() + TURN_SECONDS
            while True:
                start = time.perf_counter()
                run()
                found[name].append(1e3 * (time.perf_counter() - start))
                if time.perf_counter() >= end:
                    break
    return {
        name: Timing(*(float(np.percentile(times, share)) for share in (50, 25, 75))) for name, times in found.items()
    }


if __name__ == "__main__":
    main()
