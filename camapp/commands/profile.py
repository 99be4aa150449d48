"""`camapp profile`: where a model's time goes, as table, JSON or chart; and a guess at what a Pi would make of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from camapp.commands.boards import NOTE, SOURCES, Board, Estimate, estimate, measure_here
from camapp.commands.chart import SUFFIXES, Bar, write_chart
from camapp.core.models import model_path
from camapp.system.machine import machine
from engine.kernels import blas
from engine.model import ModelCard, ModelError, load
from engine.runtime.profile import LayerTime, Profile, profile

WIDE = 132  # columns where no terminal says how many it has
MAX_BARS = 250


@dataclass(frozen=True)
class ProfileOptions:
    """What the command line may ask for.

    Attributes:
        net: name of the net, for a file without a card.
        batch: items a run.
        rounds: runs.
        as_json: print JSON instead of a table.
        chart: file to draw a chart into, .svg or .png.
    """

    net: str | None = None
    batch: int = 1
    rounds: int = 20
    as_json: bool = False
    chart: Path | None = None


def run_profile(name: str, options: ProfileOptions) -> None:
    """Measure a model (a shipped name or a file) and print.

    Raises:
        ModelError: it cannot be used, or the chart's file is of no kind that we write.
        OSError: the chart cannot be written.
    """
    if options.chart is not None and options.chart.suffix.lower() not in SUFFIXES:
        raise ModelError(f"--chart {options.chart}: a chart is written as {' or '.join(SUFFIXES)}")
    model = load(model_path(name), options.net)
    if not model.default_shapes:
        raise ModelError(f"{name}: net '{model.card.net}' takes no input")
    shapes = [(options.batch, *model.default_shapes[0][1:]), *model.default_shapes[1:]]
    measured = profile(model, *shapes, rounds=options.rounds)
    here = measure_here()
    estimates = estimate(measured.layers, here)
    if options.as_json:
        print(json.dumps(as_record(model.card, measured, here, estimates), indent=2))
    else:
        _print_tables(model.card, measured, here, estimates)
    if options.chart is not None:
        write_chart(options.chart, *_chart(model.card, measured))


def as_record(card: ModelCard, measured: Profile, here: Board, estimates: list[Estimate]) -> Mapping[str, Any]:
    """All that is known, for JSON."""
    return {
        "net": card.net,
        "input_shapes": measured.input_shapes,
        "machine": {**machine(), "blas": blas.describe().as_dict()},
        "rates": {name: getattr(here, name) for name in ("product_gflops", "copy_gbs", "call_us")},
        "microseconds": measured.microseconds,
        "macs": measured.macs,
        "gflops": measured.gflops,
        "arena_bytes": measured.arena_bytes,
        "layers": [{**asdict(layer), "gflops": layer.gflops} for layer in measured.layers],
        "estimates": {"note": NOTE, "sources": SOURCES, "boards": [asdict(each) for each in estimates]},
    }


def _summary(card: ModelCard, measured: Profile) -> str:
    shapes = ", ".join("x".join(map(str, shape)) for shape in measured.input_shapes)
    return (
        f"{card.net}, input {shapes}: {measured.microseconds / 1e3:.3f} ms a run, "
        f"{measured.macs / 1e6:,.1f} MMAC, {measured.gflops:.1f} GFLOP/s"
    )


def _print_tables(card: ModelCard, measured: Profile, here: Board, estimates: list[Estimate]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    host, library = machine(), blas.describe()
    console.print(f"[bold]{_summary(card, measured)}[/bold]")
    console.print(f"{host['cpu']}; NumPy {host['numpy']}, BLAS {library.library} {library.core} on {library.threads}")
    table = Table(box=None, pad_edge=False)
    words = ("layer", "operator", "kernel", "output") if console.width >= 100 else ("layer", "kernel", "output")
    for title in words:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for title in ("MMAC", "us", "GFLOP/s", "share"):
        table.add_column(title, justify="right", no_wrap=True, min_width=7)
    for layer in measured.layers:
        macs = (f"{layer.macs / 1e6:,.2f}", f"{layer.gflops:.1f}") if layer.macs else ("", "")
        named = {"layer": layer.name, "operator": layer.op_type, "kernel": layer.kernel}
        named["output"] = "x".join(map(str, layer.shape))
        times = (macs[0], f"{layer.microseconds:,.1f}", macs[1], f"{layer.share:.1%}")
        table.add_row(*(named[title] for title in words), *times)
    console.print(table)
    console.print(
        f"this machine: {here.product_gflops:.0f} GFLOP/s in products, {here.copy_gbs:.1f} GB/s copied, "
        f"{here.call_us:.2f} us a call"
    )
    console.print()
    table = Table("ESTIMATE", box=None, pad_edge=False)
    for title in ("ms", "fps, 1 worker", "fps, 4 workers"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("on")
    for each in estimates:
        numbers = (each.milliseconds, each.fps, each.fps_four_workers)
        table.add_row(each.board, *(f"~{_two_digits(number)}" for number in numbers), each.core)
    console.print(table)
    console.print(f"{NOTE}.\nRates: {SOURCES}.", style="dim")


def _two_digits(number: float) -> str:
    """No more than an estimate is worth."""
    return f"{float(f'{number:.2g}'):,g}"


def _chart(card: ModelCard, measured: Profile) -> tuple[str, str, list[Bar]]:
    title = _summary(card, measured)
    subtitle = f"microseconds of each layer, share, GFLOP/s; {machine()['cpu']}, NumPy {machine()['numpy']}"
    # A chart of ten thousand bars is of no use to anybody, and more than an image holds.
    shown = set(sorted(range(len(measured.layers)), key=lambda at: -measured.layers[at].microseconds)[:MAX_BARS])
    bars = [_bar(layer) for at, layer in enumerate(measured.layers) if at in shown]
    rest = [layer for at, layer in enumerate(measured.layers) if at not in shown]
    if rest:
        total, share = sum(layer.microseconds for layer in rest), sum(layer.share for layer in rest)
        bars.append(Bar(f"{len(rest)} smaller ones", total, f"{total:,.1f} us, {share:.1%}", "others"))
    return title, subtitle, bars


def _bar(layer: LayerTime) -> Bar:
    speed = f", {layer.gflops:.1f} GFLOP/s" if layer.macs else ""
    note = f"{layer.microseconds:,.1f} us, {layer.share:.1%}{speed}"
    kind = f"{layer.op_type}, {layer.kernel}" if layer.op_type == "Conv" else layer.op_type or "copy"
    return Bar(layer.name, layer.microseconds, note, kind)
