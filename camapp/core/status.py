"""Describes one camera's run at a moment, for the display, the web page, MQTT and Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from camapp.core.predictions import Prediction
from camapp.core.stats import Balance

# A Pi begins to lower its clock at 80 degrees Celsius, and lowers it most from 85.
HOT_C = 80.0
# Boxes in the record of a status.
_BOXES = 100


@dataclass(frozen=True, slots=True)
class Health:
    """Holds one sample of the machine's health.

    Attributes:
        temperature_c: of the hottest thermal zone; None if unknown.
        cpu: load of all cores since the last sample, 0 to 1; None in the first sample.
        now: throttling flags that are set.
        since_boot: flags that were set at any time since boot, or at least since this process started.
    """

    temperature_c: float | None = None
    cpu: float | None = None
    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()

    @property
    def alerts(self) -> tuple[str, ...]:
        """Return the present causes of throttling."""
        hot = self.temperature_c is not None and self.temperature_c >= HOT_C
        return (*self.now, *(("hot",) if hot and not self.now else ()))


class State(Enum):
    """Names the state of a run."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    NO_SIGNAL = "no signal"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Status:
    """Describes one camera's run.

    Attributes:
        reason: why there is no signal, or why the run ended; else "".
        latency_ms: (50th, 95th, 99th percentile) per stage, over about the last minute.
        prediction: newest one, None before the first.
        age_s: seconds since the frame of `prediction` was captured.
        labels: of the model, in its order.
        size: (width, height) of the image, None before the first.
        roi: region of interest as fractions x, y, width, height; None for the whole image.
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
        """Return plain values for JSON."""
        prediction = self.prediction
        if prediction is not None:
            # Outlines of many masks would fill a message several times over.
            boxes = tuple(replace(box, outlines=()) for box in prediction.boxes[:_BOXES])
            prediction = replace(prediction, boxes=boxes)
        record = asdict(replace(self, prediction=prediction)) | {"state": self.state.value}
        record["latency_ms"] = {
            stage: dict(zip(("p50", "p95", "p99"), values, strict=True)) for stage, values in self.latency_ms.items()
        }
        return record


class Rating(Enum):
    """Rates a frame rate against its target."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    UNRATED = "unrated"


def rating_of(fps: float, target_fps: float) -> Rating:
    """Return GOOD from 0.97 of the target, FAIR from 0.8, else POOR; UNRATED without a target (0)."""
    if target_fps <= 0:
        return Rating.UNRATED
    if fps >= 0.97 * target_fps:
        return Rating.GOOD
    return Rating.FAIR if fps >= 0.8 * target_fps else Rating.POOR


@dataclass(frozen=True, slots=True)
class Hud:
    """Holds the numbers of the head-up display for one run.

    Attributes:
        camera_fps: captured frames per second.
        target_fps: target of the three rates; 0 for none.
        latency_ms: milliseconds per stage: capture, prepare, queue, infer, decode, total (`Trace.latency_ms`).
        drops: dropped frames by reason.
        workers_busy: share of the workers' time spent on inference, 0 to 1.
        ended: whether this is the last picture of a file, which stays.
        idle: whether the scene is still and inference slowed down on purpose.
        slowness: why the camera is slower than its configured rate; "" if it is not.
        health: of the machine.
        truth: label of the ground truth; "" if unknown.
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
    ended: bool = False
    idle: bool = False
    slowness: str = ""
    health: Health = Health()
    truth: str = ""
