"""Filters for `decode`: moving averages of scores, and labels with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np

from camapp.core.arrays import Floats

Key = TypeVar("Key", bound=Hashable)
# Scores below this are removed from a NamedAverage.
_MIN_SCORE = 1e-3


def softmax(logits: Floats) -> Floats:
    """Return probabilities along the last axis, without overflow for large logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


class Clock:
    """Computes the weight of a new value in a moving average from the time since the last one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last_ns: int | None = None

    def share(self, now_ns: int) -> float:
        """Return the weight: 1 for the first value or without smoothing, else almost proportional to the interval."""
        last, self._last_ns = self._last_ns, now_ns
        if last is None or self._seconds <= 0:
            return 1.0
        return -math.expm1(-max(0, now_ns - last) / (self._seconds * 1e9))


class ArrayAverage:
    """Exponential moving average of an array over time."""

    def __init__(self, seconds: float) -> None:
        self._clock = Clock(seconds)
        self._mean: Floats | None = None

    def update(self, values: Floats, now_ns: int) -> Floats:
        """Add `values` and return the average, which is valid until the next call."""
        share = self._clock.share(now_ns)
        if self._mean is None:
            self._mean = values.astype(np.float32)
        else:
            self._mean += np.float32(share) * (values - self._mean)
        return self._mean


class NamedAverage:
    """Exponential moving average over time of named scores; a name that is absent scores 0."""

    def __init__(self, seconds: float) -> None:
        self._clock = Clock(seconds)
        self._mean: dict[str, float] = {}

    def update(self, scores: Mapping[str, float], now_ns: int) -> dict[str, float]:
        """Add `scores` and return the averages, best first."""
        share = self._clock.share(now_ns)
        names = [*self._mean, *(name for name in scores if name not in self._mean)]
        mean = {name: self._mean.get(name, 0.0) * (1 - share) + scores.get(name, 0.0) * share for name in names}
        ranked = sorted(mean.items(), key=lambda item: -item[1])
        self._mean = {name: score for name, score in ranked if score > _MIN_SCORE}
        return self._mean


class Latch(Generic[Key]):
    """Holds a label or its index (`held`, or None) with hysteresis: accepted at a high score, dropped at a low one."""

    def __init__(self, high: float, low: float) -> None:
        """Start without a label; raises ValueError unless 0 <= low <= high <= 1."""
        if not 0 <= low <= high <= 1:
            raise ValueError(f"label thresholds: low {low} and high {high} must keep 0 <= low <= high <= 1")
        self._high = high
        self._low = low
        self.held: Key | None = None

    def update(self, best: Key, best_score: float, held_score: float) -> Key | None:
        """Accept `best` if its score is high, else keep the held label until `held_score`, its own score, is low."""
        if best_score >= self._high:
            self.held = best
        elif held_score < self._low:
            self.held = None
        return self.held
