"""Follows what is in sight, steady over short misses, and detects events in it: `person`, `person>2`, `score<0.5`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.core.settings import parse_float

# Nanoseconds, and intervals between images, for which a count must have been lower before it falls: detectors lose an
# object for some frames.
_HOLD_NS, _HOLD_INTERVALS = 1_000_000_000, 3
_COMPARISON = re.compile(r"(.+?)\s*([<>]=?)\s*(.*)")
_SIGNS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


class SteadyCounts:
    """Counts with hysteresis in time: a count rises at once, and falls once it has been lower for a second.

    With few images a second it falls later: after three of them.
    """

    def __init__(self) -> None:
        self._newest_ns = 0
        # By name, for each count from 1 the last time at which it was reached.
        self._reached: dict[str, list[int]] = {}

    def update(self, counts: Mapping[str, int], now_ns: int, hold: bool = True) -> dict[str, int]:
        """Return the steady counts, those above 0; without `hold`, the image is independent of the one before."""
        if not hold or now_ns < self._newest_ns:
            self._reached.clear()
        limit_ns = max(_HOLD_NS, _HOLD_INTERVALS * (now_ns - self._newest_ns) if self._reached else 0)
        self._newest_ns = now_ns
        for name in {*self._reached, *(name for name, count in counts.items() if count > 0)}:
            times, count = self._reached.setdefault(name, []), counts.get(name, 0)
            times[:count] = [now_ns] * count
            while times and now_ns - times[-1] > limit_ns:
                times.pop()
        self._reached = {name: times for name, times in self._reached.items() if times}
        return {name: len(times) for name, times in sorted(self._reached.items())}


class Situation:
    """Follows what a person would report of a camera: the label, or the objects, and the crossings of lines.

    Attributes:
        finds_objects: whether a prediction had counts so far; then these are reported, and not the label.
        counts: objects by label, steady.
        in_zones: objects by `label@zone`, steady.
    """

    def __init__(self) -> None:
        self.finds_objects = False
        self.counts: dict[str, int] = {}
        self.in_zones: dict[str, int] = {}
        self._task, self._label = "", ""
        self._key: object = None
        self._steady, self._steady_zones = SteadyCounts(), SteadyCounts()

    def update(self, prediction: Prediction, frame: Frame, trace: Trace) -> bool:
        """Take a prediction; return whether it changes what is reported."""
        if prediction.task != self._task:
            # Another model; a count of the old one would never be confirmed again.
            self._task, self.finds_objects = prediction.task, False
        now, hold = moment_ns(frame, trace), not frame.shot.still
        self.finds_objects |= bool(prediction.counts or prediction.zones or prediction.counting_lines)
        self.counts = self._steady.update(prediction.counts, now, hold)
        inside = {f"{label}@{zone.name}": count for zone in prediction.zones for label, count in zone.inside.items()}
        self.in_zones = self._steady_zones.update(inside, now, hold)
        self._label = prediction.label
        passed = [(zone.name, zone.entered, zone.left) for zone in prediction.zones]
        passed += [(line.name, line.into, line.out) for line in prediction.counting_lines]
        before, self._key = self._key, (self.counts, self.in_zones, passed) if self.finds_objects else self._label
        return self._key != before

    def present(self) -> set[str]:
        """Return the labels in sight."""
        return {*self.counts, *self.in_zones} if self.finds_objects else {self._label} if self._label else set()

    def count(self, name: str) -> int:
        """Return the steady count of a label, or of `label@zone`."""
        return self.counts.get(name, 0) or self.in_zones.get(name, 0)


def moment_ns(frame: Frame, trace: Trace) -> int:
    """Return the time of a frame in nanoseconds: in the source's own time if it has one, else of the capture."""
    return trace.captured if frame.shot.moment_ns is None else frame.shot.moment_ns


def counts_text(counts: Mapping[str, int], most: int = 8) -> str:
    """Return a text such as '3 person, 1 dog', the `most` frequent first and the others as one; '' without any."""
    ranked = sorted(((label, count) for label, count in counts.items() if count), key=lambda item: (-item[1], item[0]))
    if others := sum(count for _, count in ranked[most:]):
        ranked[most:] = [("others", others)]
    return ", ".join(f"{count} {label}" for label, count in ranked)


@dataclass(frozen=True)
class Comparison:
    """`score<0.5`, `person>2`: whether a score, a named value or a count is below or above a bound."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"

    @property
    def is_of_score(self) -> bool:
        """Return whether it compares a score, and not a named value or a count."""
        return self.name in ("score", "raw_score")

    def holds(self, prediction: Prediction, situation: Situation, counted: Iterable[str]) -> bool:
        """Return whether it holds now; False if there is no such value: a count exists once it was above 0."""
        known = {"score": prediction.score, "raw_score": prediction.raw_score, **prediction.values}
        value = situation.count(self.name) if self.name in counted else known.get(self.name)
        if value is None or (self.name == "score" and not prediction.label):
            return False
        return bool(_SIGNS[self.sign](value, self.bound))


@dataclass(frozen=True)
class Event:
    """Describes the start of an event.

    Attributes:
        name: as the option has it, such as `person>2`; for `*` the label.
        label: that appeared, or whose objects are counted; else the label at this moment.
        score: of that label: see `Prediction.change_score`; of objects the best one's.
        count: objects with that label; 0 if the task finds no objects.
    """

    name: str
    label: str
    score: float
    count: int


def parse_events(items: Iterable[str], option: str) -> tuple[frozenset[str], tuple[Comparison, ...]]:
    """Return labels (`*` is any) and comparisons.

    Raises:
        SinkError: the bound of a comparison is no number; the message names the `option`.
    """
    labels, comparisons = set(), []
    for item in items:
        match = _COMPARISON.fullmatch(item)
        if not match:
            labels.add(item)
            continue
        name, sign, bound = match.groups()
        try:
            comparisons.append(Comparison(name, sign, parse_float(bound)))
        except ValueError:
            raise SinkError(
                f"{option} {item}: '{bound}' is not a number; write it like score<0.5 or person>2"
            ) from None
    return frozenset(labels), tuple(comparisons)


class Trigger:
    """Detects the start of events: a label that was absent before, or a comparison that did not hold.

    Args:
        events: labels (`*` is any), `label@zone`, and comparisons.
        option: name of the option they come from, for error messages.

    Raises:
        SinkError: an event cannot be parsed.
    """

    def __init__(self, events: Iterable[str], option: str = "--clip-on") -> None:
        self._labels, self._comparisons = parse_events(events, option)
        self._situation = Situation()
        self._counted: set[str] = set()
        self._active: frozenset[str] = frozenset()

    def begins(self, prediction: Prediction, frame: Frame, trace: Trace) -> list[Event]:
        """Return the events that start with this prediction, in the order of their names."""
        situation = self._situation
        situation.update(prediction, frame, trace)
        self._counted |= situation.counts.keys() | situation.in_zones.keys()
        present = situation.present()
        wanted = present & self._labels
        if "*" in self._labels:
            wanted |= {label for label in present if label not in situation.in_zones}
        found = {label: label for label in wanted}
        for item in self._comparisons:
            if item.holds(prediction, situation, self._counted):
                found[str(item)] = item.name if item.name in self._counted else prediction.label
        started = sorted(found.keys() - self._active)
        self._active = frozenset(found)
        return [self._event(name, found[name], prediction) for name in started]

    def _event(self, name: str, label: str, prediction: Prediction) -> Event:
        count = self._situation.count(label)
        bare = label.partition("@")[0] if label in self._situation.in_zones else label
        scores = [box.score for box in prediction.boxes if box.label == bare]
        score = max(scores, default=0.0) if self._situation.finds_objects else prediction.change_score
        return Event(name, bare, score, count)
