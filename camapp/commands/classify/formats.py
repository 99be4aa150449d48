"""Writes one line for each image, as text, CSV or JSON Lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from camapp.core.events import counts_text
from camapp.core.json_records import box_record, compact_json, line_record
from camapp.core.predictions import Prediction

COLUMNS = ("file", "width", "height", "model", "truth", "label", "score", "top", "boxes", "lines", "error")
_LINE_END = "\n"


class ResultRow(NamedTuple):
    """Holds the result of one file.

    Attributes:
        file: its name, in printable form.
        prediction: None if the file could not be read.
        error: reason why the file could not be read, else "".
    """

    file: str
    model: str
    size: tuple[int, int] = (0, 0)
    truth: str = ""
    prediction: Prediction | None = None
    error: str = ""

    def values(self) -> tuple[Any, ...]:
        """Return plain values, one for each of COLUMNS."""
        file, model, (width, height), truth, found, error = self
        if found is None:
            return file, width, height, model, truth, "", 0.0, [], [], [], error
        top = [(label, round(score, 4)) for label, score in found.top]
        boxes, lines = [*map(box_record, found.boxes)], [*map(line_record, found.lines)]
        return file, width, height, model, truth, found.label, round(found.score, 4), top, boxes, lines, error


def shown(file: str) -> str:
    """Return the name of a file, with bytes that are not UTF-8 as escapes."""
    return file if file.isascii() else file.encode("utf-8", "backslashreplace").decode()


def _as_text(rows: Iterable[ResultRow]) -> str:
    return "".join(map(_text, rows))


def _text(row: ResultRow) -> str:
    if row.prediction is None:
        return f"{row.file}: {row.error}\n"
    if row.prediction.counts:
        return f"{row.file}: {counts_text(row.prediction.counts)}\n"
    truth = f"  (is {row.truth})" if row.truth not in ("", row.prediction.label) else ""
    if not row.prediction.label and row.prediction.top:
        label, score = row.prediction.top[0]
        return f"{row.file}: unknown, most like {label} {score:.1%}{truth}\n"
    return f"{row.file}: {row.prediction.label or '-'} {row.prediction.score:.1%}{truth}\n"


def _as_jsonl(rows: Iterable[ResultRow]) -> str:
    return "".join([f"{line}\n" for line in _encoded([dict(zip(COLUMNS, row.values(), strict=True)) for row in rows])])


def _as_csv(rows: Iterable[ResultRow]) -> str:
    """Return rows as CSV; a list is a cell of JSON, an empty one an empty cell."""
    first, end = COLUMNS.index("top"), COLUMNS.index("error")
    values = [row.values() for row in rows]
    cells = iter(_encoded([value for row in values for value in row[first:end] if value]))
    return _csv(
        [(*row[:first], *[next(cells) if value else "" for value in row[first:end]], *row[end:]) for row in values]
    )


def _csv(records: Sequence[Iterable[Any]], quoting: Literal[0, 1] = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(records)
    written = text.getvalue()
    # The csv writer does not quote a lone carriage return, but no reader accepts it unquoted.
    return _csv(records, csv.QUOTE_ALL) if "\r" in written and quoting != csv.QUOTE_ALL else written


def _encoded(values: Sequence[Any]) -> list[str]:
    """Return the JSON of each object or list, by one call of the encoder, whose start takes longer than a row.

    The values are separated by a string that holds a line end. Strings inside of the values cannot be taken for it,
    since each follows a colon or starts a list, and so does not stand between two commas.
    """
    parted = [_LINE_END] * (2 * len(values) - 1)
    parted[::2] = values
    return compact_json(parted)[1:-1].split(f",{compact_json(_LINE_END)},") if values else []


# Functions that return rows as text, a line each, with line ends; and the text before the first row.
FORMATS: dict[str, Callable[[Iterable[ResultRow]], str]] = {"text": _as_text, "jsonl": _as_jsonl, "csv": _as_csv}
HEADERS = {"text": "", "jsonl": "", "csv": _csv([COLUMNS])}
