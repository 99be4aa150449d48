"""Remote commands (pause, model, snapshot, ...), shared by the web and MQTT interfaces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from camapp.core.errors import PoolError, SettingsError
from camapp.core.models import model_choices, with_model
from camapp.core.settings import Settings, checked
from camapp.core.stats import Stats
from camapp.core.status import Status
from camapp.core.zones import parse_lines, parse_zones, place_name
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import Sink
from camapp.sinks.snapshot import SnapshotSink
from camapp.system.state_dir import KEPT, remember
from camapp.tasks.collect import LabelBoard
from engine.model import ModelError

log = logging.getLogger(__name__)

_STOP_S = 1.0
# Smallest side of a region, as a fraction of the image: a smaller one is an accidental drag, and hardly a pixel of the
# model's input.
_MIN_ROI_SIDE = 0.02

_PARSERS: Mapping[str, Callable[[Sequence[str]], object]] = {"zone": parse_zones, "line": parse_lines}

Command = TypeVar("Command")


class CommandRejected(Exception):
    """A command that is not run; the message names the reason for its sender."""


class CameraControl(Protocol):
    """What a remote interface may read and do of one camera's run; `Pipeline` implements it."""

    name: str
    settings: Settings
    stats: Stats
    board: LabelBoard | None

    @property
    def hud_shown(self) -> bool:
        """Whether the statistics are drawn on the image."""

    def set_hud(self, shown: bool) -> None:
        """Draw the statistics on the image, or leave them out."""

    def add_sink(self, sink: Sink) -> None:
        """Send predictions or drawn images to `sink`; before the run starts."""

    def status(self) -> Status:
        """Return the state, counts and rates of this moment."""

    def pause(self) -> None:
        """Hold the image and the predictions."""

    def resume(self) -> None:
        """Continue after `pause`."""

    def apply(self, change: Callable[[Settings], Settings]) -> None:
        """Apply what `change` makes of the present settings; may take seconds, and others wait meanwhile.

        Raises:
            ModelError, PoolError, OSError: the model cannot be used; nothing has changed.
        """


class CommandResult(NamedTuple):
    """What a command returns: values as the HTTP interface answers them, and a line of text to announce, or ""."""

    values: dict[str, Any]
    text: str = ""


class CommandDispatcher:
    """Runs the commands that a remote interface receives, in the caller's thread.

    Args:
        on_saved: called with a camera's name and the file of each snapshot, in another thread.
        state: folder that keeps regions for the next start; None keeps none.
        reread: returns a camera's settings as the next start would read them; None skips that comparison.

    Attributes:
        snapshots: the sink that saves a camera's snapshots, by its name.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        on_saved: Callable[[str, Path], None],
        state: Path | None = None,
        reread: Callable[[str], Settings] | None = None,
    ) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._first = {camera.name: camera.settings for camera in cameras}
        self._state = state
        self._reread = reread
        self.snapshots = {
            camera.name: SnapshotSink(
                camera.settings.snapshots, partial(on_saved, camera.name), raw=camera.settings.raw
            )
            for camera in cameras
        }

    def attach(self) -> None:
        """Add the snapshot sinks to the cameras; once, before the run starts."""
        for name, sink in self.snapshots.items():
            self._cameras[name].add_sink(sink)

    def run(self, command: str, camera: str, value: object = None) -> CommandResult:
        """Run a command; may take seconds, so never on a thread of the pipeline.

        Args:
            command: pause, resume, snapshot, label, model, roi, zone, line or hud.
            camera: a camera's name.
            value: the model's name; x, y, width, height of the region, or None for the whole image; whether the
                statistics are drawn; of a zone or line a mapping with its `name`, its `points` as fractions of the
                image, None to delete it, and optionally `was`, its name so far. Not used by other commands.

        Raises:
            CommandRejected: it cannot be run; nothing has changed.
        """
        run = self._cameras[camera]
        match command:
            case "pause":
                run.pause()
                return CommandResult({"paused": True}, "paused")
            case "resume":
                run.resume()
                return CommandResult({"paused": False}, "resumed")
            case "label":
                return self._label(run, value)
            case "snapshot" if run.board is not None:
                run.board.request()
                return CommandResult({"folder": run.board.label})
            case "snapshot":
                self.snapshots[camera].request()
                return CommandResult({"folder": str(run.settings.snapshots)})
            case "hud":
                if not isinstance(value, bool):
                    raise CommandRejected("shown is true or false")
                run.set_hud(value)
                return CommandResult({"shown": value})
            case "model":
                return self._model(run, value)
            case "roi":
                return self._roi(run, value)
            case "zone" | "line":
                return self._place(run, command, value)
        raise ValueError(command)

    def _label(self, camera: CameraControl, value: object) -> CommandResult:
        if camera.board is None:
            raise CommandRejected("labels are those of 'camapp collect'")
        if not isinstance(value, str) or value not in camera.board.labels:
            raise CommandRejected(f"no such label; there are {', '.join(camera.board.labels)}")
        camera.board.choose(value)
        return CommandResult({"label": value})

    def _model(self, camera: CameraControl, value: object) -> CommandResult:
        first = self._first[camera.name]
        choices = model_choices(first)
        if not isinstance(value, str) or value not in choices:
            raise CommandRejected(f"no such model; there are {', '.join(choices)}")
        _apply(camera, lambda now: with_model(now, first, choices[value]))
        return CommandResult({"model": value}, f"model {value}")

    def _roi(self, camera: CameraControl, value: object) -> CommandResult:
        try:
            roi = None if value is None else checked("roi", value, "the page")
        except SettingsError as error:
            raise CommandRejected(str(error)) from error
        if roi is not None:
            roi = tuple(round(fraction, 4) for fraction in roi)
            if min(roi[2:]) < _MIN_ROI_SIDE:
                raise CommandRejected(f"the region is too small: each side at least {_MIN_ROI_SIDE:.0%} of the image")
        _apply(camera, lambda now: replace(now, roi=roi))
        problem = self._keep(camera.name, "roi", roi)
        shown = "the whole image" if roi is None else ",".join(f"{fraction:g}" for fraction in roi)
        return CommandResult({"roi": roi, "kept": not problem, "why": problem}, f"region changed: {shown}")

    def _place(self, camera: CameraControl, kind: str, value: object) -> CommandResult:
        """Set, rename or delete a zone or a counting line."""
        if camera.status().task != "detect":
            raise CommandRejected("zones and lines count objects: choose a model that finds objects first")
        name, points, was = (
            (value.get(key) for key in ("name", "points", "was")) if isinstance(value, Mapping) else ("",) * 3
        )
        if not isinstance(name, str) or not isinstance(was, str | None):
            raise CommandRejected("a name is text")
        old = was or name
        places = {place_name(text): text for text in getattr(camera.settings, kind)}
        if points is None:
            if places.pop(old, None) is None:
                raise CommandRejected(f"there is no {kind} '{old}'")
        elif name != old and name in places:
            raise CommandRejected(f"there is a {kind} '{name}' already")
        else:
            # A changed one keeps its place, which orders pages and messages.
            changed = {old: f"{name}={_joined(kind, points)}"}
            places = places | changed
        kept = tuple(places.values())
        try:
            _PARSERS[kind](kept)
        except ValueError as error:
            raise CommandRejected(f"{kind} {error}") from error
        changes: dict[str, Any] = {kind: kept}
        _apply(camera, lambda now: replace(now, **changes))
        problem = self._keep(camera.name, kind, kept)
        what = "deleted" if points is None else "changed"
        return CommandResult({kind: kept, "kept": not problem, "why": problem}, f"{kind} {name} {what}")

    def _keep(self, camera: str, name: str, value: tuple[Any, ...] | None) -> str:
        """Keep a setting for the next start; return why the next start will not use it, or ""."""
        what = KEPT[name]
        if self._state is None:
            return f"there is no state directory to keep the {what} in"
        try:
            remember(self._state, camera, name, value)
        except OSError as error:
            log.warning("the %s of '%s' cannot be kept: %s: %s", what, camera, self._state, error.strerror)
            return f"it cannot be kept in {self._state}: {error.strerror}"
        try:
            if self._reread is not None and getattr(self._reread(camera), name) != value:
                return f"the configuration sets another {what.removesuffix('s')}, which the next start uses"
        except SettingsError as error:
            return f"the next start will fail: {error}"
        return ""


def _joined(kind: str, points: object) -> str:
    """Return the corners of a zone, or the ends of a line, as the settings write them. Raises CommandRejected."""
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(type(number) in (int, float) for number in point)
        for point in points
    ):
        raise CommandRejected("points are a list of [x, y], fractions of the image")
    return (" " if kind == "zone" else ",").join(f"{x:.4f},{y:.4f}" for x, y in points)


def _apply(camera: CameraControl, change: Callable[[Settings], Settings]) -> None:
    try:
        camera.apply(change)
    except (ModelError, PoolError, OSError) as error:
        raise CommandRejected(f"not changed: {error}") from error


class CommandQueue(BackgroundSink[Command]):
    """Runs commands one at a time in a background thread; `put` queues one, or returns False if the queue is full.

    Args:
        handle: called with each command; does not raise. One that waits for something gives up once `stopping` is set.
        capacity: maximum number of queued commands.
    """

    def __init__(self, name: str, handle: Callable[[Command], None], capacity: int) -> None:
        super().__init__(name, capacity, _STOP_S)
        self._run_command = handle

    def stop(self) -> None:
        """Discard the queued commands; wait up to 1 s for the running one, then leave it to the run's own stop."""
        self.close()
        super().stop()

    def _handle(self, item: Command) -> None:
        self._run_command(item)
