"""Status: all that can be told about one camera's run at a moment, for pages, brokers and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from camapp.core.predictions import Prediction
from camapp.core.stats import Balance

# A Pi lowers its clock from 80 degrees on (85 for most of it).
HOT_C = 80.0


@dataclass(frozen=True, slots=True)
class Health:
    """One sample.

    Attributes:
        temperature_c: of the hottest thermal zone; None where the machine does not tell.
        cpu: share of all cores' time in use since the last sample, 0 to 1; None in the first.
        now: throttle flags that are raised.
        since_boot: those that were raised at any time since boot, or at least since this process started.
    """

    temperature_c: float | None = None
    cpu: float | None = None
    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()

    @property
    def alerts(self) -> tuple[str, ...]:
        """What makes the machine slow now."""
        hot = self.temperature_c is not None and self.temperature_c >= HOT_C
        return (*self.now, *(("hot",) if hot and not self.now else ()))


class State(Enum):
    """What a run is at."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    NO_SIGNAL = "no signal"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Status:
    """One camera's run.

    Attributes:
        camera: its name.
        state: what it is at.
        reason: why there is no signal, or why it ended; else "".
        figures: what the head-up display shows.
        balance: where its frames are.
        latency_ms: (50th, 95th, 99th percentile) a stage, over about the last minute.
        prediction: the newest, None before the first.
        age_s: seconds since that one's frame was captured.
        task: what the model's numbers mean.
        labels: the model's, in its own order.
        size: (width, height) of the image, None before the first.
        roi: the part of the image that is looked at, as fractions x, y, width, height; None for all of it.
        uptime_s: seconds since the run began.
    """

    camera: str
    state: State
    reason: str
    figures: Hud
    balance: Balance
    latency_ms: Mapping[str, tuple[float, float, float]]
    prediction: Prediction | None
    age_s: float
    task: str
    labels: tuple[str, ...]
    size: tuple[int, int] | None
    roi: tuple[float, float, float, float] | None
    uptime_s: float

    def record(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        record = asdict(self) | {"state": self.state.value}
        record["latency_ms"] = {
            stage: dict(zip(("p50", "p95", "p99"), values, strict=True)) for stage, values in self.latency_ms.items()
        }
        return record


class Rating(Enum):
    """How a rate compares with its target."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    UNRATED = "unrated"


def rate(fps: float, target_fps: float) -> Rating:
    """GOOD from 0.97 of the target, FAIR from 0.8, else POOR; UNRATED where there is no target."""
    if target_fps <= 0:
        return Rating.UNRATED
    if fps >= 0.97 * target_fps:
        return Rating.GOOD
    return Rating.FAIR if fps >= 0.8 * target_fps else Rating.POOR


@dataclass(frozen=True, slots=True)
class Hud:
    """What the head-up display shows of one run.

    Attributes:
        camera_fps: frames captured a second.
        infer_fps: predictions a second.
        display_fps: frames shown a second.
        target_fps: what the three are measured against; 0 for no target.
        latency_ms: milliseconds a stage: capture, prepare, queue, infer, decode, total (`Trace.latency_ms`).
        drops: frames dropped so far, by reason.
        workers_busy: share of the workers' time spent inferring, 0 to 1.
        workers: how many there are.
        restarts: workers replaced so far.
        source: name of the source, for people.
        model: name of the model, for people.
        paused: the image is held.
        idle: nothing happens, and few frames are inferred on purpose.
        slowness: why the camera gives fewer frames than it was set to; "" while it does not.
        health: how the machine bears it.
        truth: what the source says the image really shows; "" where it does not know.
    """

    camera_fps: float = 0.0
    infer_fps: float = 0.0
    display_fps: float = 0.0
    target_fps: float = 0.0
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    workers_busy: float = 0.0
    workers: int = 0
    restarts: int = 0
    source: str = ""
    model: str = ""
    paused: bool = False
    idle: bool = False
    slowness: str = ""
    health: Health = Health()
    truth: str = ""
