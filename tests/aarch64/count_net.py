"""Counts instructions of a net under emulation, for tests/benchmarks/instructions.py, and prints one JSON object.

`python -m tests.aarch64.count_net NET FILE PEER runs|choosing`; FILE is where the plugin writes counts.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from engine import nets
from engine.compiler import kernel_selection
from engine.compiler.kernel_selection import KernelSelector, TimedSelector
from engine.compiler.memory_plan import alone
from engine.graph import Array
from engine.kernels import blas
from engine.kernels.step import Operand, Step
from engine.model import Model
from tests.benchmarks.detector_nets import DETECTORS, card_of, with_weights

# A file descriptor that is never open; the plugin looks for it.
MARK = -13579


def counted(run: Callable[[], object], file: Path) -> int:
    """Return the number of instructions of a call."""
    found = []
    for each in (lambda: None, run):
        for call in (lambda: None, each):
            call()
            with suppress(OSError):
                os.close(MARK)
        found.append(int.from_bytes(file.read_bytes(), "little"))
    return found[1] - found[0]


def by_counts(file: Path) -> KernelSelector:
    """Return a selector that takes instructions for times."""

    def measure(inputs: Sequence[Operand], step: Step, *_: object) -> tuple[float, Array]:
        calls, output = alone(inputs, step)
        return float(counted(lambda: [call() for call in calls], file)), output

    kernel_selection.measure, kernel_selection.TURNS = measure, 1
    return TimedSelector()


def choosing(model: Model, file: Path) -> dict[str, float]:
    """Return the instructions of the first plan, which makes all runs that a fast machine makes, and of a later one."""
    kernel_selection.SECONDS = kernel_selection.MAX_WALL_S = math.inf
    plan = counted(lambda: model.plan(selector=TimedSelector()), file)
    return {"first plan": plan, "without timing": counted(lambda: model.plan(selector=KernelSelector()), file)}


def runs(model: Model, peer: str, file: Path) -> dict[str, float]:
    """Return the instructions of a run by the rule, with the kernels of fewest instructions, and by a peer."""
    x = np.random.default_rng(7).standard_normal((1, *model.card.input_shape), np.float32)
    found, outputs = {}, {}
    for name, selector in (("rule", KernelSelector()), ("fewest", by_counts(file))):
        plan = model.plan(x.shape, selector=selector)
        outputs[name] = plan.run(x).copy()
        found[name] = float(counted(lambda plan=plan: plan.run(x), file))
    if peer == "onnxruntime":
        from tests.benchmarks.peers import onnxruntime_run

        run = onnxruntime_run(model.graph, x)
        outputs[peer] = run()
        found[peer] = float(counted(run, file))
    scale = np.abs(outputs["rule"]).max()
    for name, output in outputs.items():
        assert np.abs(output - outputs["rule"]).max() < 1e-4 * scale, f"{name} computes other numbers"
    return found


if __name__ == "__main__":
    net, counts, other, what = sys.argv[1:]
    graph = with_weights(DETECTORS[net]() if net in DETECTORS else nets.build(net))
    given = Model(card_of(graph), graph)
    result = choosing(given, Path(counts)) if what == "choosing" else runs(given, other, Path(counts))
    versions = f"NumPy {np.__version__}, {blas.describe()}"
    if other == "onnxruntime":
        import onnxruntime

        versions += f", ONNX Runtime {onnxruntime.__version__}"
    print(json.dumps({"versions": versions, "counts": result}))
