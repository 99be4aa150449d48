"""`camapp sources` and `camapp models` list sources and models, as a table or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from camapp.capture.list_sources import list_sources
from camapp.core.models import shipped_models


def print_sources(as_json: bool) -> None:
    """Print the sources of this machine."""
    found = list_sources()
    if as_json:
        print(json.dumps([asdict(source) for source in found], indent=2))
        return
    table = Table("source", "what", "detail", "status")
    for source in found:
        table.add_row(source.uri, source.name, source.detail, source.status)
    Console().print(table)
    Console().print("Also: a video file, an image folder or glob, rtsp:// and http:// streams.", highlight=False)


def print_models(as_json: bool) -> None:
    """Print the shipped models."""
    found = shipped_models()
    if as_json:
        print(json.dumps([json.loads(card.to_json()) | {"file": str(path)} for path, card in found], indent=2))
        return
    table = Table("model", "task", "input", "labels", "accuracy", "licence")
    for path, card in found:
        accuracy = ", ".join(f"{name} {value:.2%}" for name, value in card.accuracy.items())
        table.add_row(
            path.stem, card.task, "x".join(map(str, card.input_shape)), ", ".join(card.labels), accuracy, card.licence
        )
    Console().print(table)
