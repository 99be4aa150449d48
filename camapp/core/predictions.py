"""Defines the results of a model for one frame, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """Describes an axis-aligned rectangle in pixels of the view; the right and bottom edges are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """Describes an open line through points in pixels of the view, from near to far."""

    points: tuple[Point, ...]
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Holds what a model found in one frame, as plain values that any sink can draw, write or send.

    Attributes:
        seq: sequence number of the frame.
        task: name of the task that decoded it.
        label: decision after smoothing; "" if no label is certain enough.
        score: smoothed score of `label`, 0 to 1.
        raw_label: best label of this frame, before smoothing.
        raw_score: score of `raw_label`.
        top: (label, score) pairs after smoothing, best first.
        boxes: in pixels of the view.
        lines: in pixels of the view.
        values: named numbers in SI units; right is positive.
        region: part of the view that the model received.
        model: name of the model.
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
