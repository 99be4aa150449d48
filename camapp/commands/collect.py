"""`camapp collect` saves labelled frames of a source, in a folder for each label, for `python -m weights train`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from camapp.app import common_key
from camapp.capture.source import IMAGE_SUFFIXES
from camapp.core.errors import ExitCode, SettingsError
from camapp.core.keys import COLLECT
from camapp.core.settings import Settings
from camapp.core.zones import Roi, parse_regions
from camapp.pipeline.pipeline import Pipeline
from camapp.remote.interfaces import build_interfaces
from camapp.sinks.snapshot import CollectSink
from camapp.system import displays
from camapp.system.systemd import on_stop_signals
from camapp.tasks.collect import CollectTask, LabelBoard

log = logging.getLogger(__name__)


def run_collect(
    settings: Settings, labels: Sequence[str], folder: Path, every: float | None = None, count: int | None = None
) -> tuple[ExitCode, str]:
    """Run to the end; return the exit code and its reason.

    Args:
        labels: the first is chosen at the start; those that the folder has already are added to them.
        folder: of all labels.
        every: seconds between two images; None saves one when space is pressed.
        count: number of images after which the run ends; None does not end it.
    """
    given = [_checked(label, folder) for label in labels]
    present = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    board = LabelBoard({label: _images_in(folder / label) for label in dict.fromkeys([*given, *present])})
    # No model's findings are drawn, and none are computed.
    pipeline = Pipeline(settings, task=type("BoardTask", (CollectTask,), {"board": board}))
    on_stop_signals(pipeline.request_stop)

    def saved(path: Path) -> None:
        board.saved(path)
        log.info("%s: %d", path.parent.name, board.counts[path.parent.name])
        if count is not None and sink.saved >= count:
            pipeline.request_stop(f"--count {count} is reached")

    def fps() -> float | None:
        return None if pipeline.source.live else pipeline.source.fps

    parts: dict[str, Roi | None] = {region.name: region.roi for region in parse_regions(settings.region)} or {
        "": settings.roi
    }
    sink = CollectSink(lambda: folder / board.label, every, fps, parts, count, saved)
    board.request = sink.request
    pipeline.board = board
    pipeline.add_sink(sink)
    if _has_window(settings):
        _add_window(pipeline, board)
    elif pipeline.source.live and every is None and settings.web is None:
        raise SettingsError("there is no window for the space bar: give --every SECONDS, or --web", usage=True)
    with ExitStack() as stack:
        for interface in build_interfaces([pipeline], lambda name: settings):
            stack.callback(interface.stop)
            interface.start()
        summary = pipeline.run()
    _report(board, given, folder)
    if summary.code is ExitCode.OK and sink.lost:
        return ExitCode.CONFIG, f"{sink.lost} images could not be saved: {sink.reason}"
    return summary.code, summary.reason


def _images_in(home: Path) -> int:
    return sum(1 for file in home.iterdir() if file.suffix in IMAGE_SUFFIXES) if home.is_dir() else 0


def _report(board: LabelBoard, given: Sequence[str], folder: Path) -> None:
    for label in board.labels:
        there = _images_in(folder / label)
        if label in given or board.saved_now[label]:
            log.info("%d images of '%s' saved, %d are in %s now", board.saved_now[label], label, there, folder / label)


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


def _add_window(pipeline: Pipeline, board: LabelBoard) -> None:
    # Imported here, so that --display none loads no window code.
    from camapp.sinks.window import WindowSink

    def on_key(key: str) -> None:
        if key == " ":
            board.request()
        elif key == "q":
            pipeline.request_stop("closed by the user")
        elif key.isdecimal():
            for label in board.labels[max(0, int(key) - 1) : int(key)]:
                board.choose(label)
        else:
            common_key(pipeline, key, COLLECT)

    kiosk = pipeline.settings.display == "kiosk"
    full_screen = pipeline.settings.full_screen or kiosk
    title = "camapp: collect - space saves an image"
    pipeline.add_sink(WindowSink(title, full_screen, on_key, pipeline.renderer.shown, kiosk=kiosk))
