"""`camapp run`: a pipeline with the sinks that the settings ask for and this machine can have."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from camapp import displays
from camapp.capture.source import local_path, redacted
from camapp.models import load_model, model_path
from camapp.pipeline import Pipeline, Summary, build_source
from camapp.reload import Reloader
from camapp.service import ExitCode, ServiceManager, on_hang_up, on_stop_signals
from camapp.settings import Settings
from camapp.sinks.clips import ClipSink, parse_events
from camapp.sinks.console import ConsoleSink
from camapp.sinks.drive import DriveSink
from camapp.sinks.log import LogSink
from camapp.sinks.on_label import OnLabelSink
from camapp.sinks.sink import SinkError
from camapp.sinks.snapshot import SnapshotSink
from camapp.sinks.video import VideoSink
from camapp.tasks.task import task_for
from camapp.watchdog import Watchdog
from engine.card import ModelCard

log = logging.getLogger(__name__)

_JOURNAL_EVERY = 3600.0


def run_live(settings: Settings, reread: Callable[[], Settings]) -> Summary:
    """Run to the end.

    Args:
        settings: to run with.
        reread: gives them anew when asked to reload.
    """
    manager = ServiceManager()
    manager.notify("STATUS=loading the model")
    pipeline = Pipeline(settings)
    reloader = Reloader(pipeline, reread)
    on_stop_signals(pipeline.request_stop)
    on_hang_up(reloader.request, managed=bool(manager))
    _add_sinks(pipeline)
    if _wants_window(settings):
        _add_window(pipeline)
    elif not manager and settings.log != "-":
        pipeline.prediction_sinks.append(ConsoleSink(pipeline.status_line))
    elif manager and settings.log is None:
        # The service manager is told the status anyway, and the journal is to last for months.
        pipeline.prediction_sinks.append(ConsoleSink(pipeline.status_line, every=_JOURNAL_EVERY))
    if manager:
        _report_to(manager, pipeline)
    reloader.start()

    def before_stop() -> None:
        reloader.stop()
        manager.notify("STOPPING=1")

    summary = pipeline.run(before_stop)
    manager.notify(f"STATUS=ended: {summary.reason}")
    if summary.balance.captured:
        print(_report(pipeline, summary), file=sys.stderr)
    return summary


def check(settings: Settings) -> str:
    """Build everything the settings name and start nothing; says in words what it would be.

    Raises:
        ModelError, BadSource, SinkError: something cannot be used.
    """
    model = load_model(settings)
    task_for(settings, model.card)
    source = build_source(settings, model)
    _refuse_overwriting(settings)
    if settings.clip_on:
        _check_clip_labels(settings, model.card)
    if settings.record is not None:
        VideoSink(settings.record, lambda: 0.0)
    if settings.on_label is not None:
        OnLabelSink(settings.on_label)
    card = model.card
    return f"source {redacted(source.uri)}, model {card.net} ({card.task}, {len(card.labels)} labels)"


def _report_to(manager: ServiceManager, pipeline: Pipeline) -> None:
    # An unfed watchdog sends SIGABRT: the journal then shows where every thread was.
    faulthandler.enable()
    # Nobody is there to correct a source that is not found: wait for it as for one that was lost.
    pipeline.capture.first_patience = pipeline.settings.reconnect
    watchdog = Watchdog(manager, pipeline.stats.predictions, pipeline.bounded_step, pipeline.status_line)
    pipeline.each_tick.append(watchdog.tick)


def _add_sinks(pipeline: Pipeline) -> None:
    settings = pipeline.settings
    _refuse_overwriting(settings)
    if settings.log is not None:
        pipeline.prediction_sinks.append(_log_sink(pipeline, settings.log))
    if settings.on_label is not None:
        pipeline.prediction_sinks.append(OnLabelSink(settings.on_label, settings.on_label_every))
    if settings.clip_on:
        pipeline.prediction_sinks.append(_clip_sink(pipeline))
    if settings.drive is not None:
        pipeline.prediction_sinks.append(_drive_sink(settings.drive, pipeline.model.card.task))
    if settings.record is not None:
        rate = lambda: settings.fps or pipeline.source.fps  # noqa: E731
        pipeline.picture_sinks.append(VideoSink(settings.record, rate, pipeline.source.live))


def _refuse_overwriting(settings: Settings) -> None:
    """No output may be the source, the model or another output."""
    files = {"--source": local_path(settings.source), "--model": model_path(settings.model)}
    outputs = {"--record": settings.record, "--log": Path(settings.log) if settings.log not in (None, "-") else None}
    for name, path in outputs.items():
        if path is None:
            continue
        for other, taken in files.items():
            if path.exists() and taken.exists() and path.samefile(taken):
                raise SinkError(f"{name} {path} is the file of {other}: name another")
        files[name] = path


def _log_sink(pipeline: Pipeline, target: str) -> LogSink:
    settings = pipeline.settings
    return LogSink(
        target,
        lambda: redacted(pipeline.source.uri),
        pipeline.stats.inference.rate,
        int(settings.log_max_mb * 1e6),
        settings.log_files,
        lambda: pipeline.request_stop("stdout was closed"),
        patient=not pipeline.source.live,
        heartbeat=settings.log_heartbeat if settings.log_on_change else None,
    )


def _clip_sink(pipeline: Pipeline) -> ClipSink:
    settings = pipeline.settings
    _check_clip_labels(settings, pipeline.model.card)
    return ClipSink(
        settings.clips,
        settings.clip_on,
        settings.clip_before,
        settings.clip_after,
        int(settings.clip_budget_mb * 1e6),
        patient=not pipeline.source.live,
    )


def _check_clip_labels(settings: Settings, card: ModelCard) -> None:
    """A misspelt label would never come. Raises SinkError."""
    labels, _ = parse_events(settings.clip_on)
    unknown = sorted(labels - {"*", *card.labels})
    if card.task == "classify" and unknown:
        close = get_close_matches(unknown[0], card.labels, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(card.labels[:10])}, ..."
        raise SinkError(f"--clip-on: this model has no label '{unknown[0]}': {hint}")


def _drive_sink(uri: str, task: str) -> DriveSink:
    if task != "track":
        raise SinkError(
            f"--drive needs a model that follows a track, such as --model track; this one's task is '{task}'"
        )
    return DriveSink(uri)


def _wants_window(settings: Settings) -> bool:
    if settings.display != "auto":
        return settings.display != "none"
    display = displays.probe()
    if not display:
        log.info("%s; predictions are printed here instead", display.reason)
    return bool(display)


def _add_window(pipeline: Pipeline) -> None:
    from camapp.sinks.window import WindowSink  # only here: --display none loads no window code

    snapshots = SnapshotSink(pipeline.settings.snapshots)

    def on_key(key: str) -> None:
        if key == "q":
            pipeline.request_stop("closed by the user")
        elif key == "s":
            snapshots.request()
        elif key == "h":
            pipeline.renderer.show_hud = not pipeline.renderer.show_hud
        elif key == "p":
            pipeline.toggle_pause()

    title = f"camapp: {pipeline.inference.generation.model.card.net}"
    kiosk = pipeline.settings.display == "kiosk"
    window = WindowSink(title, pipeline.settings.full_screen or kiosk, on_key, pipeline.renderer.shown, kiosk=kiosk)
    pipeline.picture_sinks += [window, snapshots]


def _report(pipeline: Pipeline, summary: Summary) -> str:
    stats = pipeline.stats
    # A failure's reason is the error line that follows this.
    why = f": {summary.reason}" if summary.code is ExitCode.OK else ""
    lines = [f"ended after {summary.seconds:.1f} s{why}", str(summary.balance)]
    if len(stats.latency["total"]):
        p50, p95, p99 = stats.latency["total"].at(50, 95, 99)
        lines.append(f"latency captured to decoded: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    if pipeline.inference.restarts:
        lines.append(f"workers replaced: {pipeline.inference.restarts}")
    return "\n".join(lines)
