"""Tries what a start would try, without starting anything, and lists all faults instead of raising the first."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from camapp.capture.source import Source, SourceOptions, build_source, create_source, local_path, redacted
from camapp.core.errors import CamappError, SinkError, SourceLost
from camapp.core.events import parse_events
from camapp.core.files import try_to_create_in, try_to_write
from camapp.core.models import load_model, model_path
from camapp.core.settings import Settings
from camapp.core.timeouts import call_bounded
from camapp.sinks.drive import DriveSink
from camapp.sinks.film_files import FilmFiles, expanded
from camapp.sinks.label_command import LabelCommandSink
from camapp.sinks.rotating_file import is_plain_file
from camapp.sinks.sink import refusals
from camapp.tasks.task import task_for
from engine.graph import ModelError
from engine.model_card import ModelCard

T = TypeVar("T")
log = logging.getLogger(__name__)

# Longest trial of a source: a network camera that does not answer.
_SOURCE_S = 30.0


@dataclass
class Findings:
    """Holds the result of a check.

    Attributes:
        faults: what prevents a start, in the order of the start.
        summary: one line about what was found, "" if there are faults.
    """

    faults: list[Exception] = field(default_factory=list)
    summary: str = ""

    def attempt(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call, or note its error as a fault and return None."""
        try:
            return call()
        except (CamappError, ModelError, OSError) as error:
            self.faults.append(error)
            return None


def find_faults(
    cameras: Sequence[Settings], check_interfaces: Callable[[Settings], None], outputs: bool = True
) -> Findings:
    """Load the models, open the sources and prove that outputs can be written; leave everything as it was.

    Cameras of this machine only have to be present, since another run may be using them. Nor is it a fault that another
    run has taken a port or an output.

    Args:
        check_interfaces: raises SinkError if a remote interface cannot be used.
        outputs: try the files and ports too; they may belong to another user.
    """
    found = Findings()
    found.attempt(lambda: check_interfaces(cameras[0]))
    found.attempt(lambda: refuse_overwriting(cameras))
    found.attempt(lambda: check_drive_page(cameras))
    summaries = [_check_camera(found, settings, outputs) for settings in cameras]
    found.summary = "" if found.faults else "; ".join(summaries)
    return found


def _check_camera(found: Findings, settings: Settings, outputs: bool) -> str:
    model = found.attempt(lambda: load_model(settings))
    uri, card = settings.source, model.card if model is not None else None
    source = found.attempt(lambda: build_source(settings, model) if model else create_source(uri, SourceOptions()))
    if source is not None:
        uri = source.uri
        if settings.drawn is not None:
            found.attempt(lambda: check_drawn(source.live))
        found.attempt(lambda: try_source(source))
    if card is not None:
        task = found.attempt(lambda: task_for(settings, card))
        if task is not None:
            # The task knows labels that the file lacks, such as those of COCO.
            found.attempt(lambda: check_events(settings, task.card))
        found.attempt(lambda: check_drive(settings, card))
    if (command := settings.on_label) is not None:
        found.attempt(lambda: LabelCommandSink(command, events=settings.on_label_when))
    if settings.record is not None:
        found.attempt(lambda: FilmFiles(settings.record))  # type: ignore[arg-type]
    if settings.display == "drm":
        found.attempt(lambda: check_drm(settings.source))
    if outputs:
        _check_outputs(found, settings)
    return f"source {redacted(uri)}, model {card.net} ({card.task}, {len(card.labels)} labels)" if card else ""


def _check_outputs(found: Findings, settings: Settings) -> None:
    log, record = settings.log, settings.record
    if log is not None and is_plain_file(log):
        found.attempt(lambda: _prove(f"cannot write the log {log}", lambda: try_to_write(Path(log))))
    if record is not None:
        folder = expanded(record).parent
        found.attempt(lambda: _prove(f"cannot record to '{record}'", lambda: try_to_create_in(folder)))
    if settings.clip_on:
        what = f"cannot write clips into '{settings.clips}'"
        found.attempt(lambda: _prove(what, lambda: try_to_create_in(settings.clips)))
    if (drawn := settings.drawn) is not None:
        what = f"cannot write drawn pictures into '{drawn}'"
        found.attempt(lambda: _prove(what, lambda: try_to_create_in(drawn)))
    if (drives := settings.record_drive) is not None:
        what = f"cannot record a drive into '{drives}'"
        found.attempt(lambda: _prove(what, lambda: try_to_create_in(drives)))
    if settings.drive is not None:
        found.attempt(lambda: DriveSink(settings.drive).try_open())  # type: ignore[arg-type]


def _prove(what: str, trial: Callable[[], None]) -> None:
    with refusals(what):
        trial()


def try_source(source: Source) -> None:
    """Open and close a source, within bounded time. Raises SourceError."""
    try:
        call_bounded(source.try_open, _SOURCE_S, "source")
    except TimeoutError as error:
        raise SourceLost(f"{redacted(source.uri)} does not answer within {_SOURCE_S:g} s") from error


def refuse_overwriting(cameras: Sequence[Settings]) -> None:
    """Raise SinkError if an output is a source, a model or another output, of any camera."""
    several = len(cameras) > 1
    inputs: list[tuple[str, Path]] = []
    outputs: list[tuple[str, Path]] = []
    for settings in cameras:
        of = f" of {settings.name}" if several else ""
        inputs.append((f"--source{of}", local_path(settings.source)))
        # Loading it reports one that is missing.
        with contextlib.suppress(ModelError):
            inputs.append((f"--model{of}", model_path(settings.model)))
        if settings.record is not None:
            outputs.append((f"--record{of}", settings.record))
        if settings.log is not None and is_plain_file(settings.log):
            outputs.append((f"--log{of}", Path(settings.log)))
        if settings.clip_on:
            outputs.append((f"--clips{of}", settings.clips))
        if settings.drawn is not None:
            outputs.append((f"--drawn{of}", settings.drawn))
        if settings.record_drive is not None:
            outputs.append((f"--record-drive{of}", settings.record_drive))
    for number, (name, path) in enumerate(outputs):
        for other, taken in inputs + outputs[:number]:
            if taken == path or (path.exists() and taken.exists() and path.samefile(taken)):
                raise SinkError(f"{name} {path} is the file of {other}: name another")


def check_events(settings: Settings, card: ModelCard) -> None:
    """Raise SinkError for an event with a label that the model does not have: it would never begin.

    Of regions, which share the options, another one's model may have it; that it is missing in this one is logged.
    """
    for option, events in (("--clip-on", settings.clip_on), ("--on-label-when", settings.on_label_when)):
        labels, comparisons = parse_events(events, option)
        names = {name.partition("@")[0] for name in labels - {"*"}}
        if card.task == "detect":
            names |= {item.name.partition("@")[0] for item in comparisons if not item.is_of_score}
        unknown = sorted(names - {*card.labels})
        if card.task in ("classify", "detect") and unknown:
            close = get_close_matches(unknown[0], card.labels, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(card.labels[:10])}, ..."
            if not settings.region:
                raise SinkError(f"{option}: this model has no label '{unknown[0]}': {hint}")
            log.warning("%s: the model of %s has no label '%s': %s", option, settings.name, unknown[0], hint)


def check_drive(settings: Settings, card: ModelCard) -> None:
    """Raise SinkError if the values of this model cannot drive a car."""
    if settings.drive is not None and card.task != "track":
        what = f"a model that follows a track, such as --model track; this one's task is '{card.task}'"
        raise SinkError(f"--drive needs {what}")


def check_drive_page(cameras: Sequence[Settings]) -> None:
    """Raise SinkError if there is no page, or no car, for `--drive-page`."""
    if cameras[0].drive_page and (cameras[0].web is None or not any(camera.drive for camera in cameras)):
        raise SinkError("--drive-page needs --drive, and --web for the page")


def may_be_pi_camera(source: str) -> bool:
    """Return whether a source is a Pi camera, or may turn out to be one."""
    return source.startswith("picamera://") or (source == "auto" and find_spec("picamera2") is not None)


def check_drm(source: str) -> None:
    """Raise SinkError if a source cannot be shown by `--display drm`."""
    if not may_be_pi_camera(source):
        raise SinkError("--display drm is a Pi camera's own image: give --source picamera://0, or --display kiosk")


def check_drawn(live: bool) -> None:
    """Raise SinkError if the pictures of a source would never end."""
    if live:
        raise SinkError("--drawn is for folders and films, without --realtime; --record makes a film of a camera")
