"""Estimates what a net that was measured here would take on a Raspberry Pi, from published rates of the boards.

A layer's time here has three parts: its calls; the products of its kernel, at this machine's rate of matrix products;
and the rest, which moves numbers. On a board each part goes at that board's rate. Caches, heat and memory shared by the
cores are left out of account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.runtime.profile import LayerTime

# How far an estimate may be off, either way: as far as it was from the instructions that ten nets take on an emulated
# Cortex-A72, at 1.5 a cycle, which the rates were adjusted to; see docs/models.md.
FACTOR = 1.6
NOTE = (
    f"ESTIMATES from published rates of each board, never measured there: up to {FACTOR:g} times as fast or as slow. "
    "The net alone, without camera and preview; four workers share the memory"
)
SOURCES = (
    "products: OpenBLAS pull request 2643, issues 4149 and 4581 (80 % of the peak, half of it on an A53); calls and "
    "passes: instructions counted under emulation, at 0.9, 1.5 and 2.5 a cycle; four workers: from ncnn's benchmark on "
    "four threads to OpenBLAS's HPL on four cores"
)


# Share of a layer's multiply-adds that remain as products in the kernels of Winograd: squares of (m + 2) / (3 m).
_PRODUCTS = {"winograd2": 4 / 9, "winograd4": 1 / 4, "winograd5": 49 / 225, "winograd_rows": 1 / 2}


@dataclass(frozen=True)
class Board:
    """Describes one core of a board.

    Attributes:
        product_gflops: float32 matrix products, 1e9 operations a second.
        pass_gbs: 1e9 bytes written a second by a NumPy pass over numbers in the cache.
        call_us: microseconds of a NumPy call on 16 numbers.
        four_cores: least and most times the frames of one core that four do.
    """

    name: str
    product_gflops: float
    pass_gbs: float
    call_us: float
    four_cores: tuple[float, float]


BOARDS = (
    Board("Raspberry Pi 3B+ (A53, 1.4 GHz)", 6.0, 3.0, 3.0, (1.7, 2.5)),
    Board("Raspberry Pi 4 (A72, 1.8 GHz)", 11.5, 6.4, 1.4, (2.0, 3.1)),
    Board("Raspberry Pi 5 (A76, 2.4 GHz)", 31.0, 14.0, 0.6, (1.9, 2.5)),
)


@dataclass(frozen=True)
class Estimate:
    """Holds the estimate for one board.

    Attributes:
        milliseconds: of a run on one core.
        fps: runs a second on one core.
        fps_four_workers: least and most, with a worker on each of four cores.
    """

    board: str
    milliseconds: float
    fps: float
    fps_four_workers: tuple[float, float]


def estimates(layers: Iterable[LayerTime], rates: Mapping[str, float]) -> list[Estimate]:
    """Estimate each of BOARDS.

    Args:
        layers: as measured on this machine, on one core.
        rates: of this machine, as `camapp.commands.profile.machine_rates` measures them.
    """
    layers = tuple(layers)
    found = []
    for board in BOARDS:
        microseconds = sum(_there(layer, rates, board) for layer in layers)
        fps = 1e6 / microseconds
        low, high = (fps * factor for factor in board.four_cores)
        found.append(Estimate(board.name, microseconds / 1e3, fps, (low, high)))
    return found


def record_of(found: Iterable[Estimate]) -> dict[str, Any]:
    """Return the estimates for JSON."""
    boards = [
        {
            "board": each.board,
            "milliseconds": each.milliseconds,
            "fps": each.fps,
            "fps_four_workers": each.fps_four_workers,
        }
        for each in found
    ]
    return {"note": NOTE, "sources": SOURCES, "factor": FACTOR, "boards": boards}


def _there(layer: LayerTime, rates: Mapping[str, float], board: Board) -> float:
    """Return the microseconds of a layer on a board."""
    calls = min(layer.calls * rates["call_us"], layer.least)
    share = next((share for name, share in _PRODUCTS.items() if layer.kernel.startswith(name)), 1.0)
    products = min(2e-3 * layer.macs * share / rates["product_gflops"], layer.least - calls)
    moves = layer.least - calls - products
    return (
        calls * board.call_us / rates["call_us"]
        + products * rates["product_gflops"] / board.product_gflops
        + moves * rates["pass_gbs"] / board.pass_gbs
    )
