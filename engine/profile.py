"""Where a net's time goes: microseconds, multiply-adds and kernel of each layer, as records."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from engine.graph import Shape
from engine.model import Model


@dataclass(frozen=True)
class LayerTime:
    """One layer of a plan, or a copy that the plan makes between two.

    Attributes:
        name: of the node; 'copy of ...' for a copy.
        op_type: ONNX name; '' for a copy.
        kernel: that runs it; '' for a copy.
        shape: of the output; () for a copy.
        calls: prepared calls.
        macs: multiply-adds of the plain algorithm (Winograd does with fewer).
        microseconds: median over the rounds.
        share: of the sum of all layers, 0 to 1.
    """

    name: str
    op_type: str
    kernel: str
    shape: Shape
    calls: int
    macs: int
    microseconds: float
    share: float

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations a second, a multiply-add being two."""
        return 2e-3 * self.macs / self.microseconds if self.microseconds else 0.0


def profile(model: Model, *input_shapes: Shape, rounds: int = 20) -> list[LayerTime]:
    """Run a plan layer by layer, after a warm-up; layers that are only a view take no time and are left out.

    Args:
        model: to plan.
        input_shapes: as for `Model.plan`.
        rounds: runs of the whole net.

    Raises:
        ModelError, UnsupportedOperator: as `Model.plan`.
    """
    plan = model.plan(*input_shapes)
    chosen = {each.node.name or each.node.outputs[0]: each for each in model.chosen(*input_shapes)}
    plan.run()
    times: list[list[int]] = [[] for _ in plan.sections]
    for _ in range(rounds):
        for (_, calls), found in zip(plan.sections, times, strict=True):
            start = time.perf_counter_ns()
            for call in calls:
                call()
            found.append(time.perf_counter_ns() - start)
    medians = [median(found) / 1e3 for found in times]
    total = sum(medians) or 1.0
    layers = []
    for (name, calls), microseconds in zip(plan.sections, medians, strict=True):
        each = chosen.get(name)
        what = (each.node.op_type, each.kernel, each.step.shape) if each else ("", "", ())
        macs = each.step.macs if each else 0
        layers.append(LayerTime(name, *what, len(calls), macs, microseconds, microseconds / total))
    return layers
