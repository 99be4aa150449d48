"""Converts predictions and ground truth to plain values for JSON."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from camapp.core.frames import Frame, Trace, Truth
from camapp.core.predictions import Box, LineState, Polyline, Prediction, ZoneState

SCHEMA = 1
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def compact_json(value: object) -> str:
    """Return JSON in one line; NaN and infinity become null, because JSON has neither.

    Raises:
        TypeError: it is no value of JSON.
    """
    try:
        return _JSON.encode(value)
    except ValueError:
        return _JSON.encode(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def utc(seconds: float | None = None) -> str:
    """Return a time in seconds since 1970 as text, such as '2026-01-31T14:25:01.123+00:00'; None is now."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).isoformat(timespec="milliseconds")


def box_record(box: Box) -> dict[str, Any]:
    """Return a box as plain values; what it does not have is left out. An outline is a flat list: x, y, x, y, ..."""
    record: dict[str, Any] = {
        "xyxy": _corners(box.x0, box.y0, box.x1, box.y1), "label": box.label, "score": round(box.score, 4)
    }  # fmt: skip
    if box.track:
        record["track"] = box.track
    if box.angle:
        record["angle"] = round(box.angle, 2)
    if box.points:
        record["points"] = [[round(p.x, 1), round(p.y, 1), round(p.score, 3)] for p in box.points]
    if box.outlines:
        record["outlines"] = [[round(value, 1) for point in outline for value in point] for outline in box.outlines]
    return record


def zone_record(zone: ZoneState) -> dict[str, Any]:
    """Return a zone's counts as plain values."""
    counts = {"inside": zone.inside, "entered": zone.entered, "left": zone.left}
    return {"name": zone.name, **counts, "dwell_s": round(zone.dwell_s, 1)}


def counting_line_record(line: LineState) -> dict[str, Any]:
    """Return the counts of a counting line as plain values."""
    return {"name": line.name, "in": line.into, "out": line.out}


def truth_record(truth: Truth) -> dict[str, Any]:
    """Return ground truth as plain values."""
    return {
        "label": truth.label,
        "boxes": [box_record(box) for box in truth.boxes],
        "lines": [line_record(line) for line in truth.lines],
        "values": truth.values,
    }


def line_record(line: Polyline) -> dict[str, Any]:
    """Return a line as plain values."""
    points = [[round(x, 1), round(y, 1)] for x, y in line.points]
    return {"points": points, "label": line.label, "score": round(line.score, 4)}


def prediction_record(prediction: Prediction, frame: Frame, trace: Trace, changed: bool = False) -> dict[str, Any]:
    """Return a prediction with its times as plain values.

    Args:
        changed: the record reports a new label: its score is `Prediction.change_score`.
    """
    latency = {stage: round(value, 3) for stage, value in trace.latency_ms().items() if stage != "overhead"}
    age = time.monotonic_ns() - (trace.sensor or trace.captured)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "seq": prediction.seq,
        "time": utc(time.time() - age / 1e9),
        "t_mono_ns": trace.sensor or trace.captured,
        "clock_synced": _clock_synced(int(time.monotonic() // 10)),
        "model": prediction.model,
        "task": prediction.task,
        "label": prediction.label,
        "score": round(prediction.change_score if changed else prediction.score, 4),
        "raw_label": prediction.raw_label,
        "raw_score": round(prediction.raw_score, 4),
        "top": [[label, round(score, 4)] for label, score in prediction.top],
        "boxes": [box_record(box) for box in prediction.boxes],
        "lines": [line_record(line) for line in prediction.lines],
        "values": prediction.values,
        "latency_ms": latency,
    }
    if prediction.counts or prediction.task == "detect":
        record["counts"] = prediction.counts
    if prediction.zones:
        record["zones"] = [zone_record(zone) for zone in prediction.zones]
    if prediction.counting_lines:
        record["counting_lines"] = [counting_line_record(line) for line in prediction.counting_lines]
    if frame.shot.moment_ns is not None:
        record["media_s"] = round(frame.shot.moment_ns / 1e9, 3)
    if frame.shot.name:
        record["file"] = frame.shot.name
    if frame.shot.truth is not None:
        record["truth"] = truth_record(frame.shot.truth)
    return record


# In a folder of digits most boxes are alike.
@lru_cache(maxsize=1024, typed=True)
def _corners(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    return round(x0, 1), round(y0, 1), round(x1, 1), round(y1, 1)


@lru_cache(maxsize=1)
def _clock_synced(_window: int) -> bool:
    """Return whether systemd-timesyncd has set the wall clock since boot; checked once per `_window`."""
    return Path("/run/systemd/timesync/synchronized").exists()
