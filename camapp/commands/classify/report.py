"""How good a model was on labelled images: accuracy, each class, what was taken for what; for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from camapp.core.files import natural_key

# A matrix of more classes fits no terminal: then the commonest mistakes are listed.
MAX_CLASSES = 20
_MISTAKES = 10
_NOTHING = "-"  # what stands for an image in which nothing was found


def confusion_of(said: Mapping[tuple[str, str], int]) -> tuple[list[str], NDArray[Any]]:
    """Names in natural order, and the int64 matrix: row the truth, column what was said."""
    names = sorted({name for pair in said for name in pair}, key=natural_key)
    place = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(names),) * 2, np.int64)
    for (truth, label), count in said.items():
        matrix[place[truth], place[label]] += count
    return [name or _NOTHING for name in names], matrix


def print_report(console: Console, names: Sequence[str], matrix: NDArray[Any], detail: bool = True) -> None:
    """Accuracy by class and overall; with `detail` also the confusion matrix, or the commonest mistakes."""
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
    """The same as tables in Markdown."""
    lines = ["| class | images | right |", "|---|---:|---:|"]
    lines += [f"| {_escaped(name)} | {count} | {share} |" for name, count, share in _classes(names, matrix)]
    if len(names) <= MAX_CLASSES:
        lines += ["", "Rows are the truth, columns what was said.", ""]
        lines += [_line(["", *map(_escaped, names)]), "|---" + "|---:" * len(names) + "|"]
        lines += [_line([_escaped(name), *map(str, row)]) for name, row in zip(names, matrix, strict=True)]
    else:
        lines += ["", "| truth | said | images |", "|---|---|---:|"]
        lines += [_line([_escaped(truth), _escaped(said), str(n)]) for truth, said, n in _mistakes(names, matrix)]
    return "\n".join(lines) + "\n"


def _classes(names: Sequence[str], matrix: NDArray[Any]) -> Iterable[tuple[str, int, str]]:
    """(name, images, share right) of each class that is a truth, then of all."""
    counts = matrix.sum(axis=1)
    for index, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        if count:
            yield name, count, f"{matrix[index, index] / count:.2%}"
    total = int(counts.sum())
    yield "all", total, f"{np.trace(matrix) / max(1, total):.2%}"


def _mistakes(names: Sequence[str], matrix: NDArray[Any]) -> Iterable[tuple[str, str, int]]:
    wrong = Counter({place: int(matrix[place]) for place in zip(*np.nonzero(matrix), strict=True)})
    pairs = [(row, column, count) for (row, column), count in wrong.most_common() if row != column]
    return [(names[row], names[column], count) for row, column, count in pairs[:_MISTAKES]]


def _classes_table(names: Sequence[str], matrix: NDArray[Any]) -> Table:
    table = Table("class")
    table.add_column("pictures", justify="right")
    table.add_column("right", justify="right")
    *each, (name, count, share) = _classes(names, matrix)
    # Beyond a screenful, those that most need a look.
    for row in sorted(each, key=_share)[:MAX_CLASSES] if len(each) > 2 * MAX_CLASSES else each:
        table.add_row(row[0], str(row[1]), row[2])
    table.add_section()
    table.add_row(name, str(count), share)
    return table


def _share(row: tuple[str, int, str]) -> float:
    return float(row[2].removesuffix("%"))


def _matrix_table(names: Sequence[str], matrix: NDArray[Any]) -> Table:
    table = Table("true \\ said", *(_short(name) for name in names))
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
