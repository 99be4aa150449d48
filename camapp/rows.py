"""One line a picture: what was found in a file, as text for people, CSV or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from camapp.records import Box, Polyline, Prediction

COLUMNS = ("file", "width", "height", "model", "truth", "label", "score", "top", "boxes", "lines", "error")
TRUTHS = ("auto", "name", "folder", "none")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one file.

    Attributes:
        file: its name, fit to be written.
        model: name of the model.
        size: (width, height) of the picture.
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
        found = self.prediction
        if found is None:
            return self.file, *self.size, self.model, self.truth, "", 0.0, [], [], [], self.error
        return (
            self.file,
            *self.size,
            self.model,
            self.truth,
            found.label,
            round(found.score, 4),
            [(label, round(score, 4)) for label, score in found.top],
            [box_record(box) for box in found.boxes],
            [line_record(line) for line in found.lines],
            self.error,
        )


def shown(file: str) -> str:
    """A file's name with any bytes that are no UTF-8 made visible."""
    return file.encode("utf-8", "backslashreplace").decode()


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
    return next((label for label in (rest, rest.rpartition("_")[2], folder) if label in labels), "")


def _as_text(rows: Iterable[Row]) -> str:
    return "".join(map(_text, rows))


def _text(row: Row) -> str:
    if row.prediction is None:
        return f"{row.file}: {row.error}\n"
    truth = f"  (is {row.truth})" if row.truth not in ("", row.prediction.label) else ""
    return f"{row.file}: {row.prediction.label or '-'} {row.prediction.score:.1%}{truth}\n"


def _as_jsonl(rows: Iterable[Row]) -> str:
    return "".join(f"{_ENCODER.encode(dict(zip(COLUMNS, row.values(), strict=True)))}\n" for row in rows)


def _as_csv(rows: Iterable[Row]) -> str:
    return _csv(_csv_values(row) for row in rows)


def _csv_values(row: Row) -> Iterable[Any]:
    """Lists stand in their cells as JSON."""
    return [(_ENCODER.encode(value) if value else "") if type(value) is list else value for value in row.values()]


def _csv(records: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue()


@dataclass(frozen=True)
class Format:
    """A way to write rows.

    Attributes:
        lines: rows as text, a line each, line ends included.
        header: what stands before the first.
    """

    lines: Callable[[Iterable[Row]], str]
    header: str = ""


FORMATS = {
    "text": Format(_as_text),
    "jsonl": Format(_as_jsonl),
    "csv": Format(_as_csv, _csv([COLUMNS])),
}


def box_record(box: Box) -> dict[str, Any]:
    """A box as plain values."""
    corners = round(box.x0, 1), round(box.y0, 1), round(box.x1, 1), round(box.y1, 1)
    return {"xyxy": corners, "label": box.label, "score": round(box.score, 4)}


def line_record(line: Polyline) -> dict[str, Any]:
    """A line as plain values."""
    points = [[round(x, 1), round(y, 1)] for x, y in line.points]
    return {"points": points, "label": line.label, "score": round(line.score, 4)}
