"""Kernel selection: user overrides (pins), else measured times, else a fixed rule.

Times are kept in a file that users can read, edit and delete: one JSON object with the microseconds of each kernel for
each kind of node on this machine (operator, shapes, attributes, NumPy, BLAS with core and threads, KERNELS).
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from engine.compiler.memory_plan import alone
from engine.graph import Array, ModelError, Node
from engine.kernels import blas, caches
from engine.kernels.conv_pool import CONV_POOL
from engine.kernels.step import Layout, Operand, Step
from engine.kernels.winograd import BESIDE
from engine.plan import small_buffers

# Version of the kernels: raised when they change so much that saved times mislead.
KERNELS = 7
# A node with fewer multiply-adds is not timed: its run, 30 us on a Pi 3, takes less than a better kernel could save.
MIN_MACS = 100_000
# Turns in which the kernels of a node are timed, one after another: a short slowdown of the machine decides nothing.
TURNS = 2
# Runs of each kernel in a turn, and the seconds of thread time after which no further run starts.
ROUNDS, SECONDS = 4, 0.15
# Seconds of wall time after which no further run starts, on a busy machine.
MAX_WALL_S = 0.5
# A kernel that takes so many times the fastest one's time is not run again; a first run, in cold caches, twice as many.
HOPELESS = 1.5
# Seconds of wall time after which nodes are no longer timed; a plan asks in two passes (fusion, kernels). The next
# plan goes on with the others.
BUDGET_S = 10.0
# Bytes written between runs, so that weights come from memory as they do within a net: this many times the caches, at
# most those of a large CPU, of which a net gets a part.
SWEEPS, MAX_SWEEP = 4, 24 << 20
# Multiply-adds of a node for one item, at most, in a small net: its numbers all stay in the caches, so nothing is swept
# between runs, and a convolution is fused with the pool after it.
SMALL_MACS = 2_000_000
# Smallest width of an image for which two or three convolutions, one of them depthwise, become one node.
MIN_WIDTH = 28
# Largest difference of two kernels' outputs, of the largest number: rounding gives up to 1e-5 (Winograd).
MAX_DIFFERENCE = 1e-3
# Smallest ratio of channels between them and before them: others fit the cache as well, and one by one are faster.
MIN_EXPANSION = 2
# A larger file is not read: it holds no times.
MAX_FILE_BYTES = 8 << 20

# A node, its inputs, and the steps that kernels offer for it.
Offered = tuple[Node, Sequence[Operand], Mapping[str, Step]]


@dataclass(frozen=True)
class KernelSelector:
    """Selects kernels by a fixed rule: the first that suits the node, in the registry's order, without timing.

    Attributes:
        pins: names of kernels by the name of a node, or by an operator.
        layout: of all nodes that can have it; None: planar for small nets, channels last for others.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    layout: Layout | None = None

    def pick(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        """Return the name of the kernel for the node, one of `offers`."""
        return self._pin(node, offers) or self._prefer(node, inputs, offers)

    def prefers_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        """Return whether to fuse consecutive nodes into one (see `engine.compiler.fusion`).

        A pinned kernel of the fused node decides for it, one of the separate nodes against it.
        """
        if self._pin(fused[0], fused[2]):
            return True
        if any(self._pin(node, offers) for node, _, offers in separate):
            return False
        return self._prefer_fused(fused, separate)

    def _pin(self, node: Node, offers: Mapping[str, Step]) -> str:
        pins = (self.pins.get(key, "") for key in (node.name, node.op_type))
        return next((pin for pin in pins if pin in offers), "")

    def _prefer_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        node, inputs, offers = fused
        if node.op_type == CONV_POOL:
            return next(iter(offers.values())).macs <= SMALL_MACS * inputs[0].shape[0]
        wide = inputs[0].shape[-1] >= MIN_WIDTH and inputs[1].shape[0] >= MIN_EXPANSION * inputs[0].shape[1]
        return node.op_type == BESIDE or wide

    def _prefer(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        return next(iter(offers))


@dataclass(frozen=True)
class TimedSelector(KernelSelector):
    """Selects the kernel that runs the node fastest on this machine; times are measured once and saved.

    Attributes:
        file: for the times; None: they are kept only in this object.
        times: microseconds by kind of node and kernel, read from the file at first use.
        budget_s: seconds from the first measurement on after which it measures no more; the fixed rule then selects.
    """

    file: Path | None = None
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    budget_s: float = math.inf
    _end: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.file is not None and not self.times:
            self.times.update(read_times(self.file))

    def _prefer(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> str:
        macs = max(step.macs for step in offers.values())
        times = self._times(node, inputs, offers) if len(offers) > 1 and macs >= MIN_MACS else {}
        return min(times, key=times.__getitem__) if times else super()._prefer(node, inputs, offers)

    def _prefer_fused(self, fused: Offered, separate: Sequence[Offered]) -> bool:
        if fused[0].op_type == CONV_POOL:
            return super()._prefer_fused(fused, separate)
        times = [self._times(*each) for each in (fused, *separate)]
        if not all(times):
            return super()._prefer_fused(fused, separate)
        one, *others = (min(each.values()) for each in times)
        return one < sum(others)

    def _times(self, node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> Mapping[str, float]:
        """Return the microseconds of each kernel; {} if they are unknown and the budget is spent."""
        key = kind_of(node, inputs)
        if self.times.get(key, {}).keys() != offers.keys():
            if not self._end:
                self._end.append(time.perf_counter() + self.budget_s)
            if time.perf_counter() >= self._end[0]:
                return {}
            self.times[key] = time_kernels(node, inputs, offers)
            if self.file is not None:
                write_times(self.file, self.times)
        return self.times[key]


def standard() -> KernelSelector:
    """Return a selector by times saved in `default_file()`; with ENGINE_CHOICES=rule the one by the fixed rule.

    It times nodes for BUDGET_S, with ENGINE_CHOICES=all for as long as it takes. The environment variable
    ENGINE_KERNELS pins kernels: LAYER=KERNEL or OPERATOR=KERNEL, comma-separated.

    Raises:
        ModelError: ENGINE_KERNELS is no such list.
    """
    pins = parse_pins(os.environ.get("ENGINE_KERNELS", ""))
    choices = os.environ.get("ENGINE_CHOICES")
    if choices == "rule":
        return KernelSelector(pins)
    return replace(_timed(default_file()), pins=pins, budget_s=math.inf if choices == "all" else BUDGET_S)


def parse_pins(text: str) -> dict[str, str]:
    """Return the pins of `LAYER=KERNEL,...`; raises ModelError if it is no such list."""
    pairs = [part.strip().rpartition("=") for part in text.split(",") if part.strip()]
    for key, _, kernel in pairs:
        if not key or not kernel:
            raise ModelError(f"'{text}' pins no kernels: expected LAYER=KERNEL or OPERATOR=KERNEL, with commas between")
    return {key: kernel for key, _, kernel in pairs}


@cache
def _timed(file: Path) -> TimedSelector:
    return TimedSelector(file=file)


def default_file() -> Path:
    """Return ~/.cache/camapp/kernels.json, or the same under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camapp" / "kernels.json"


def kind_of(node: Node, inputs: Sequence[Operand]) -> str:
    """Return all that a time depends on as one line, the key in the file."""
    shapes = " ".join("x".join(map(str, operand.shape)) for operand in inputs)
    settings = " ".join(f"{name}={node.attributes[name]}" for name in sorted(node.attributes) if name != "padding")
    library = blas.describe()
    machine = f"numpy {np.__version__}, {library} on {library.threads}, kernels {KERNELS}"
    return f"{node.op_type} {shapes} [{settings}] ({machine})"


def read_times(file: Path) -> dict[str, dict[str, float]]:
    """Return the times in a file; none, with a warning, if its content is invalid."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        found = json.loads(file.read_text())
        return {str(kind): {str(name): float(value) for name, value in row.items()} for kind, row in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(f"{file}: ignored, kernels are timed again ({error}); delete it to stop this", stacklevel=2)
        return {}


def write_times(file: Path, times: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the file in one step; if that fails, warn: the times are lost when the process ends."""
    from engine.formats.content import write_whole  # lazy: a worker, which times nothing, loads no formats

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(times, indent=1, sort_keys=True)
        write_whole(file, lambda stream: stream.write(text.encode()), 0o600)
    except OSError as error:
        warnings.warn(f"{file}: kernel times are not kept ({error})", stacklevel=2)


def time_kernels(node: Node, inputs: Sequence[Operand], offers: Mapping[str, Step]) -> dict[str, float]:
    """Return the microseconds of each kernel of a node; less exact ones of kernels that are clearly slower.

    Warns if the kernels do not compute the same.

    Raises:
        ModelError: they do not because NumPy's BLAS computes wrong.
    """
    small = max(step.macs for step in offers.values()) <= SMALL_MACS * inputs[0].shape[0]
    sweep = 0 if small else min(SWEEPS * caches.last(), MAX_SWEEP)
    times: dict[str, float] = {}
    outputs: dict[str, Array] = {}
    for turn in range(TURNS):
        for name, step in offers.items():
            best = min(times.values(), default=math.inf)
            if times.get(name, 0.0) <= HOPELESS * best:
                found, output = measure(inputs, step, sweep, best)
                times[name] = min(found, times.get(name, found))
                outputs |= {} if turn else {name: output}
        if not turn:
            compare(node, outputs)
            outputs.clear()
    return times


def compare(node: Node, outputs: Mapping[str, Array]) -> None:
    """Warn if the kernels of a node, with these outputs, do not compute the same; errors as for `time_kernels`."""
    (first, expected), *others = outputs.items()
    for name, output in others:
        with np.errstate(all="ignore"):
            error = float(np.max(np.abs(output - expected)) / np.max(np.abs(expected)))
        if error <= MAX_DIFFERENCE or not any(np.isfinite(each).all() for each in outputs.values()):
            continue
        if (wrong := blas.product_error(128)) > blas.MAX_ERROR:
            raise ModelError(blas.wrong_products(wrong))
        warnings.warn(
            f"{node.op_type} '{node.name}': kernels {first} and {name} differ by {error:.2g} of the largest number; "
            "check the results with ENGINE_CHOICES=rule",
            stacklevel=2,
        )


def measure(inputs: Sequence[Operand], step: Step, sweep_bytes: int, best: float) -> tuple[float, Array]:
    """Return the microseconds of a step alone, and its output; `sweep_bytes` are written between runs.

    A step that is hopeless beside one of `best` microseconds is soon given up. With one BLAS thread the thread's CPU
    time counts, so that other processes do not.
    """
    calls, output = alone(inputs, step)
    clock = time.thread_time if blas.describe().threads == 1 else time.perf_counter
    sweep: Array = np.zeros(sweep_bytes // 4, np.float32)

    def run() -> float:
        start = clock()
        for call in calls:
            call()
        return round(1e6 * (clock() - start), 1)

    with small_buffers():
        end, late = clock() + SECONDS, time.perf_counter() + MAX_WALL_S
        if (first := run()) > 2 * HOPELESS * best:
            return first, output
        found: list[float] = []
        while len(found) < 2 or (
            len(found) < ROUNDS and clock() < end and time.perf_counter() < late and min(found) <= HOPELESS * best
        ):
            np.negative(sweep, out=sweep)
            found.append(run())
    return min(found), output
