"""Profiles a plan: microseconds, multiply-adds and kernel of each layer, as records."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

from engine.compiler.constant_folding import fold
from engine.compiler.planner import KernelChoice, choose_steps
from engine.graph import Shape
from engine.kernels.step import Call
from engine.model import Model
from engine.plan import small_buffers

_NOW = time.perf_counter_ns


@dataclass(frozen=True)
class LayerTime:
    """Holds the times of one layer of a plan, or of a copy between two.

    Attributes:
        name: of the node; 'copy of ...' for a copy.
        op_type: ONNX name; '' for a copy.
        kernel: that runs it; '' for a copy.
        shape: of the output; () for a copy.
        calls: prepared calls.
        macs: multiply-adds of the plain algorithm (Winograd needs fewer).
        microseconds: median over the rounds.
        least: microseconds of the fastest round, the one with the least other load on the machine.
        share: of the sum of all layers, 0 to 1.
    """

    name: str
    op_type: str
    kernel: str
    shape: Shape
    calls: int
    macs: int
    microseconds: float
    least: float
    share: float

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second; a multiply-add counts as two."""
        return 2e-3 * self.macs / self.microseconds if self.microseconds else 0.0


@dataclass(frozen=True)
class Profile:
    """Holds the times of a plan's layers, and of the plan as a whole.

    Attributes:
        layers: in the order in which they run; those that are only a view take no time and are left out.
        microseconds: of a run without timing between the layers, median over the rounds.
        input_shapes: of the plan.
        arena_bytes: of the plan.
    """

    layers: tuple[LayerTime, ...]
    microseconds: float
    input_shapes: tuple[Shape, ...]
    arena_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-adds of a run."""
        return sum(layer.macs for layer in self.layers)

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second of a run."""
        return 2e-3 * self.macs / self.microseconds if self.microseconds else 0.0


def profile(model: Model, *input_shapes: Shape, rounds: int = 20) -> Profile:
    """Time a plan as a whole and by layer, alternately, `rounds` times after a warm-up; errors as for `Model.plan`."""
    plan = model.plan(*input_shapes)
    plan.run()
    whole: list[int] = []
    times: list[list[int]] = [[] for _ in plan.sections]
    with small_buffers() if plan.large else nullcontext():
        for _ in range(rounds):
            whole.append(_nanoseconds(plan.calls))
            for (_, calls), found in zip(plan.sections, times, strict=True):
                found.append(_nanoseconds(calls))
    medians = [median(found) / 1e3 for found in times]
    total = sum(medians) or 1.0
    chosen = _by_name(model.chosen(*input_shapes))
    layers = []
    for (name, calls), found, typical in zip(plan.sections, times, medians, strict=True):
        each = chosen[name].popleft() if chosen[name] else None
        what = (each.node.op_type, each.kernel, each.step.shape) if each else ("", "", ())
        macs = each.step.macs if each else 0
        layers.append(LayerTime(name, *what, len(calls), macs, typical, min(found) / 1e3, typical / total))
    shapes = tuple(array.shape for array in plan.inputs)
    return Profile(tuple(layers), median(whole) / 1e3, shapes, plan.arena_bytes)


def count_macs(model: Model) -> int:
    """Return the multiply-adds of a run on one item, by the plain algorithms; errors as for `Model.plan`."""
    shapes = model.default_shapes
    return sum(each.step.macs for each in choose_steps(fold(model.graph, shapes), shapes))


def _nanoseconds(calls: Sequence[Call]) -> int:
    start = _NOW()
    for call in calls:
        call()
    return _NOW() - start


def _by_name(chosen: Sequence[KernelChoice]) -> dict[str, deque[KernelChoice]]:
    """Return the kernels by node name, in order: nodes that a reader made of one node share its name."""
    found: dict[str, deque[KernelChoice]] = defaultdict(deque)
    for each in chosen:
        if each.step.bind is not None:  # others are views
            found[each.node.name or each.node.outputs[0]].append(each)
    return found
