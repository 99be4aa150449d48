"""What a net that was measured here would take on a Raspberry Pi: an estimate from published rates, and nothing more.

A layer's time here is its calls, each of which has a price, and arithmetic or copying, which go at this machine's
rates of matrix products and of copying. On another board the calls have another price and the rest goes at that
board's rates. Caches, and how well its BLAS does small products, are left out of account: think of a factor of 1.5
either way, and measure on the board itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.runtime.profile import LayerTime

NOTE = "estimates from published rates of each board, never measured there; think of a factor of 1.5 either way"
SOURCES = (
    "products: OpenBLAS pull request 2643, issues 4149, 4581; copying: sbc-bench's Results.md, raspberrypi/firmware "
    "issue 1876; four workers: ncnn's benchmark/README.md, ResNet-50 on one thread and on four"
)


@dataclass(frozen=True)
class Board:
    """A machine's rates, on one core.

    Attributes:
        name: of the board.
        product_gflops: single-precision matrix products.
        copy_gbs: bytes copied, 1e9 a second.
        call_us: of a NumPy call on next to nothing.
        four_cores: how many times the frames that four cores do of what one does.
        core: what it is, and what it could do at best.
    """

    name: str
    product_gflops: float
    copy_gbs: float
    call_us: float
    four_cores: float
    core: str = ""


# Products are what OpenBLAS reaches of the peak: about half on an A53, 80 % on the others. A call takes 0.35 us on
# x86-64, about 4 times that on an A72, 1.75 times on an A76; an A53 does half of what an A72 does.
BOARDS = (
    Board("Raspberry Pi 3B+", 6.0, 1.1, 3.0, 1.7, "A53 at 1.4 GHz, peak 11.2 GFLOP/s"),
    Board("Raspberry Pi 4", 11.5, 2.4, 1.4, 2.0, "A72 at 1.8 GHz, peak 14.4 GFLOP/s"),
    Board("Raspberry Pi 5", 31.0, 5.6, 0.6, 1.9, "A76 at 2.4 GHz, peak 38.4 GFLOP/s"),
)


@dataclass(frozen=True)
class Estimate:
    """Of one board.

    Attributes:
        board: its name.
        core: what it is, and what it could do at best.
        milliseconds: of a run on one core.
        fps: runs a second on one core, with nothing else to do.
        fps_four_workers: with a worker on each core.
    """

    board: str
    core: str
    milliseconds: float
    fps: float
    fps_four_workers: float


def estimate(layers: Iterable[LayerTime], here: Board) -> list[Estimate]:
    """For each of BOARDS, from what the layers took on the machine `here`."""
    layers = tuple(layers)
    found = []
    for board in BOARDS:
        microseconds = sum(_there(layer, here, board) for layer in layers)
        fps = 1e6 / microseconds
        found.append(Estimate(board.name, board.core, microseconds / 1e3, fps, fps * board.four_cores))
    return found


def _there(layer: LayerTime, here: Board, board: Board) -> float:
    calls = min(layer.calls * here.call_us, layer.least)
    slower = here.product_gflops / board.product_gflops if layer.macs else here.copy_gbs / board.copy_gbs
    return calls * board.call_us / here.call_us + (layer.least - calls) * slower


def measure_here() -> Board:
    """This machine's rates at their best, by trying them for a few tenths of a second."""
    side = 384
    a, b, out = (np.ones((side, side), np.float32) for _ in range(3))
    source, target = np.ones(8 << 20, np.float32), np.empty(8 << 20, np.float32)
    few = [np.zeros(16, np.float32) for _ in range(3)]
    product = _seconds(partial(np.dot, a, b, out))
    copying = _seconds(partial(np.copyto, target, source))
    calls = [partial(np.add, *few)] * 100
    calling = _seconds(lambda: [call() for call in calls]) / len(calls)
    return Board("this machine", 2e-9 * side**3 / product, 1e-9 * source.nbytes / copying, 1e6 * calling, 0.0)


def _seconds(run: Callable[[], object], rounds: int = 25) -> float:
    run()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)
