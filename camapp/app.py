"""`camapp run`: a pipeline for each camera, with the sinks that the settings ask for and this machine can have."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from camapp.capture.source import local_path, redacted, scheme_of
from camapp.core.errors import ExitCode, SettingsError, SinkError
from camapp.core.models import load_model, model_path
from camapp.core.settings import Settings
from camapp.pipeline.multi_camera import JointManager, MultiCamera, build
from camapp.pipeline.pipeline import Pipeline, Summary, build_source
from camapp.pipeline.reload import Reloader
from camapp.remote.interfaces import build_interfaces, check_interfaces
from camapp.sinks.clips import ClipSink, parse_events
from camapp.sinks.console import ConsoleSink
from camapp.sinks.drive import DriveSink
from camapp.sinks.jsonl_log import ChangeFilter, LogSink
from camapp.sinks.label_command import LabelCommandSink
from camapp.sinks.rotating_file import RotatingFile
from camapp.sinks.snapshot import SnapshotSink
from camapp.sinks.video import VideoSink
from camapp.system import displays
from camapp.system.state_dir import remembered, state_directory
from camapp.system.systemd import ServiceManager, on_reload_signal, on_stop_signals
from camapp.system.watchdog import Watchdog
from camapp.tasks.task import task_for
from engine.model_card import ModelCard

log = logging.getLogger(__name__)

_JOURNAL_EVERY = 3600.0


def run_live(settings: Sequence[Settings], reread: Callable[[], list[Settings]]) -> list[Summary]:
    """Run to the end.

    Args:
        settings: to run with, of each camera.
        reread: gives them anew when asked to reload.

    Returns:
        how each camera's run ended.
    """
    manager = ServiceManager()
    manager.notify("STATUS=loading the model")
    _refuse_overwriting(settings)
    state = state_directory()
    cameras = MultiCamera(build([remembered(camera, state) for camera in settings]))

    def reread_one(name: str) -> Settings:
        return remembered(_of(name, reread), state)

    reloaders = [Reloader(pipeline, partial(reread_one, pipeline.name)) for pipeline in cameras.pipelines]

    def reload() -> None:
        for reloader in reloaders:
            reloader.request()

    on_stop_signals(cameras.request_stop)
    on_reload_signal(reload, managed=bool(manager))
    for pipeline in cameras.pipelines:
        _add_sinks(pipeline)
    _add_preview(cameras, manager)
    if manager:
        _report_to(manager, cameras)
    faces = build_interfaces(cameras.pipelines, reread_one)
    for reloader in reloaders:
        reloader.start()

    def before_stop() -> None:
        for reloader in reloaders:
            reloader.stop()
        manager.notify("STOPPING=1")

    with ExitStack() as stack:
        for face in faces:
            stack.callback(face.stop)
            face.start()
        summaries = cameras.run(before_stop)
    manager.notify(f"STATUS=ended: {'; '.join(summary.reason for summary in summaries)}")
    for pipeline, summary in zip(cameras.pipelines, summaries, strict=True):
        if summary.balance.captured:
            name = f"{pipeline.name}: " if len(summaries) > 1 else ""
            print(name + _report(pipeline, summary), file=sys.stderr)
    return summaries


def check(cameras: Sequence[Settings]) -> str:
    """Build everything the settings name and start nothing; says in words what it would be.

    Raises:
        ModelError, BadSource, SinkError: something cannot be used.
    """
    _refuse_overwriting(cameras)
    check_interfaces(cameras[0])
    return "; ".join(_check(settings) for settings in cameras)


def _check(settings: Settings) -> str:
    model = load_model(settings)
    task_for(settings, model.card)
    source = build_source(settings, model)
    if settings.clip_on:
        _check_clip_labels(settings, model.card)
    if settings.record is not None:
        VideoSink(settings.record, lambda: 0.0)
    if settings.on_label is not None:
        LabelCommandSink(settings.on_label)
    card = model.card
    return f"source {redacted(source.uri)}, model {card.net} ({card.task}, {len(card.labels)} labels)"


def _of(name: str, reread: Callable[[], list[Settings]]) -> Settings:
    """The settings of one camera, anew. Raises SettingsError."""
    for settings in reread():
        if settings.name == name:
            return settings
    raise SettingsError(f"the configuration has no camera '{name}' any more")


def _report_to(manager: ServiceManager, cameras: MultiCamera) -> None:
    # An unfed watchdog sends SIGABRT: the journal then shows where every thread was.
    faulthandler.enable()
    several = len(cameras.pipelines) > 1
    joint = JointManager(manager, lambda name: any(p.name == name and p.ended for p in cameras.pipelines))
    for pipeline in cameras.pipelines:
        # Nobody is there to correct a source that is not found: wait for it as for one that was lost.
        pipeline.capture.first_open_s = pipeline.settings.reconnect
        told = joint.member(pipeline.name) if several else manager
        watchdog = Watchdog(
            told,
            partial(_has_started, pipeline),
            pipeline.stats.predictions,
            pipeline.bounded_step,
            pipeline.status_line,
        )
        pipeline.on_tick(watchdog.tick)


def _add_sinks(pipeline: Pipeline) -> None:
    settings = pipeline.settings
    if settings.log is not None:
        pipeline.add_sink(_log_sink(pipeline, settings.log))
    if settings.on_label is not None:
        pipeline.add_sink(LabelCommandSink(settings.on_label, settings.on_label_every))
    if settings.clip_on:
        pipeline.add_sink(_clip_sink(pipeline))
    if settings.drive is not None:
        pipeline.add_sink(_drive_sink(settings.drive, pipeline.model.card.task))
    if settings.record is not None:
        rate = lambda: settings.fps or pipeline.source.fps  # noqa: E731
        pipeline.add_sink(VideoSink(settings.record, rate, pipeline.source.live))


def _refuse_overwriting(cameras: Sequence[Settings]) -> None:
    """No output may be a source, a model or another output, of any camera."""
    several = len(cameras) > 1
    inputs: list[tuple[str, Path]] = []
    outputs: list[tuple[str, Path]] = []
    for settings in cameras:
        of = f" of {settings.name}" if several else ""
        inputs += [
            (f"--source{of}", local_path(settings.source)),
            (f"--model{of}", model_path(settings.model)),
        ]
        if settings.record is not None:
            outputs.append((f"--record{of}", settings.record))
        if settings.log not in (None, "-"):
            outputs.append((f"--log{of}", Path(settings.log)))
        if settings.clip_on:
            outputs.append((f"--clips{of}", settings.clips))
    for number, (name, path) in enumerate(outputs):
        for other, taken in inputs + outputs[:number]:
            if taken == path or (path.exists() and taken.exists() and path.samefile(taken)):
                raise SinkError(f"{name} {path} is the file of {other}: name another")


def _log_sink(pipeline: Pipeline, target: str) -> LogSink:
    settings = pipeline.settings
    return LogSink(
        RotatingFile(target, int(settings.log_max_mb * 1e6), settings.log_files),
        lambda: {
            "camera": settings.name,
            "source": redacted(pipeline.source.uri),
            "fps": round(pipeline.stats.inference.rate(), 2),
        },
        ChangeFilter(settings.log_heartbeat) if settings.log_on_change else None,
        lambda: pipeline.request_stop("stdout was closed"),
        blocking=not pipeline.source.live,
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
        blocking=not pipeline.source.live,
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


def _add_preview(cameras: MultiCamera, manager: ServiceManager) -> None:
    """A window for each camera where there is a display, else words."""
    several = len(cameras.pipelines) > 1
    screen = _screen_for(cameras.pipelines[0].settings)
    if screen is displays.DisplayKind.DRM:
        _add_native(cameras.pipelines[0])
    if screen in (displays.DisplayKind.X11, displays.DisplayKind.KIOSK):
        for pipeline in cameras.pipelines:
            _add_window(pipeline, cameras.request_stop, f"camapp: {pipeline.name if several else _net_of(pipeline)}")
        return
    for number, pipeline in enumerate(cameras.pipelines):
        status = None if number else cameras.status_line
        name = pipeline.name if several else ""
        if not manager and pipeline.settings.log != "-":
            pipeline.add_sink(ConsoleSink(status, camera=name))
        elif manager and pipeline.settings.log is None:
            # The service manager is told the status anyway, and the journal is to last for months.
            pipeline.add_sink(ConsoleSink(status, every=_JOURNAL_EVERY, camera=name))


def _net_of(pipeline: Pipeline) -> str:
    return pipeline.model.card.net


def _has_started(pipeline: Pipeline) -> bool:
    return pipeline.started


def _screen_for(settings: Settings) -> displays.DisplayKind:
    """What to show the preview on; whether it is there now is another question, asked again and again."""
    if settings.display != "auto":
        wanted = {"window": displays.DisplayKind.X11, "none": displays.DisplayKind.NONE}
        return wanted.get(settings.display) or displays.DisplayKind(settings.display)
    display = displays.probe()
    if display:
        return display.kind
    if _may_be_pi_camera(settings.source) and displays.connectors():
        return displays.DisplayKind.DRM
    log.info("%s; predictions are printed here instead", display.reason)
    return displays.DisplayKind.NONE


def _may_be_pi_camera(source: str) -> bool:
    scheme = scheme_of(source)
    return scheme == "picamera" or (scheme == "auto" and find_spec("picamera2") is not None)


def _add_native(pipeline: Pipeline) -> None:
    from camapp.sinks.drm_display import DrmDisplaySink

    if not _may_be_pi_camera(pipeline.source.uri):
        raise SinkError("--display drm is a Pi camera's own image: give --source picamera://0, or --display kiosk")
    sink = DrmDisplaySink(
        lambda: pipeline.source.drm_preview,
        lambda: pipeline.hud() if pipeline.hud_shown else None,
        pipeline.stats.stale_after_ms,
    )
    pipeline.add_sink(sink)


def _add_window(pipeline: Pipeline, request_stop: Callable[[str], None], title: str) -> None:
    from camapp.sinks.window import WindowSink  # only here: --display none loads no window code

    snapshots = SnapshotSink(pipeline.settings.snapshots)

    def on_key(key: str) -> None:
        if key == "q":
            request_stop("closed by the user")
        elif key == "s":
            snapshots.request()
        elif key == "h":
            pipeline.set_hud(not pipeline.hud_shown)
        elif key == "p":
            pipeline.toggle_pause()

    kiosk = pipeline.settings.display == "kiosk"
    window = WindowSink(title, pipeline.settings.full_screen or kiosk, on_key, pipeline.renderer.shown, kiosk=kiosk)
    pipeline.add_sink(window)
    pipeline.add_sink(snapshots)


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
