"""Status: all that can be told about one camera's run at a moment, for pages, brokers and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from camapp.hud import Hud
from camapp.records import Prediction
from camapp.stats import Balance


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
        size: (width, height) of the picture, None before the first.
        roi: the part of the picture that is looked at, as fractions x, y, width, height; None for all of it.
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
