"""`camapp profile` measures where a model's time goes, layer by layer, and prints a table or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from camapp.commands.boards import NOTE, SOURCES, Estimate, estimates, record_of
from camapp.core.models import load_file, model_path
from camapp.system.machine import machine
from engine.kernels import blas
from engine.model import ModelCard, ModelError
from engine.runtime.profile import Profile, profile

WIDE = 132  # columns of the table if the output is no terminal


def run_profile(name: str, net: str | None = None, batch: int = 1, rounds: int = 20, as_json: bool = False) -> None:
    """Measure a model (a shipped name or a file) and print the result. Raises ModelError if it cannot be used."""
    model = load_file(model_path(name), net)
    if not model.default_shapes:
        raise ModelError(f"{name}: net '{model.card.net}' takes no input")
    shapes = [(batch, *model.default_shapes[0][1:]), *model.default_shapes[1:]]
    measured = profile(model, *shapes, rounds=rounds)
    rates = machine_rates()
    # A board's rates are those of one core, and of a run for one frame.
    boards = estimates(measured.layers, rates) if batch == blas.describe().threads == 1 else []
    if as_json:
        record = {**as_record(model.card, measured, rates), "estimates": record_of(boards)}
        print(json.dumps(record, indent=2))
    else:
        _print_table(model.card, measured, rates)
        _print_estimates(boards)


def as_record(card: ModelCard, measured: Profile, rates: Mapping[str, float]) -> Mapping[str, Any]:
    """Return everything that was measured, for JSON."""
    return {
        "net": card.net,
        "input_shapes": measured.input_shapes,
        "machine": {**machine(), "blas": blas.describe().as_dict()},
        "rates": rates,
        "microseconds": measured.microseconds,
        "macs": measured.macs,
        "gflops": measured.gflops,
        "arena_bytes": measured.arena_bytes,
        "layers": [{**asdict(layer), "gflops": layer.gflops} for layer in measured.layers],
    }


def machine_rates() -> dict[str, float]:
    """Measure the peak rates of one core, in a few tenths of a second.

    Returns:
        product_gflops of float32 matrix products, copy_gbs (1e9 bytes copied a second in memory), pass_gbs (1e9 bytes
        written a second by a pass over numbers in the cache), and call_us, the microseconds of a NumPy call on 16
        numbers.
    """
    side = 384
    a, b, out = (np.ones((side, side), np.float32) for _ in range(3))
    source, target = np.ones(8 << 20, np.float32), np.empty(8 << 20, np.float32)
    few, cached = ([np.zeros(size, np.float32) for _ in range(3)] for size in (16, 16_384))
    passes = [partial(np.maximum, *cached[:2], out=cached[2])] * 20
    calls = [partial(np.add, *few)] * 100
    return {
        "product_gflops": 2e-9 * side**3 / _seconds(partial(np.dot, a, b, out)),
        "copy_gbs": 1e-9 * source.nbytes / _seconds(partial(np.copyto, target, source)),
        "pass_gbs": 1e-9 * cached[0].nbytes * len(passes) / _seconds(lambda: [call() for call in passes]),
        "call_us": 1e6 * _seconds(lambda: [call() for call in calls]) / len(calls),
    }


def _seconds(run: Callable[[], object], rounds: int = 25) -> float:
    """Return the time of the fastest of some runs, after one to warm up."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _print_table(card: ModelCard, measured: Profile, rates: Mapping[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    host, library = machine(), blas.describe()
    shapes = ", ".join("x".join(map(str, shape)) for shape in measured.input_shapes)
    console.print(
        f"[bold]{card.net}, input {shapes}: {measured.microseconds / 1e3:.3f} ms a run, "
        f"{measured.macs / 1e6:,.1f} MMAC, {measured.gflops:.1f} GFLOP/s[/bold]"
    )
    console.print(f"{host['cpu']}; NumPy {host['numpy']}, BLAS {library.library} {library.core} on {library.threads}")
    table = Table(box=None, pad_edge=False)
    titles = ("layer", "operator", "kernel", "output") if console.width >= 100 else ("layer", "kernel", "output")
    for title in titles:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for title in ("MMAC", "us", "GFLOP/s", "share"):
        table.add_column(title, justify="right", no_wrap=True, min_width=7)
    for layer in measured.layers:
        macs, gflops = (f"{layer.macs / 1e6:,.2f}", f"{layer.gflops:.1f}") if layer.macs else ("", "")
        cells = {"layer": layer.name, "operator": layer.op_type, "kernel": layer.kernel}
        cells["output"] = "x".join(map(str, layer.shape))
        table.add_row(
            *(cells[title] for title in titles), macs, f"{layer.microseconds:,.1f}", gflops, f"{layer.share:.1%}"
        )
    console.print(table)
    console.print(
        f"this machine: {rates['product_gflops']:.0f} GFLOP/s in products, {rates['copy_gbs']:.1f} GB/s copied, "
        f"{rates['call_us']:.2f} us a call"
    )


def _print_estimates(boards: Sequence[Estimate]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not boards:
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    console.print()
    table = Table("ESTIMATE", box=None, pad_edge=False)
    for title in ("ms", "fps, one worker", "fps, four workers"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in boards:
        low, high = map(_two_digits, each.fps_four_workers)
        table.add_row(each.board, _two_digits(each.milliseconds), _two_digits(each.fps), f"{low} to {high}")
    console.print(table)
    console.print(f"{NOTE}.\nRates of the boards: {SOURCES}.", style="dim")


def _two_digits(number: float) -> str:
    """Return no more digits than an estimate is worth."""
    return f"{float(f'{number:.2g}'):,g}"
