"""Reports how well a model did on labelled images: accuracy, classes, confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from camapp.core.files import natural_key

# A matrix of more classes fits no terminal; the most frequent mistakes are listed instead.
MAX_CLASSES = 20
_MISTAKES = 10
# Name of the class of images in which nothing was found, or nothing that the model knows.
_NOTHING = "unknown"


def confusion_of(predicted: Mapping[tuple[str, str], int]) -> tuple[list[str], NDArray[Any]]:
    """Return the class names in natural order and the confusion matrix.

    Returns:
        names, and an int64 matrix (names, names): rows are the truth, columns the predictions.
    """
    names = sorted({name for pair in predicted for name in pair}, key=natural_key)
    index = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(names),) * 2, np.int64)
    for (truth, label), count in predicted.items():
        matrix[index[truth], index[label]] += count
    return [name or _NOTHING for name in names], matrix


def print_report(console: Console, names: Sequence[str], matrix: NDArray[Any], detail: bool = True) -> None:
    """Print the accuracy of classes and overall; with `detail` also the confusion matrix, or the worst mistakes."""
    console.print(_classes_table(names, matrix))
    if not detail:
        return
    if len(names) <= MAX_CLASSES:
        console.print(_matrix_table(names, matrix))
    elif mistakes := list(_mistakes(names, matrix)):
        console.print("most common mistakes:")
        for truth, label, count in mistakes:
            console.print(f"  {truth} taken for {label}: {count}", highlight=False, markup=False)


def markdown(names: Sequence[str], matrix: NDArray[Any]) -> str:
    """Return the report as tables in Markdown."""
    lines = ["| class | images | right |", "|---|---:|---:|"]
    lines += [f"| {_escaped(name)} | {count} | {share} |" for name, count, share in _classes(names, matrix)]
    if len(names) <= MAX_CLASSES:
        lines += ["", "Rows are the truth, columns the predictions.", ""]
        lines += [_line(["", *map(_escaped, names)]), "|---" + "|---:" * len(names) + "|"]
        lines += [_line([_escaped(name), *map(str, row)]) for name, row in zip(names, matrix, strict=True)]
    else:
        lines += ["", "| truth | predicted | images |", "|---|---|---:|"]
        lines += [_line([_escaped(truth), _escaped(label), str(n)]) for truth, label, n in _mistakes(names, matrix)]
    return "\n".join(lines) + "\n"


def _classes(names: Sequence[str], matrix: NDArray[Any]) -> Iterable[tuple[str, int, str]]:
    """Yield (name, images, share right) of each class that is a truth, then of all images."""
    counts = matrix.sum(axis=1)
    for index, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        if count:
            yield name, count, f"{matrix[index, index] / count:.2%}"
    total = int(counts.sum())
    yield "all", total, f"{np.trace(matrix) / max(1, total):.2%}"


def _mistakes(names: Sequence[str], matrix: NDArray[Any]) -> Iterable[tuple[str, str, int]]:
    wrong = Counter({cell: int(matrix[cell]) for cell in zip(*np.nonzero(matrix), strict=True)})
    pairs = [(row, column, count) for (row, column), count in wrong.most_common() if row != column]
    return [(names[row], names[column], count) for row, column, count in pairs[:_MISTAKES]]


def _classes_table(names: Sequence[str], matrix: NDArray[Any]) -> Table:
    table = Table("class")
    table.add_column("images", justify="right")
    table.add_column("right", justify="right")
    *each, (name, count, share) = _classes(names, matrix)
    # If there are more than two screens of classes, only the worst are printed.
    for row in sorted(each, key=_share)[:MAX_CLASSES] if len(each) > 2 * MAX_CLASSES else each:
        table.add_row(row[0], str(row[1]), row[2])
    table.add_section()
    table.add_row(name, str(count), share)
    return table


def _share(row: tuple[str, int, str]) -> float:
    return float(row[2].removesuffix("%"))


def _matrix_table(names: Sequence[str], matrix: NDArray[Any]) -> Table:
    table = Table("true \\ predicted", *(_short(name) for name in names))
    for row, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        if counts.any():
            cells = (
                f"[bold green]{count}" if row == column else str(count or "·") for column, count in enumerate(counts)
            )
            table.add_row(name, *cells)
    return table


def _short(name: str) -> str:
    return name if len(name) <= 8 else f"{name[:7]}…"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
