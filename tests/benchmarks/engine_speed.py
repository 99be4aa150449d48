"""Microseconds a run of the engine's plans, beside onnxruntime on one thread with the same weights where installed.

python -m tests.benchmarks.engine_speed [NET ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import time
from collections.abc import Callable

import numpy as np

from engine import nets
from engine.graph import Array, Graph
from engine.model import Model
from tests.benchmarks.common import onnx_bytes, print_conditions

BLOCKS = 15  # the two take turns block by block, so that a slow moment of the machine hits both
BLOCK_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(nets.REGISTRY), metavar="NET")
    names = parser.parse_args().nets
    print_conditions()
    print(f"onnxruntime {onnxruntime_version()}")
    print("threads   1 each, batch 1")
    print(f"{'net':<12} {'engine us':>10} {'onnxruntime us':>15} {'ratio':>6} {'plan ms':>8} {'arena KB':>9}")
    for name in names:
        print(measure(name))


def measure(name: str) -> str:
    """One row of the table."""
    state = np.random.RandomState(0)
    graph = nets.build(name)
    graph = graph.bind({key: state.uniform(-0.1, 0.1, shape) for key, shape in graph.parameters.items()})
    model, start = Model(nets.default_card(name), graph), time.perf_counter()
    plan = model.plan()
    plan_ms = 1e3 * (time.perf_counter() - start)
    x = state.uniform(-1, 1, plan.inputs[0].shape).astype(np.float32)
    rival = onnxruntime_run(graph, x)
    runs = [lambda: plan.run(x)] + ([rival] if rival else [])
    if rival:
        np.testing.assert_allclose(plan.run(x), rival(), rtol=1e-4, atol=1e-5)
    ours, *others = medians(runs)
    theirs = f"{others[0]:15.1f} {ours / others[0]:6.2f}" if others else f"{'-':>15} {'-':>6}"
    return f"{name:<12} {ours:10.1f} {theirs} {plan_ms:8.2f} {plan.arena_bytes / 1024:9.0f}"


def medians(runs: list[Callable[[], object]]) -> list[float]:
    """Median microseconds of a run of each, over blocks in turns."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(BLOCKS):
        for run, times in zip(runs, found, strict=True):
            end = time.perf_counter() + BLOCK_SECONDS
            while (start := time.perf_counter()) < end:
                run()
                times.append(time.perf_counter() - start)
    return [1e6 * float(np.median(times)) for times in found]


def onnxruntime_run(graph: Graph, x: Array) -> Callable[[], object] | None:
    """The same graph in onnxruntime, or None where it (or onnx, to write the graph) is not installed."""
    try:
        import onnxruntime

        model = onnx_bytes(graph)
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {graph.inputs[0].name: x}
    return lambda: session.run(None, feed)[0]


def onnxruntime_version() -> str:
    try:
        import onnxruntime
    except ImportError:
        return "not installed"
    return str(onnxruntime.__version__)


if __name__ == "__main__":
    main()
