"""Hud: the figures that the head-up display shows, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from camapp.health import Health


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
        paused: the picture is held.
        idle: nothing happens, and few frames are inferred on purpose.
        slowness: why the camera gives fewer frames than it was set to; "" while it does not.
        health: how the machine bears it.
        truth: what the source says the picture really shows; "" where it does not know.
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
