"""Defines the results of a model for one frame, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class KeyPoint:
    """Describes a named place of an object (an eye, an elbow) in pixels of the view."""

    x: float
    y: float
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """Describes an object by its rectangle in pixels of the view; the right and bottom edges are exclusive.

    Attributes:
        track: number of the object over several frames, from 1; 0 if objects are not tracked.
        points: key points in the model's order; () if it has none.
        outlines: closed outlines of the object's mask; () if there is no mask.
        angle: rotation of the rectangle around its centre, clockwise in degrees.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""
    score: float = 1.0
    track: int = 0
    points: tuple[KeyPoint, ...] = ()
    outlines: tuple[tuple[Point, ...], ...] = ()
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """Describes an open line through points in pixels of the view, from near to far."""

    points: tuple[Point, ...]
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class ZoneState:
    """Describes a zone (an area of the view) and what is in it, by label.

    Attributes:
        outline: corners of the zone in pixels of the view.
        inside: tracked objects in the zone now.
        entered: objects that came in since the start of the run.
        left: objects that went out since the start of the run.
        dwell_s: longest time that an object of `inside` has been in it, seconds.
    """

    name: str
    outline: tuple[Point, ...]
    inside: dict[str, int] = field(default_factory=dict)
    entered: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    dwell_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LineState:
    """Describes a counting line from `start` to `end`, in pixels of the view, and the crossings since the start.

    Seen from `start` towards `end`, an object that crosses from left to right goes in, the other way out.
    """

    name: str
    start: Point
    end: Point
    into: dict[str, int] = field(default_factory=dict)
    out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Holds what a model found in one frame, as plain values that any sink can draw, write or send.

    Attributes:
        seq: sequence number of the frame.
        task: name of the task that decoded it.
        label: decision after smoothing; "" if no label is certain enough, or the image is none of the classes.
        score: smoothed score of `label`, 0 to 1.
        raw_label: best label of this frame, before smoothing; "" if it is none of the classes.
        raw_score: score of `raw_label`.
        top: (label, score) pairs after smoothing, best first; also if the image is none of the classes.
        boxes: in pixels of the view.
        lines: in pixels of the view.
        values: named numbers in SI units; right is positive.
        counts: objects by label, steady over short misses; {} if the task finds no objects.
        zones: state of each zone of the settings.
        counting_lines: state of each counting line of the settings.
        hint: why there is no label, or what to show to the camera, in words.
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
    counts: dict[str, int] = field(default_factory=dict)
    zones: tuple[ZoneState, ...] = ()
    counting_lines: tuple[LineState, ...] = ()
    hint: str = ""
    region: Box | None = None
    model: str = ""

    @property
    def change_score(self) -> float:
        """Return the score to report together with a label that has just changed.

        It is the score that the model gave the label in this frame: the smoothed one has only just reached
        `threshold_high`, however certain the model is.
        """
        return self.raw_score if self.raw_label == self.label else self.score
