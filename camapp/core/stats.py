"""Measures rates and latencies, and accounts for every frame."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from camapp.core.frames import Trace

STAGES = ("capture", "prepare", "queue", "infer", "decode", "total", "overhead")


class RateMeter:
    """Measures events per second over the last `window` seconds: (N - 1) / span, and 0 once events stop.

    Slower events are measured over the last interval, and have stopped after twice that.
    """

    def __init__(self, window: float = 2.0) -> None:
        self._window = int(window * 1e9)
        self._stamps: deque[int] = deque()
        self._lock = threading.Lock()

    def tick(self, now_ns: int | None = None) -> None:
        """Count one event."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        with self._lock:
            self._stamps.append(now)
            self._trim(now)

    def rate(self, now_ns: int | None = None) -> float:
        """Return the events per second."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        with self._lock:
            self._trim(now)
            count = len(self._stamps)
            if count < 2 or now - self._stamps[-1] > max(self._window, 2 * (self._stamps[-1] - self._stamps[-2])):
                return 0.0
            return (count - 1) * 1e9 / max(1, self._stamps[-1] - self._stamps[0])

    def _trim(self, now: int) -> None:
        while len(self._stamps) > 2 and now - self._stamps[0] > self._window:
            self._stamps.popleft()


class Quantiles:
    """Computes percentiles of the last `capacity` values; its memory is allocated once, so that a run does not grow."""

    def __init__(self, capacity: int = 16384) -> None:
        self._ring = array("d", bytes(8 * capacity))
        self._count = 0

    def add(self, value: float) -> None:
        """Add one value."""
        self._ring[self._count % len(self._ring)] = value
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, len(self._ring))

    def at(self, *percents: float, last: int | None = None) -> tuple[float, ...]:
        """Return the values at these percentiles, of the `last` values if given; zeros while empty."""
        length, count = len(self), self._count
        used = length if last is None else min(last, length)
        if not used:
            return (0.0,) * len(percents)
        indices = np.arange(count - used, count) % len(self._ring)
        return tuple(float(value) for value in np.percentile(np.frombuffer(self._ring)[indices], percents))


class Histogram:
    """Counts values by size since the start, as Prometheus expects; one thread adds, any thread may read.

    Attributes:
        counts: number of values at most each of `BOUNDS_MS` and above the one before; last, those above all.
        sum: of all values.
    """

    # Two bounds per octave around the period of 30 fps, fewer at both ends.
    BOUNDS_MS = (0.5, 1, 2, 5, 10, 15, 20, 25, 33, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS_MS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.BOUNDS_MS, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Return the number of values at most each of `BOUNDS_MS`; last, the number of all values."""
        return list(accumulate(self.counts))


@dataclass(frozen=True)
class Balance:
    """Accounts for the captured frames: captured = predicted + dropped + failed + in flight."""

    captured: int
    predicted: int
    dropped: dict[str, int]
    failed: dict[str, int]
    in_flight: int
    sensor_missed: int

    @property
    def is_conserved(self) -> bool:
        """Return whether no frame was lost and none was counted twice."""
        return self.captured == self.predicted + sum(self.dropped.values()) + sum(self.failed.values()) + self.in_flight

    def __str__(self) -> str:
        parts = [f"captured {self.captured} = predicted {self.predicted}"]
        parts += [f"+ dropped {sum(self.dropped.values())}{_reasons(self.dropped)}"]
        parts += [f"+ failed {sum(self.failed.values())}{_reasons(self.failed)}"]
        parts += [f"+ in flight {self.in_flight}"]
        missed = f"; the sensor skipped {self.sensor_missed}" if self.sensor_missed else ""
        return " ".join(parts) + missed + ("" if self.is_conserved else " (DOES NOT ADD UP: please report)")


def _reasons(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{reason} {count}' for reason, count in counts.items())})" if counts else ""


class Stats:
    """Counts and times frames; all displayed numbers come from here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[int, Trace] = {}
        self._captured = 0
        self._predicted = 0
        self._dropped: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._sensor_missed = 0
        self._last_sensor = 0
        self._sensor_gaps: deque[int] = deque(maxlen=31)
        self.camera = RateMeter()
        self.inference = RateMeter()
        self.display = RateMeter()
        self.latency = {stage: Quantiles() for stage in STAGES}
        self.histograms = {stage: Histogram() for stage in STAGES}
        self.shown_ms = Quantiles()
        self.intervals = Quantiles(capacity=64)
        self._last_predicted = 0

    def captured(self, seq: int, sensor_ns: int, regular: bool = True) -> Trace:
        """Count a new frame as in flight, and missed ones before it if `regular`; return its trace."""
        now = time.monotonic_ns()
        trace = Trace(seq, sensor=sensor_ns, captured=now)
        with self._lock:
            self._captured += 1
            self._in_flight[seq] = trace
            if sensor_ns and regular:
                self._note_sensor(sensor_ns)
        self.camera.tick(now)
        return trace

    def predicted(self, trace: Trace) -> None:
        """Count a frame as predicted."""
        with self._lock:
            self._close(trace)
            self._predicted += 1
        for stage, value in trace.latency_ms().items():
            if stage != "infer" or trace.infer_end:
                self.latency[stage].add(value)
                self.histograms[stage].add(value)
        if self._last_predicted:
            self.intervals.add((trace.decoded - self._last_predicted) / 1e6)
        self._last_predicted = trace.decoded
        self.inference.tick(trace.decoded)

    def dropped(self, trace: Trace, reason: str) -> None:
        """Count a frame as dropped on purpose."""
        with self._lock:
            self._close(trace)
            self._dropped[reason] += 1

    def failed(self, trace: Trace, reason: str) -> None:
        """Count a frame as failed."""
        with self._lock:
            self._close(trace)
            self._failed[reason] += 1

    def shown(self, trace: Trace, now_ns: int) -> None:
        """Note that the image of a frame is on the screen (or in the video file)."""
        trace.shown = now_ns
        self.shown_ms.add((now_ns - (trace.sensor or trace.captured)) / 1e6)
        self.display.tick(now_ns)

    def source_lost(self) -> None:
        """Note a loss of the source, so that the gap to its next time stamp is not counted as missed frames."""
        with self._lock:
            self._last_sensor = 0

    def balance(self) -> Balance:
        """Return the present counts."""
        with self._lock:
            return Balance(
                self._captured,
                self._predicted,
                dict(self._dropped),
                dict(self._failed),
                len(self._in_flight),
                self._sensor_missed,
            )

    def predictions(self) -> int:
        """Return the number of predicted frames."""
        return self._predicted

    def in_flight(self) -> int:
        """Return the number of frames in flight."""
        return len(self._in_flight)

    def stale_after_ms(self) -> float:
        """Return the age from which a prediction is drawn dimmed: max(200 ms, twice the median inference interval)."""
        return max(200.0, 2 * self.intervals.at(50)[0])

    def _close(self, trace: Trace) -> None:
        if self._in_flight.pop(trace.seq, None) is None:
            raise RuntimeError(f"frame {trace.seq} was accounted for twice")

    def _note_sensor(self, sensor_ns: int) -> None:
        # Compare with the median of recent gaps, because cameras lower their rate in low light.
        gap = sensor_ns - self._last_sensor
        if self._last_sensor and gap > 0:
            if len(self._sensor_gaps) >= 5:
                usual = sorted(self._sensor_gaps)[len(self._sensor_gaps) // 2]
                self._sensor_missed += max(0, round(gap / usual) - 1)
            self._sensor_gaps.append(gap)
        self._last_sensor = sensor_ns
