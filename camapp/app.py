"""Builds a run from settings: a pipeline for each camera, its sinks, the preview and the remote interfaces."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from camapp.capture.shared import SharedCapture
from camapp.capture.source import Source, redacted
from camapp.capture.thread import FIRST_OPEN_S
from camapp.core.errors import ExitCode, SettingsError, SinkError
from camapp.core.keys import RUN, Keys
from camapp.core.models import identity_of
from camapp.core.regions import by_region, group_of_regions
from camapp.core.settings import Settings
from camapp.pipeline.checks import (
    Findings,
    check_drawn,
    check_drive,
    check_drive_page,
    check_drm,
    check_events,
    find_faults,
    may_be_pi_camera,
    refuse_overwriting,
)
from camapp.pipeline.multi_camera import JointManager, MultiCamera
from camapp.pipeline.pipeline import DRAIN_FILE, Pipeline, Summary, default_workers
from camapp.pipeline.recollection import Recollection
from camapp.pipeline.reload import Reloader
from camapp.remote.interfaces import RemoteInterface, build_interfaces, check_interfaces
from camapp.sinks.clips import ClipSink
from camapp.sinks.console import ConsoleSink
from camapp.sinks.drawn import DrawnSink
from camapp.sinks.drive import DriveSink
from camapp.sinks.drive_gate import DriveGate
from camapp.sinks.jsonl_log import LogSink
from camapp.sinks.label_command import LabelCommandSink
from camapp.sinks.log_formats import header
from camapp.sinks.rotating_file import RotatingFile
from camapp.sinks.snapshot import SnapshotSink, raw_name
from camapp.sinks.tub import TubSink
from camapp.sinks.video import RawVideoSink, VideoSink
from camapp.system import displays
from camapp.system.health import HealthMonitor
from camapp.system.state_dir import remembered, state_directory
from camapp.system.systemd import ServiceManager, on_reload_signal, on_stop_signals
from camapp.system.watchdog import Watchdog
from camapp.tasks.task import Task
from camapp.workers.shared_pool import SharedWorkers

if TYPE_CHECKING:
    from camapp.sinks.window import WindowSink

log = logging.getLogger(__name__)

# Displays on which a window of ours opens.
_WINDOWS = (displays.DisplayKind.X11, displays.DisplayKind.KIOSK)
# Seconds between two status lines in the journal.
_JOURNAL_EVERY = 3600.0


def run(settings: Sequence[Settings], reread: Callable[[], list[Settings]]) -> list[Summary]:
    """Run the program until it ends: signals, service manager, preview and summary included.

    Args:
        reread: reads the settings again, for a reload.
    """
    manager = ServiceManager()
    manager.notify("STATUS=loading the model")
    # As a service, wait for a source that is absent at the start as for one that was lost.
    state = state_directory()
    screen = screen_for(settings[0])
    cameras = build_cameras(
        [remembered(camera, state) for camera in by_region(settings)],
        wait_for_source=bool(manager),
        watched=screen in _WINDOWS,
    )

    def reread_one(name: str) -> Settings:
        for camera in by_region(reread()):
            if camera.name == name:
                return remembered(camera, state)
        raise SettingsError(f"the configuration has no camera '{name}' any more")

    reloaders = [Reloader(pipeline, partial(reread_one, pipeline.name)) for pipeline in cameras.pipelines]

    def reload() -> None:
        for reloader in reloaders:
            reloader.request()

    on_stop_signals(cameras.request_stop)
    on_reload_signal(reload, managed=bool(manager))
    windows = add_preview(cameras, screen)
    for pipeline, window in zip(cameras.pipelines, windows, strict=False):
        pipeline.stay_at_end(partial(_may_show, window))
    if not windows:
        _add_console(cameras, manager)
    if manager:
        _add_watchdogs(manager, cameras)

    def before_stop() -> None:
        for reloader in reloaders:
            reloader.stop()
        manager.notify("STOPPING=1")

    interfaces = build_interfaces(cameras.pipelines, reread_one, cameras.gate)
    for reloader in reloaders:
        reloader.start()
    recollections = [Recollection(pipeline, state) for pipeline in cameras.pipelines]
    summaries = run_cameras(cameras, interfaces, before_stop)
    for recollection in recollections:
        recollection.save()
    manager.notify(f"STATUS=ended: {'; '.join(summary.reason for summary in summaries)}")
    for pipeline, summary in zip(cameras.pipelines, summaries, strict=True):
        if summary.balance.captured:
            name = f"{pipeline.name}: " if len(summaries) > 1 else ""
            # The terminal may be gone, which is no reason to fail.
            with suppress(OSError):
                print(name + _report(pipeline, summary), file=sys.stderr)
    return summaries


def build_cameras(
    cameras: Sequence[Settings],
    *,
    source: Source | type[Source] | None = None,
    task: type[Task] | None = None,
    wait_for_source: bool = False,
    drain_file_s: float = DRAIN_FILE,
    watched: bool = False,
) -> MultiCamera:
    """Build a pipeline with its sinks for each camera or region, and start nothing.

    The cores are split between the cameras, or shared if the settings say so. The regions of a camera share its images
    and, if they run the same model, their workers.

    Args:
        source: source to read in place of the one in the settings; for one camera.
        task: class of the task in place of the one of the settings or the model.
        wait_for_source: retry a live source that never opened as long as one that was lost.
        watched: a person looks at it in a window; see `Pipeline`.

    Raises:
        BadModel, SourceError, SinkError: of the first camera that cannot be built.
    """
    refuse_overwriting(cameras)
    check_drive_page(cameras)
    first, several = cameras[0], len(cameras) > 1
    health = HealthMonitor()
    shared = None
    if several and first.share_workers:
        shared = SharedWorkers(first.workers or default_workers(), first.threads)
    elif several and any(camera.region for camera in cameras):
        models = len({identity_of(camera) for camera in cameras})
        shared = SharedWorkers(first.workers or max(1, default_workers() // models), first.threads)
    groups = Counter(map(group_of_regions, cameras))
    images = {group: SharedCapture(members) for group, members in groups.items() if group is not None}
    pipelines = [
        Pipeline(
            camera,
            source=source,
            task=task,
            workers=camera.workers or max(1, default_workers() // len(cameras)),
            shared=shared,
            images=images.get(group_of_regions(camera)),
            health=health,
            first_open_s=camera.reconnect if wait_for_source else FIRST_OPEN_S,
            drain_file_s=drain_file_s,
            watched=watched,
        )
        for camera in cameras
    ]
    built = MultiCamera(pipelines, DriveGate() if first.drive_page else None)
    try:
        for pipeline in pipelines:
            _add_sinks(pipeline, built.gate)
    except SinkError:
        built.discard()
        raise
    return built


def run_cameras(
    cameras: MultiCamera, interfaces: Sequence[RemoteInterface] = (), before_stop: Callable[[], None] = lambda: None
) -> list[Summary]:
    """Run the cameras until all have ended; the interfaces start before them and stop after them.

    Args:
        before_stop: called once when the run is about to stop.

    Raises:
        SinkError, PoolError: something could not be started.
    """
    with ExitStack() as stack:
        try:
            for interface in interfaces:
                stack.callback(interface.stop)
                interface.start()
        except SinkError:
            cameras.discard()
            raise
        return cameras.run(before_stop)


def check(cameras: Sequence[Settings], outputs: bool = True) -> Findings:
    """Try what a start would try, and start nothing; see `find_faults`."""
    return find_faults(by_region(cameras), check_interfaces, outputs)


def _add_watchdogs(manager: ServiceManager, cameras: MultiCamera) -> None:
    # An unfed watchdog sends SIGABRT: the journal then shows where every thread was.
    faulthandler.enable()
    several = len(cameras.pipelines) > 1
    joint = JointManager(manager, lambda name: any(p.name == name and p.ended for p in cameras.pipelines))
    for pipeline in cameras.pipelines:
        watchdog = Watchdog(
            joint.member(pipeline.name) if several else manager,
            partial(_has_started, pipeline),
            pipeline.stats.predictions,
            pipeline.reporter.bounded_step,
            pipeline.reporter.line,
        )
        pipeline.on_tick(watchdog.tick)


def _may_show(window: WindowSink) -> bool:
    return window.may_show


def _has_started(pipeline: Pipeline) -> bool:
    return pipeline.started


def _add_sinks(pipeline: Pipeline, gate: DriveGate | None) -> None:
    """Add the sinks that the settings enable, but for the preview."""
    settings = pipeline.settings
    check_events(settings, pipeline.task.card)
    if settings.log is not None:
        pipeline.add_sink(_log_sink(pipeline, settings.log))
    if settings.on_label is not None:
        command = LabelCommandSink(
            settings.on_label, settings.on_label_every, events=settings.on_label_when, camera=settings.name
        )
        pipeline.add_sink(command)
    if settings.clip_on:
        pipeline.add_sink(_clip_sink(pipeline))
    drive = None
    if settings.drive is not None:
        check_drive(settings, pipeline.model.card)
        drive = DriveSink(settings.drive, gate=gate)
        pipeline.add_sink(drive)
    if settings.record_drive is not None:
        pipeline.add_sink(_tub_sink(pipeline, settings.record_drive, drive))
    if settings.drawn is not None:
        check_drawn(pipeline.source.live)
        pipeline.add_sink(DrawnSink(settings.drawn))
    if settings.record is not None:
        rate = lambda: settings.fps or pipeline.source.fps  # noqa: E731
        pipeline.add_sink(VideoSink(settings.record, rate, pipeline.source.live, settings.name))
        if settings.raw:
            pipeline.add_sink(RawVideoSink(raw_name(settings.record), rate, pipeline.source.live, settings.name))


def _log_sink(pipeline: Pipeline, target: str) -> LogSink:
    settings = pipeline.settings
    closed = "stdout was closed" if target == "-" else f"the reader of the log {target} has ended"
    return LogSink(
        RotatingFile(target, int(settings.log_max_mb * 1e6), settings.log_files, header(target)),
        lambda: {
            "camera": settings.name,
            "source": redacted(pipeline.source.uri),
            "fps": round(pipeline.stats.inference.rate(), 2),
        },
        settings.log_heartbeat if settings.log_on_change else None,
        lambda: pipeline.request_stop(closed),
        blocking=not pipeline.source.live,
        owner=settings.name,
    )


def _tub_sink(pipeline: Pipeline, folder: Path, drive: DriveSink | None) -> TubSink:
    return TubSink(
        folder,
        lambda: pipeline.task.recalled,
        drive.order_of if drive else lambda seq: "",
        blocking=not pipeline.source.live,
        owner=pipeline.settings.name,
    )


def _clip_sink(pipeline: Pipeline) -> ClipSink:
    settings = pipeline.settings
    return ClipSink(
        settings.clips,
        settings.clip_on,
        settings.clip_before,
        settings.clip_after,
        int(settings.clip_budget_mb * 1e6),
        blocking=not pipeline.source.live,
        owner=settings.name,
    )


def add_preview(cameras: MultiCamera, screen: displays.DisplayKind) -> list[WindowSink]:
    """Add the preview on this kind of display; return its windows, one for each camera.

    Raises:
        SinkError: the display cannot be used as requested.
    """
    several = len(cameras.pipelines) > 1
    if screen is displays.DisplayKind.DRM:
        add_drm_display(cameras.pipelines[0])
    if screen not in _WINDOWS:
        return []
    title = "camapp: {}"
    return [
        _add_window(
            pipeline,
            cameras.request_stop,
            title.format(pipeline.name if several else pipeline.model_name),
        )
        for pipeline in cameras.pipelines
    ]


def _add_console(cameras: MultiCamera, manager: ServiceManager) -> None:
    """Print predictions and a status line, unless stdout carries the log."""
    several = len(cameras.pipelines) > 1
    for number, pipeline in enumerate(cameras.pipelines):
        status = None if number else cameras.status_line
        name = pipeline.name if several else ""
        if not manager and pipeline.settings.log != "-":
            pipeline.add_sink(ConsoleSink(status, camera=name))
        elif manager and pipeline.settings.log is None:
            # The service manager receives the status anyway, and the journal has to last for months.
            pipeline.add_sink(ConsoleSink(status, every=_JOURNAL_EVERY, camera=name))


def screen_for(settings: Settings) -> displays.DisplayKind:
    """Return the kind of display for the preview; whether it is connected is checked repeatedly later."""
    if settings.display != "auto":
        wanted = {"window": displays.DisplayKind.X11, "none": displays.DisplayKind.NONE}
        return wanted.get(settings.display) or displays.DisplayKind(settings.display)
    display = displays.probe()
    if display:
        return display.kind
    if may_be_pi_camera(settings.source) and displays.connectors():
        return displays.DisplayKind.DRM
    log.info("%s; predictions are printed here instead", display.reason)
    return displays.DisplayKind.NONE


def add_drm_display(pipeline: Pipeline) -> None:
    """Show the camera's image on the console, under the overlay. Raises SinkError for any other source."""
    from camapp.sinks.drm_display import DrmDisplaySink

    check_drm(pipeline.source.uri)
    hud = lambda: pipeline.reporter.hud() if pipeline.hud_shown else None  # noqa: E731
    sink = DrmDisplaySink(
        *(lambda: pipeline.source.drm_preview, hud, pipeline.stats.stale_after_ms), paused=lambda: pipeline.paused
    )
    pipeline.add_sink(sink)


def common_key(pipeline: Pipeline, key: str, keys: Keys) -> None:
    """Act on a key that all windows have; `keys` are all that this one has."""
    if key == "h":
        pipeline.set_hud(not pipeline.hud_shown)
    elif key == "p":
        pipeline.toggle_pause()
    elif key == "?":
        pipeline.renderer.keys = () if pipeline.renderer.keys else keys


def _add_window(pipeline: Pipeline, request_stop: Callable[[str], None], title: str) -> WindowSink:
    # Imported here, so that --display none loads no window code.
    from camapp.sinks.window import WindowSink

    snapshots = SnapshotSink(pipeline.settings.snapshots, raw=pipeline.settings.raw)

    def on_key(key: str) -> None:
        if key == "q":
            request_stop("closed by the user")
        elif key == "s":
            snapshots.request()
        elif key == " ":
            pipeline.step()
        else:
            common_key(pipeline, key, RUN)

    kiosk = pipeline.settings.display == "kiosk"
    window = WindowSink(title, pipeline.settings.full_screen or kiosk, on_key, pipeline.renderer.shown, kiosk=kiosk)
    pipeline.add_sink(window)
    pipeline.add_sink(snapshots)
    return window


def _report(pipeline: Pipeline, summary: Summary) -> str:
    stats = pipeline.stats
    # The reason of a failure is the error line that follows this report.
    why = f": {summary.reason}" if summary.code is ExitCode.OK else ""
    lines = [f"ended after {summary.seconds:.1f} s{why}", str(summary.balance)]
    if len(stats.latency["total"]):
        p50, p95, p99 = stats.latency["total"].at(50, 95, 99)
        lines.append(f"latency captured to decoded: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    if pipeline.inference.restarts:
        lines.append(f"workers replaced: {pipeline.inference.restarts}")
    return "\n".join(lines)
