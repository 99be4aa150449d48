"""Metrics: the figures of all cameras in Prometheus's text format, read when they are asked for and kept nowhere."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from camapp import __version__
from camapp.core.stats import Histogram, Stats
from camapp.core.status import State, Status
from camapp.remote.commands import CameraControl
from camapp.system.health import FLAGS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Present from the start with 0: Prometheus sees no increase in a series that begins with its first event.
_USUAL_DROPS = ("newer frame", "late")
_USUAL_FAILURES = ("prepare", "decode", "worker died")
_STAGES = ("capture", "prepare", "queue", "infer", "decode")

_Samples = Iterable[tuple[Mapping[str, str], float]]


class Metrics:
    """A registry of its own over the given cameras, and over this process.

    Args:
        cameras: the runs, each with a name of its own.
    """

    def __init__(self, cameras: Sequence[CameraControl]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_CameraCollector(cameras))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The answer to one scrape, of type `CONTENT_TYPE`; costs about a millisecond a camera."""
        return generate_latest(self._registry)


class _CameraCollector(Collector):
    def __init__(self, cameras: Sequence[CameraControl]) -> None:
        self._cameras = cameras

    def collect(self) -> Iterator[Metric]:
        statuses = [camera.status() for camera in self._cameras]
        yield _family(
            "info",
            "camapp_build",
            "The version that runs.",
            [({"version": __version__, "python": platform.python_version()}, 1)],
        )
        yield from _frames(statuses)
        yield from _rates(statuses)
        yield from _latencies(
            {status.camera: camera.stats for status, camera in zip(statuses, self._cameras, strict=True)}
        )
        yield from _run(statuses)
        yield from _workers(statuses)
        if statuses:
            yield from _machine(statuses[0])


def _frames(statuses: Sequence[Status]) -> Iterator[Metric]:
    balances = [({"camera": status.camera}, status.balance) for status in statuses]
    yield _family(
        "counter", "camapp_frames_captured", "Frames read from the source.", [(c, b.captured) for c, b in balances]
    )
    yield _family(
        "counter", "camapp_frames_predicted", "Frames with a prediction.", [(c, b.predicted) for c, b in balances]
    )
    yield _family(
        "counter",
        "camapp_frames_dropped",
        "Frames left out on purpose.",
        [
            (camera | {"reason": reason}, count)
            for camera, balance in balances
            for reason, count in (dict.fromkeys(_USUAL_DROPS, 0) | balance.dropped).items()
        ],
    )
    yield _family(
        "counter",
        "camapp_frames_failed",
        "Frames that something went wrong with.",
        [
            (camera | {"reason": reason}, count)
            for camera, balance in balances
            for reason, count in (dict.fromkeys(_USUAL_FAILURES, 0) | balance.failed).items()
        ],
    )
    yield _family(
        "counter",
        "camapp_frames_sensor_missed",
        "Frames that the sensor's time stamps show it to have skipped; no part of the captured.",
        [(c, b.sensor_missed) for c, b in balances],
    )
    yield _family("gauge", "camapp_frames_in_flight", "Frames on their way.", [(c, b.in_flight) for c, b in balances])


def _rates(statuses: Sequence[Status]) -> Iterator[Metric]:
    yield _family(
        "gauge",
        "camapp_frame_rate_hertz",
        "Frames a second over the last two seconds: captured, predicted, shown.",
        [
            ({"camera": status.camera, "at": at}, value)
            for status in statuses
            for at, value in (
                ("camera", status.figures.camera_fps),
                ("inference", status.figures.infer_fps),
                ("display", status.figures.display_fps),
            )
        ],
    )
    yield _family(
        "gauge",
        "camapp_frame_rate_target_hertz",
        "The rate that they are judged against.",
        [({"camera": status.camera}, status.figures.target_fps) for status in statuses],
    )


def _latencies(stats: Mapping[str, Stats]) -> Iterator[Metric]:
    # The whole is a metric of its own: the sum over a label must mean something.
    total = Metric("camapp_latency_seconds", "From exposure (else capture) to prediction.", "histogram")
    stages = Metric("camapp_stage_duration_seconds", "Time in each stage of a predicted frame.", "histogram")
    for camera, counted in stats.items():
        _add_histogram(total, {"camera": camera}, counted.histograms["total"])
        for stage in _STAGES:
            _add_histogram(stages, {"camera": camera, "stage": stage}, counted.histograms[stage])
    yield total
    yield stages


def _run(statuses: Sequence[Status]) -> Iterator[Metric]:
    yield _family(
        "gauge",
        "camapp_source_up",
        "1 while the source gives images.",
        [({"camera": status.camera}, status.state in (State.RUNNING, State.PAUSED)) for status in statuses],
    )
    yield _family(
        "gauge",
        "camapp_state",
        "1 for what the run is at, 0 for all else.",
        [
            ({"camera": status.camera, "state": state.value}, status.state is state)
            for status in statuses
            for state in State
        ],
    )
    yield _family(
        "gauge",
        "camapp_uptime_seconds",
        "Since the run began.",
        [({"camera": status.camera}, status.uptime_s) for status in statuses],
    )
    yield _family(
        "info",
        "camapp_model",
        "The model that runs.",
        [({"camera": status.camera, "model": status.figures.model, "task": status.task}, 1) for status in statuses],
    )


def _workers(statuses: Sequence[Status]) -> Iterator[Metric]:
    figures = [({"camera": status.camera}, status.figures) for status in statuses]
    yield _family("gauge", "camapp_workers", "Processes that run the model.", [(c, f.workers) for c, f in figures])
    yield _family(
        "gauge",
        "camapp_workers_busy_ratio",
        "Share of their time spent inferring.",
        [(c, f.workers_busy) for c, f in figures],
    )
    yield _family("counter", "camapp_worker_restarts", "Workers replaced.", [(c, f.restarts) for c, f in figures])


def _machine(status: Status) -> Iterator[Metric]:
    health = status.figures.health
    if health.temperature_c is not None:
        yield _family(
            "gauge", "camapp_temperature_celsius", "Of the hottest thermal zone.", [({}, health.temperature_c)]
        )
    if health.cpu is not None:
        yield _family("gauge", "camapp_cpu_usage_ratio", "Share of all cores' time in use.", [({}, health.cpu)])
    for name, help, raised in (
        ("camapp_throttled", "Throttle flags of the firmware: 1 while raised.", health.now),
        ("camapp_throttled_since_boot", "Throttle flags that were raised at any time since boot.", health.since_boot),
    ):
        yield _family("gauge", name, help, [({"flag": flag}, flag in raised) for flag in FLAGS.values()])


def _family(kind: str, name: str, help: str, samples: _Samples) -> Metric:
    metric = Metric(name, help, kind)
    suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
    for labels, value in samples:
        metric.add_sample(name + suffix, dict(labels), float(value))
    return metric


def _add_histogram(metric: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    counts = histogram.cumulative()
    bounds = [f"{bound / 1000:g}" for bound in Histogram.BOUNDS_MS] + ["+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        metric.add_sample(f"{metric.name}_bucket", labels | {"le": bound}, count)
    metric.add_sample(f"{metric.name}_count", labels, counts[-1])
    metric.add_sample(f"{metric.name}_sum", labels, histogram.sum / 1000)
