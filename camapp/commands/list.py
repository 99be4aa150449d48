"""`camapp sources` lists the sources of this machine, as a table or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from camapp.capture.list_sources import list_sources


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
    Console().print(
        "Also: a video file, an image folder or glob, rtsp://, http:// and other streams, - for a pipe.",
        highlight=False,
    )
