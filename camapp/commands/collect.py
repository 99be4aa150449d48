"""`camapp collect` saves labelled frames of a source, in a folder for each label, for `python -m weights train`."""

from __future__ import annotations

import logging
from pathlib import Path

from camapp.app import common_key
from camapp.capture.source import IMAGE_SUFFIXES
from camapp.core.errors import ExitCode, SettingsError
from camapp.core.keys import COLLECT
from camapp.core.settings import Settings
from camapp.core.zones import Roi, parse_regions
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.snapshot import CollectSink
from camapp.system import displays
from camapp.system.systemd import on_stop_signals

log = logging.getLogger(__name__)


def run_collect(
    settings: Settings, label: str, folder: Path, every: float | None = None, count: int | None = None
) -> tuple[ExitCode, str]:
    """Run to the end; return the exit code and its reason.

    Args:
        folder: of all labels.
        every: seconds between two images; None saves one when space is pressed.
        count: number of images after which the run ends; None does not end it.
    """
    home = folder / _checked(label, folder)
    pipeline = Pipeline(settings)
    on_stop_signals(pipeline.request_stop)

    def saved(number: int) -> None:
        log.info("%s: %d", label, number)
        if count is not None and number >= count:
            pipeline.request_stop(f"--count {number} is reached")

    def fps() -> float | None:
        return None if pipeline.source.live else pipeline.source.fps

    parts: dict[str, Roi | None] = {region.name: region.roi for region in parse_regions(settings.region)} or {
        "": settings.roi
    }
    sink = CollectSink(home, every, fps, parts, count, saved)
    pipeline.add_sink(sink)
    if _has_window(settings):
        _add_window(pipeline, sink, label)
    elif pipeline.source.live and every is None:
        raise SettingsError("there is no window for the space bar: give --every SECONDS", usage=True)
    summary = pipeline.run()
    there = sum(1 for file in home.iterdir() if file.suffix in IMAGE_SUFFIXES) if home.exists() else 0
    log.info("%d images of '%s' saved, %d are in %s now", sink.saved, label, there, home)
    if summary.code is ExitCode.OK and sink.lost:
        return ExitCode.CONFIG, f"{sink.lost} images could not be saved: {sink.reason}"
    return summary.code, summary.reason


def _checked(label: str, folder: Path) -> str:
    """Return the label.

    Raises:
        SettingsError: it cannot be the name of a folder, or differs from an existing one only in case.
    """
    if not label.strip() or label != label.strip() or label.startswith(".") or "/" in label or not label.isprintable():
        raise SettingsError(f"--label {label!r}: a label is the name of a folder, such as cup", usage=True)
    others = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for other in others:
        if other != label and other.casefold() == label.casefold():
            raise SettingsError(f"--label {label}: {folder} has '{other}', which differs only in case", usage=True)
    return label


def _has_window(settings: Settings) -> bool:
    return settings.display in ("window", "kiosk") or (settings.display == "auto" and bool(displays.probe()))


def _add_window(pipeline: Pipeline, sink: CollectSink, label: str) -> None:
    # Imported here, so that --display none loads no window code.
    from camapp.sinks.window import WindowSink

    def on_key(key: str) -> None:
        if key == " ":
            sink.request()
        elif key == "q":
            pipeline.request_stop("closed by the user")
        else:
            common_key(pipeline, key, COLLECT)

    title = f"camapp: {label} - space saves an image"
    kiosk = pipeline.settings.display == "kiosk"
    full_screen = pipeline.settings.full_screen or kiosk
    pipeline.add_sink(WindowSink(title, full_screen, on_key, pipeline.renderer.shown, kiosk=kiosk))
