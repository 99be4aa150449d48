"""What a model found in one frame, made of plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle in the view's pixels, edges exclusive at right and bottom."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """An open line through points in the view's pixels, from near to far."""

    points: tuple[Point, ...]
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model saw in one frame, made of plain things that any sink can draw, write or send.

    Attributes:
        seq: the frame's.
        task: name of the task that made it.
        label: the smoothed decision; "" when nothing is sure enough.
        score: smoothed score of `label`, 0 to 1.
        raw_label: this frame's own best label, before smoothing.
        raw_score: its score.
        top: (label, score) pairs, smoothed, best first.
        boxes: in the view's pixels.
        lines: in the view's pixels.
        values: named numbers, SI units (DESIGN: right is positive).
        region: the part of the view that the model was shown.
        model: name of the model that made it.
    """

    seq: int
    task: str
    label: str = ""
    score: float = 0.0
    raw_label: str = ""
    raw_score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    lines: tuple[Polyline, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    region: Box | None = None
    model: str = ""
