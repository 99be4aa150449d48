"""Writes a record of the log as a line of JSON, or of CSV if the file's name ends in .csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from camapp.core.json_records import compact_json

COLUMNS = (
    *("time", "t_mono_ns", "media_s", "camera", "source", "file", "seq", "model", "task", "label", "score"),
    *("raw_label", "raw_score", "counts", "values", "top", "boxes", "lines", "zones", "counting_lines", "truth"),
    *("latency_ms", "fps"),
)


def is_csv(target: str) -> bool:
    """Return whether a log of this name is CSV."""
    return Path(target).suffix.lower() == ".csv"


def header(target: str) -> bytes:
    """Return the first line of each file of a log, b"" for none."""
    return _csv(COLUMNS).encode() + b"\n" if is_csv(target) else b""


def as_csv(record: Mapping[str, object]) -> str:
    """Return a record as a row of COLUMNS; lists and objects are JSON in a cell, empty ones an empty cell."""
    cells = (record.get(name, "") for name in COLUMNS)
    return _csv([(compact_json(cell) if cell else "") if isinstance(cell, dict | list) else cell for cell in cells])


def _csv(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
