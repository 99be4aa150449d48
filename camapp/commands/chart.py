"""A chart of horizontal bars in groups of one colour, written as SVG or drawn as PNG; no plotting library needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

from camapp.overlay.text import Font, plain

SUFFIXES = (".svg", ".png")
# Okabe and Ito's colours: told apart by colour-blind people too.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#f0e442")
INK, PAPER, RULE = "#222222", "#ffffff", "#dddddd"
ROW, BAR, TEXT, LONGEST, GAP = 20, 14, 9, 420, 12  # pixels; TEXT is a capital's height
TOP = 92
PNG_SCALE = 2


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: before it.
        value: its length, at least 0, in any unit.
        note: after it.
        group: bars of one group have one colour, named at the top.
    """

    label: str
    value: float
    note: str
    group: str


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class _Text:
    x: float
    y: float  # of the base line
    text: str
    cap: int = TEXT
    bold: bool = False


_Mark = _Box | _Text


def write_chart(path: Path, title: str, subtitle: str, bars: Sequence[Bar]) -> None:
    """Write the chart, as what the path's suffix says.

    Raises:
        ValueError: a suffix other than SUFFIXES.
        OSError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: a chart is written as {' or '.join(SUFFIXES)}")
    size, marks = _lay_out(title, subtitle, bars)
    path.write_bytes(_svg(size, marks).encode() if suffix == ".svg" else _png(size, marks))


def _lay_out(title: str, subtitle: str, bars: Sequence[Bar]) -> tuple[tuple[int, int], list[_Mark]]:
    """Size in pixels, and what lies where."""
    font = Font(TEXT)
    left = GAP + max((font.width(bar.label) for bar in bars), default=0) + GAP
    right = max((font.width(bar.note) for bar in bars), default=0) + 2 * GAP
    width = max(left + LONGEST + right, GAP + Font(TEXT + 4, bold=True).width(title) + GAP)
    height = TOP + ROW * len(bars) + GAP
    colours = {group: PALETTE[i % len(PALETTE)] for i, group in enumerate(dict.fromkeys(bar.group for bar in bars))}
    marks: list[_Mark] = [_Text(GAP, 26, title, TEXT + 4, bold=True), _Text(GAP, 48, subtitle)]
    x = float(GAP)
    for group, colour in colours.items():
        marks += [_Box(x, 62, BAR, BAR, colour), _Text(x + BAR + 5, 62 + BAR - 2, group)]
        x += BAR + 5 + font.width(group) + 2 * GAP
    most = max((bar.value for bar in bars), default=0.0) or 1.0
    for index, bar in enumerate(bars):
        y = TOP + ROW * index
        length = LONGEST * bar.value / most
        base = y + (ROW + TEXT) / 2
        marks += [
            _Box(GAP, y + ROW - 0.5, width - 2 * GAP, 0.5, RULE),
            _Text(GAP, base, bar.label),
            _Box(left, y + (ROW - BAR) / 2, max(length, 0.5), BAR, colours[bar.group]),
            _Text(left + length + GAP / 2, base, bar.note),
        ]
    return (int(max(width, x)), height), marks


def _svg(size: tuple[int, int], marks: Sequence[_Mark]) -> str:
    width, height = size
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for mark in marks:
        if isinstance(mark, _Box):
            lines.append(
                f'<rect x="{mark.x:.1f}" y="{mark.y:.1f}" width="{mark.width:.1f}" height="{mark.height:.1f}" '
                f'fill="{mark.colour}"/>'
            )
        else:
            # A capital of these fonts is 0.73 of the font's size high. The length is what the layout counted with.
            length = Font(mark.cap, mark.bold).width(mark.text)
            weight = ' font-weight="bold"' if mark.bold else ""
            lines.append(
                f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.cap / 0.73:.1f}" textLength="{length}" '
                f'lengthAdjust="spacingAndGlyphs"{weight}>{escape(plain(mark.text))}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def _png(size: tuple[int, int], marks: Sequence[_Mark]) -> bytes:
    width, height = size
    image = np.full((height * PNG_SCALE, width * PNG_SCALE, 3), 255, np.uint8)
    for mark in marks:
        if isinstance(mark, _Box):
            x0, y0 = round(mark.x * PNG_SCALE), round(mark.y * PNG_SCALE)
            x1, y1 = round((mark.x + mark.width) * PNG_SCALE), round((mark.y + mark.height) * PNG_SCALE)
            image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = _bgr(mark.colour)
        else:
            font = Font(mark.cap * PNG_SCALE, mark.bold)
            x, y = round(mark.x * PNG_SCALE), round((mark.y - mark.cap) * PNG_SCALE) - 1
            font.layer(mark.text, _bgr(INK)).lay_on(image, x, y)
    done, data = cv2.imencode(".png", image)
    assert done
    return bytes(data)


def _bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
