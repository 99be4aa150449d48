"""One line an image: what was found in a file, as text for people, CSV or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from camapp.core.json_records import box_record, line_record
from camapp.core.predictions import Prediction

COLUMNS = ("file", "width", "height", "model", "truth", "label", "score", "top", "boxes", "lines", "error")
TRUTHS = ("auto", "name", "folder", "none")
_LINE_END = "\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ResultRow(NamedTuple):
    """What came of one file.

    Attributes:
        file: its name, fit to be written.
        model: name of the model.
        size: (width, height) of the image.
        truth: its true label, "" where that is not known.
        prediction: None where it could not be read.
        error: why it could not be read.
    """

    file: str
    model: str
    size: tuple[int, int] = (0, 0)
    truth: str = ""
    prediction: Prediction | None = None
    error: str = ""

    def values(self) -> tuple[Any, ...]:
        """Plain values, a column each."""
        file, model, (width, height), truth, found, error = self
        if found is None:
            return file, width, height, model, truth, "", 0.0, [], [], [], error
        top = [(label, round(score, 4)) for label, score in found.top]
        boxes, lines = [*map(box_record, found.boxes)], [*map(line_record, found.lines)]
        return file, width, height, model, truth, found.label, round(found.score, 4), top, boxes, lines, error


def shown(file: str) -> str:
    """A file's name with any bytes that are no UTF-8 made visible."""
    return file if file.isascii() else file.encode("utf-8", "backslashreplace").decode()


def truth_of(file: str, way: str, labels: Collection[str]) -> str:
    """The true label that a file's place tells.

    Args:
        file: its path.
        way: 'name' is what follows the first underscore (`12_7.png`), 'folder' the name of its folder, 'none' neither;
            'auto' takes what follows the first or last underscore, or the folder, if it is one of the labels.
        labels: those that the model knows.
    """
    if way == "none":
        return ""
    path, _, name = file.rpartition("/")
    stem, _, _ = name.rpartition(".")
    _, _, rest = stem.partition("_")
    if way == "name":
        return shown(rest)
    folder = path.rpartition("/")[2]
    if way == "folder":
        return shown(folder)
    for label in (rest, rest.rpartition("_")[2], folder):
        if label in labels:
            return label
    return ""


def _as_text(rows: Iterable[ResultRow]) -> str:
    return "".join(map(_text, rows))


def _text(row: ResultRow) -> str:
    if row.prediction is None:
        return f"{row.file}: {row.error}\n"
    truth = f"  (is {row.truth})" if row.truth not in ("", row.prediction.label) else ""
    return f"{row.file}: {row.prediction.label or '-'} {row.prediction.score:.1%}{truth}\n"


def _as_jsonl(rows: Iterable[ResultRow]) -> str:
    return "".join([f"{line}\n" for line in _encoded([dict(zip(COLUMNS, row.values(), strict=True)) for row in rows])])


def _as_csv(rows: Iterable[ResultRow]) -> str:
    """Lists stand in their cells as JSON, empty ones as nothing."""
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
    # A carriage return alone is no reason for the writer to quote, yet no reader takes it unquoted.
    return _csv(records, csv.QUOTE_ALL) if "\r" in written and quoting != csv.QUOTE_ALL else written


def _encoded(values: Sequence[Any]) -> list[str]:
    """JSON of each object or list, by one call for all: to start the encoder takes longer than a row.

    A line end as a value of its own stands between them. None of theirs stands between two commas: their texts
    follow a colon, or begin a list.
    """
    parted = [_LINE_END] * (2 * len(values) - 1)
    parted[::2] = values
    return _ENCODER.encode(parted)[1:-1].split(f",{_ENCODER.encode(_LINE_END)},") if values else []


@dataclass(frozen=True)
class Format:
    """A way to write rows.

    Attributes:
        lines: rows as text, a line each, line ends included.
        header: what stands before the first.
    """

    lines: Callable[[Iterable[ResultRow]], str]
    header: str = ""


FORMATS = {
    "text": Format(_as_text),
    "jsonl": Format(_as_jsonl),
    "csv": Format(_as_csv, _csv([COLUMNS])),
}
