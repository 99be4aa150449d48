"""`camapp run`: a pipeline with the sinks that the settings ask for and this machine can have."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Callable

from camapp import displays
from camapp.capture.source import redacted
from camapp.pipeline import Pipeline, Summary
from camapp.reload import Reloader
from camapp.service import ExitCode, ServiceManager, on_hang_up, on_stop_signals
from camapp.settings import Settings
from camapp.sinks.console import ConsoleSink
from camapp.sinks.log import LogSink
from camapp.sinks.on_label import OnLabelSink
from camapp.sinks.snapshot import SnapshotSink
from camapp.sinks.video import VideoSink
from camapp.watchdog import Watchdog

log = logging.getLogger(__name__)

_JOURNAL_EVERY = 3600.0


def run_live(settings: Settings, reread: Callable[[], Settings]) -> tuple[ExitCode, str]:
    """Run to the end; the exit code, and why in words.

    Args:
        settings: to run with.
        reread: gives them anew when asked to reload.
    """
    manager = ServiceManager()
    manager.notify("STATUS=loading the model")
    pipeline = Pipeline(settings)
    reloader = Reloader(pipeline, reread)
    on_stop_signals(pipeline.request_stop)
    on_hang_up(reloader.request, pipeline.request_stop)
    _add_sinks(pipeline, managed=bool(manager))
    if manager:
        _report_to(manager, pipeline)
    reloader.start()

    def before_stop() -> None:
        reloader.stop()
        manager.notify("STOPPING=1")

    summary = pipeline.run(before_stop)
    manager.notify(f"STATUS=ended: {summary.reason}")
    print(_report(pipeline, summary), file=sys.stderr)
    return summary.code, summary.reason


def _report_to(manager: ServiceManager, pipeline: Pipeline) -> None:
    # An unfed watchdog sends SIGABRT: the journal then shows where every thread was.
    faulthandler.enable()
    # Nobody is there to correct a source that is not found: wait for it as for one that was lost.
    pipeline.capture.first_patience = pipeline.settings.reconnect
    watchdog = Watchdog(manager, pipeline.stats.predictions, pipeline.bounded_step, pipeline.status_line)
    pipeline.each_tick.append(watchdog.tick)


def _add_sinks(pipeline: Pipeline, managed: bool) -> None:
    settings = pipeline.settings
    if settings.log is not None:
        pipeline.prediction_sinks.append(_log_sink(pipeline, settings.log))
    if settings.on_label is not None:
        pipeline.prediction_sinks.append(OnLabelSink(settings.on_label, settings.on_label_every))
    if settings.record is not None:
        rate = lambda: settings.fps or pipeline.source.fps  # noqa: E731
        pipeline.picture_sinks.append(VideoSink(settings.record, rate, pipeline.source.live))
    if _wants_window(settings):
        _add_window(pipeline)
    elif managed:
        # The service manager is told the status anyway, and the journal is to last for months.
        if settings.log is None:
            pipeline.prediction_sinks.append(ConsoleSink(pipeline.status_line, every=_JOURNAL_EVERY))
    elif settings.log != "-":
        pipeline.prediction_sinks.append(ConsoleSink(pipeline.status_line))


def _log_sink(pipeline: Pipeline, target: str) -> LogSink:
    settings = pipeline.settings
    return LogSink(
        target,
        redacted(settings.source),
        pipeline.stats.inference.rate,
        int(settings.log_max_mb * 1e6),
        settings.log_files,
        lambda: pipeline.request_stop("stdout was closed"),
    )


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
    lines = [f"ended after {summary.seconds:.1f} s: {summary.reason}", str(summary.balance)]
    if len(stats.latency["total"]):
        p50, p95, p99 = stats.latency["total"].at(50, 95, 99)
        lines.append(f"latency captured to decoded: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    if pipeline.inference.restarts:
        lines.append(f"workers replaced: {pipeline.inference.restarts}")
    return "\n".join(lines)
