"""`camapp models` lists the models that ship, are fetched, or can be; `camapp models get` fetches published ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from camapp.core.errors import CamappError, ExitCode
from camapp.core.labels import knowledge
from camapp.core.model_table import KnownModel, known_models
from camapp.core.models import NotFetched, load_file, shipped_models
from camapp.core.program import program, spelled
from camapp.system.download import fetch
from engine.model import ModelCard, load
from engine.runtime.profile import count_macs

# Columns of the table if the output is no terminal.
WIDE = 132


class GetError(CamappError):
    """A model cannot be fetched as it was requested."""

    code = ExitCode.USAGE


def print_models(as_json: bool) -> None:
    """Print the shipped models, and the published ones that are fetched or can be."""
    rows = list(_rows())
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    table = Table(box=None, pad_edge=False)
    for title in ("model", "state", "task", "knows", "input"):
        table.add_column(title, no_wrap=title == "model")
    for title in ("MMAC", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("accuracy")
    for row in rows:
        scores = ", ".join(f"{name} {share:.1%}" for name, share in row["accuracy"].items())
        size = f"{row['bytes'] / 1e6:,.1f}" if row["bytes"] else "?"
        shape = "x".join(map(str, row["input_shape"]))
        table.add_row(row["name"], row["state"], row["task"], row["knows"], shape, _short(row["mmac"]), size, scores)
    console.print(table)
    console.print(
        spelled("'camapp models get NAME' fetches a published one. --json has labels, licences and addresses too.")
    )


def get_models(names: Sequence[str], accepts: bool = False) -> None:
    """Fetch published models into the user's cache, after showing their licences.

    Args:
        accepts: whether the licences are accepted; otherwise a person at the terminal is asked.

    Raises:
        GetError: an unknown name, or the licence is not accepted.
        DownloadError: the file cannot be had; the message names it, its address, and where to put it by hand.
    """
    table = known_models()
    for name in names:
        if name not in table:
            raise GetError(f"no published model '{name}': there are {', '.join(table)}")
    for name in names:
        _get(table[name], accepts)


def offer(missing: NotFetched) -> None:
    """Fetch the model that a command lacks, if a person at the terminal wants it; otherwise raise the error."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise missing
    print(f"{missing.known.name} is a published model that is not on this machine yet.", file=sys.stderr)
    _get(missing.known, accepts=False)


def _get(known: KnownModel, accepts: bool) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    path = known.path
    if path.exists() and known.matches(path):
        console.print(f"{known.name} is here already: {path}")
        return
    size = f"{known.size / 1e6:.1f} MB" if known.size else "size not known"
    console.print(f"[bold]{known.name}[/bold] ({known.task}, {len(known.labels)} labels), {size}")
    console.print(f"  from     {known.url}\n  to       {path}")
    console.print(f"  licence  {known.card['licence']}. {known.terms}\n           {known.licence_url}")
    if not (accepts or _agrees()):
        raise GetError("nothing was fetched: --yes accepts the licence")
    try:
        _fetch(known, path, console)
    except KeyboardInterrupt:
        console.print("interrupted: the same command continues")
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    load_file(path)
    console.print(f"{path} is complete; try it: {program()} --model {known.name}")


def _short(mmac: float) -> str:
    return f"{mmac:,.0f}" if mmac >= 100 else f"{mmac:.3g}"


def _agrees() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("Fetch it under this licence? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _fetch(known: KnownModel, path: Path, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(known.file, total=known.size or None)
        fetch(
            known.url,
            path,
            known.sha256,
            lambda done, total: progress.update(task, completed=done, total=total or None),
            known.size,
        )


def _rows() -> Iterator[dict[str, Any]]:
    """Yield what is listed of each model, ready for JSON."""
    for path, card in shipped_models():
        yield json.loads(card.to_json()) | {
            "name": path.stem,
            "state": "shipped",
            "knows": knowledge(card),
            "file": str(path),
            "bytes": path.stat().st_size,
            "mmac": round(count_macs(load(path)) / 1e6, 2),
        }
    for known in known_models().values():
        fetched = known.is_fetched
        yield {
            "net": known.name,
            "input_shape": known.input_shape,
            **known.card,
            "name": known.name,
            "knows": knowledge(ModelCard(known.name, known.task, labels=tuple(known.labels))),
            "state": "fetched" if fetched else "to fetch",
            "file": str(known.path) if fetched else None,
            "bytes": known.size,
            "mmac": known.mmac,
            "fit": known.fit,
            "url": known.url,
            "sha256": known.sha256,
            "terms": known.terms,
            "licence_url": known.licence_url,
        }
