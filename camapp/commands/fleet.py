"""`camapp fleet` shows all devices that publish to an MQTT broker, in a live table."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from camapp.core.errors import CamappError, ExitCode, SettingsError
from camapp.core.status import Rating, rating_of
from camapp.remote.mqtt.client import Access, MqttClient, Subscription, access
from camapp.system.systemd import on_stop_signals

_REFRESH_S = 0.5
# Retained messages arrive at once after subscribing: after this long without another one, all have arrived.
_QUIET_S = 0.7
_CONNECT_S = 10.0
# Age from which a device counts as silent; it publishes its status every five seconds.
_SILENT_S = 20.0
_MAX_TEXT = 60
# Terminals of fewer columns get a table of few columns: those that only it has, and those that both have.
_WIDE = 140
_NARROW = ("device, camera", "state, trouble")
_BOTH = ("sees", "fps", "seen")
_NUMBERS = ("fps", "p95 ms", "dropped", "failed", "restarts", "seen")
_RATING_STYLE = {Rating.GOOD: "green", Rating.FAIR: "yellow", Rating.POOR: "red", Rating.UNRATED: ""}


class FleetError(CamappError):
    """The broker is not reachable; the message says why."""

    code = ExitCode.SOURCE_GONE


@dataclass(frozen=True)
class DeviceRow:
    """Holds one camera of a device as far as it was published; None for the rest.

    Attributes:
        camera: its name; "" if the device has published none.
        age_s: seconds since its last message; by the clock of the device if that was before we subscribed.
    """

    device: str
    camera: str
    online: bool
    state: str
    reason: str
    label: str
    score: float | None
    model: str
    fps: float | None
    target_fps: float | None
    latency_p95_ms: float | None
    dropped: int | None
    failed: int | None
    restarts: int | None
    temperature_c: float | None
    alerts: tuple[str, ...]
    messages_lost: int | None
    age_s: float | None


class Fleet:
    """Collects the messages by topic and makes rows of them, whatever they contain."""

    def __init__(self, prefix: str, clock: Callable[[], float] = time.time, max_topics: int = 10_000) -> None:
        self.topics = [f"{prefix}/{rest}" for rest in ("+/availability", "+/health", "+/+/status", "+/+/prediction")]
        self.received_at = 0.0
        self._prefix = prefix
        self._clock = clock
        self._max_topics = max_topics
        self._lock = threading.Lock()
        self._online: dict[str, bool] = {}
        self._records: dict[tuple[str, ...], dict[str, Any]] = {}
        self._last_seen: dict[str, float] = {}

    def receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Store a message; an empty one deletes the message before it."""
        device, *rest = topic.removeprefix(f"{self._prefix}/").split("/")
        record = _record(payload)
        published_at = _moment(record.get("time")) if retained else self._clock()
        with self._lock:
            self.received_at = time.monotonic()
            if len(self._records) + len(self._online) > self._max_topics:
                return
            if rest == ["availability"]:
                self._online[device] = payload == b"online"
                if not payload:
                    del self._online[device]
            elif not payload:
                self._records.pop((device, *rest), None)
            else:
                self._records[(device, *rest)] = record
            if published_at is not None:
                self._last_seen[device] = max(published_at, self._last_seen.get(device, 0.0))

    def rows(self) -> list[DeviceRow]:
        """Return one row for each camera, in the order of device and camera."""
        with self._lock:
            cameras = {key[:2] for key in self._records if len(key) == 3 and self._is_present(key[0], key[1])}
            devices = {*self._online, *(key[0] for key in self._records)}
            bare = {(device, "") for device in devices - {device for device, _ in cameras}}
            return [self._row(*key) for key in sorted(cameras | bare)]

    def _is_present(self, device: str, camera: str) -> bool:
        """Return whether the device has this camera: retained messages outlive a removed or renamed camera."""
        present = self._records.get((device, "health"), {}).get("cameras")
        return camera in present if isinstance(present, list) else True

    def _row(self, device: str, camera: str) -> DeviceRow:
        health = self._records.get((device, "health"), {})
        status = self._records.get((device, camera, "status"), {})
        prediction = self._records.get((device, camera, "prediction"), {})
        fps, frames = _mapping(status.get("fps")), _mapping(status.get("frames"))
        online = self._online.get(device, False)
        alerts = health.get("alerts")
        seen = self._last_seen.get(device)
        return DeviceRow(
            device=_text(device),
            camera=_text(camera),
            online=online,
            state=(_text(status.get("state")) or "?") if online else "offline",
            reason=_text(status.get("reason")),
            label=_text(prediction.get("label")),
            score=_number(prediction.get("score")),
            model=_text(status.get("model")),
            fps=_number(fps.get("inference")),
            target_fps=_number(fps.get("target")),
            latency_p95_ms=_number(_mapping(status.get("latency_ms")).get("p95")),
            dropped=_count(frames.get("dropped_total")),
            failed=_count(frames.get("failed_total")),
            restarts=_count(status.get("restarts")),
            temperature_c=_number(health.get("temperature_c")),
            alerts=tuple(_text(alert) for alert in alerts[:9]) if isinstance(alerts, list) else (),
            messages_lost=_count(health.get("messages_lost")),
            age_s=None if seen is None else max(0.0, self._clock() - seen),
        )


def run_fleet(broker: str, password_file: Path | None, ca: Path | None, once: bool, as_json: bool) -> None:
    """Show the table until interrupted; print it once if `once`, or if stdout is no terminal.

    Raises:
        SettingsError: the address is wrong.
        SinkError: a file cannot be used.
        FleetError: the broker is not reachable.
    """
    try:
        broker_access = access(broker, password_file, ca)
    except ValueError as error:
        raise SettingsError(f"--broker is not allowed: {error}", usage=True) from None
    # Errors are the title of the table, or raised.
    logging.getLogger("camapp.remote.mqtt").setLevel(logging.CRITICAL)
    fleet = Fleet(broker_access.address.prefix)
    incoming = Subscription(fleet.topics, fleet.receive, with_retained=True, max_rate=0)
    link = MqttClient(broker_access, "camapp-fleet", subscription=incoming)
    link.start()
    try:
        if once or as_json or not sys.stdout.isatty():
            _wait_for_all(link, fleet, broker_access)
            if as_json:
                print(json.dumps([asdict(row) for row in fleet.rows()], indent=2))
            else:
                console = Console()
                console.print(table_of(fleet.rows(), console.width))
        else:
            _live(link, fleet, broker_access)
    finally:
        link.stop()


def _wait_for_all(link: MqttClient, fleet: Fleet, broker: Access) -> None:
    deadline = time.monotonic() + _CONNECT_S
    connected_at = 0.0
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = time.monotonic()
        if not link.connected:
            if link.reason:
                break
            continue
        connected_at = connected_at or now
        if now - max(connected_at, fleet.received_at) > _QUIET_S:
            return
    if not link.connected:
        raise FleetError(f"MQTT broker {broker.address}: {link.reason or 'no answer'}")


def _live(link: MqttClient, fleet: Fleet, broker: Access) -> None:
    # On a signal the loop ends normally, so that the cursor, which a live table hides, is shown again.
    signals: list[str] = []
    on_stop_signals(signals.append)
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while not signals:
            table = table_of(fleet.rows(), console.width)
            why = "" if link.connected else f": {link.reason or 'connecting'}"
            table.title = f"MQTT broker {broker.address}{why}"
            live.update(table, refresh=True)
            time.sleep(_REFRESH_S)


def table_of(rows: Sequence[DeviceRow], width: int = _WIDE) -> Table:
    """Return the rows as a table; for a terminal of few columns, one of the numbers that matter most."""
    is_wide = width >= _WIDE
    columns = {name: cell for name, cell in _COLUMNS.items() if name in _BOTH or (name in _NARROW) != is_wide}
    table = Table(box=HEAVY_HEAD if is_wide else SIMPLE, padding=(0, 1 if is_wide else 0))
    for name in columns:
        is_number = name in _NUMBERS
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()), style="" if row.online else "dim")
    if not rows:
        table.add_row(Text("no devices seen yet", "dim"))
    return table


def _state(row: DeviceRow) -> Text:
    return Text(row.state + (f": {row.reason}" if row.reason and row.online else ""), _state_style(row))


def _sees(row: DeviceRow) -> Text:
    return Text(row.label + (f" {row.score:.0%}" if row.label and row.score is not None else ""))


def _machine(row: DeviceRow) -> Text:
    temperature = [f"{row.temperature_c:.0f} °C"] if row.temperature_c is not None else []
    return Text(", ".join([*temperature, *row.alerts]), "red" if row.alerts else "")


def _state_and_trouble(row: DeviceRow) -> Text:
    """Return the state with what the columns for failures would show, without the zeros."""
    counts = ((row.failed, "failed"), (row.restarts, "restarted"))
    trouble = [f"{count} {what}" for count, what in counts if count] + list(row.alerts)
    return Text("\n").join([_state(row), *(Text(text, "red") for text in trouble)])


def _seen(row: DeviceRow) -> Text:
    return Text(_ago(row.age_s), "red" if row.online and (row.age_s or 0) > _SILENT_S else "")


def _state_style(row: DeviceRow) -> str:
    if not row.online or row.state == "no signal":
        return "red"
    return "green" if row.state == "running" else "yellow"


def _fps(row: DeviceRow) -> Text:
    if row.fps is None:
        return Text("")
    target = row.target_fps or 0.0
    style = _RATING_STYLE[rating_of(row.fps, target)] if row.online and row.state == "running" else ""
    return Text(f"{row.fps:.1f} of {target:g}", style)


def _shown(value: float | None, form: str = "") -> str:
    return "" if value is None else format(value, form)


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


_COLUMNS: dict[str, Callable[[DeviceRow], Text]] = {
    "device": lambda row: Text(row.device),
    "camera": lambda row: Text(row.camera),
    "state": _state,
    "device, camera": lambda row: Text(f"{row.device}\n{row.camera}" if row.camera else row.device),
    "state, trouble": _state_and_trouble,
    "sees": _sees,
    "model": lambda row: Text(row.model),
    "fps": _fps,
    "p95 ms": lambda row: Text(_shown(row.latency_p95_ms, ".1f")),
    "dropped": lambda row: Text(_shown(row.dropped)),
    "failed": lambda row: Text(_shown(row.failed), "red" if row.failed else ""),
    "restarts": lambda row: Text(_shown(row.restarts), "yellow" if row.restarts else ""),
    "machine": _machine,
    "seen": _seen,
}


# -- parsers of payloads, which may contain anything


def _record(payload: bytes) -> dict[str, Any]:
    try:
        return _mapping(json.loads(payload))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """Return a text for the terminal: one line, without control characters."""
    if not isinstance(value, str):
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in value[:_MAX_TEXT])


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e15:
        return None
    return value if math.isfinite(value) else None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _moment(value: object) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
