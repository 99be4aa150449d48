"""The whole way of a frame with real worker processes: every frame is counted, in all failures."""

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import pytest

from camapp.core import timeouts
from camapp.core.errors import ExitCode, PermanentSourceError, SourceLost
from camapp.core.settings import load_settings
from camapp.core.status import State
from camapp.pipeline.pipeline import Pipeline
from camapp.sinks.sink import ImageSink, PredictionSink
from camapp.sinks.snapshot import SnapshotSink, raw_name
from camapp.sinks.video import RawVideoSink, VideoSink
from camapp.workers.pool import WorkerPool
from camapp.workers.supervision import PoolLimits
from engine import nets
from engine.model import Model
from tests.camapp.scripted import ScriptedSource


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(3)
    graph = nets.build("cifar10")
    graph = graph.bind({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in graph.parameters.items()})
    return Model(nets.default_card("cifar10"), graph)


class Keep(PredictionSink):
    def __init__(self):
        self.seqs = []
        self.predictions = []

    def accept(self, prediction, frame, trace):
        assert prediction.seq == frame.seq == trace.seq
        self.seqs.append(prediction.seq)
        self.predictions.append(prediction)


class KeepImages(ImageSink):
    def __init__(self):
        self.shown = []

    def show(self, canvas, trace):
        self.shown.append((canvas.copy(), trace))


@pytest.fixture
def build(model):
    def build_pipeline(source, images=None, before=None, **settings):
        pipeline = Pipeline(load_settings({"workers": 1, **settings}, environment={}), model, source=source)
        keep = Keep()
        for sink in (before, keep, images):
            if sink is not None:
                pipeline.add_sink(sink)
        return pipeline, keep

    return build_pipeline


def check(summary):
    assert summary.balance.is_conserved, str(summary.balance)
    assert summary.balance.in_flight == 0, str(summary.balance)


def test_every_frame_of_a_file_is_predicted_in_order(build):
    pipeline, keep = build(ScriptedSource(60, live=False), workers=2)
    summary = pipeline.run()
    check(summary)
    assert summary.code is ExitCode.OK
    assert keep.seqs == list(range(60))
    assert summary.balance.predicted == 60


def test_the_load_of_the_workers_is_said_from_the_first_prediction_on(build):
    pipeline, _ = build(ScriptedSource(60, live=False, interval=0.01))
    said = [pipeline.reporter.line()]
    pipeline.on_tick(lambda: said.append(pipeline.reporter.line()))
    pipeline.run()
    first = next(line for line in said if "starting" not in line)
    assert "workers starting" in said[0]
    assert "busy" not in said[0]
    assert "workers 0% busy" not in first


def test_the_status_has_the_state_of_the_run_and_can_be_written_as_json(build):
    pipeline, _ = build(ScriptedSource(20, live=False, size=(160, 120)), name="door")
    assert pipeline.status().state is State.STARTING
    pipeline.pause()
    assert pipeline.status().state is State.PAUSED
    pipeline.resume()
    pipeline.run()
    status = pipeline.status()
    assert (status.camera, status.state, status.reason, status.size) == (
        "door",
        State.ENDED,
        "end of stream",
        (160, 120),
    )
    record = json.loads(json.dumps(status.record()))
    assert record["balance"]["predicted"] == 20
    assert record["prediction"]["seq"] == 19
    assert 0 < record["latency_ms"]["total"]["p50"] <= record["latency_ms"]["total"]["p99"]


def test_every_frame_of_a_file_is_drawn_with_its_own_prediction(build):
    images = KeepImages()
    pipeline, _ = build(ScriptedSource(20, live=False, size=(160, 120)), images)
    pipeline.run()
    assert [trace.seq for _, trace in images.shown] == list(range(20))
    assert images.shown[0][0].shape == (120, 160, 3)


def test_too_frequent_live_frames_are_dropped_by_reason_and_the_order_is_kept(build):
    pipeline, keep = build(ScriptedSource(300, live=True))
    summary = pipeline.run()
    check(summary)
    assert summary.balance.dropped.get("newer frame", 0) > 0
    assert keep.seqs == sorted(set(keep.seqs))
    assert summary.balance.predicted == len(keep.seqs)


def test_two_killed_workers_lose_at_most_their_frames(build):
    pipeline, keep = build(ScriptedSource(400, live=False, interval=0.002), workers=2)
    killed = []

    def kill():
        for _ in range(2):
            time.sleep(0.25)
            pid = pipeline.inference.pool.processes()[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    summary = pipeline.run()
    killer.join()
    check(summary)
    assert len(killed) == 2
    assert summary.code is ExitCode.OK
    assert pipeline.inference.pool.restarts == 2
    assert summary.balance.predicted >= 398
    assert sum(summary.balance.failed.values()) == 400 - summary.balance.predicted
    assert set(summary.balance.failed) <= {"worker died"}
    assert keep.seqs == sorted(set(keep.seqs))


def test_a_read_that_hangs_does_not_delay_the_stop_and_is_registered_for_the_exit(build):
    released, stops = threading.Event(), []

    def hang():
        stops.append(time.monotonic())
        pipeline.request_stop("the test")
        released.wait(30)

    source = ScriptedSource(5, hang, 1, live=True, interval=0.01)
    pipeline, _ = build(source)
    try:
        check(pipeline.run())
        assert time.monotonic() - stops[0] < 10  # two seconds on an idle machine
        assert "capture" in timeouts.stuck_threads()
    finally:
        released.set()
        pipeline.capture.join(5)
    assert "capture" not in timeouts.stuck_threads()


def test_a_stopped_worker_does_not_stop_live_predictions(build, monkeypatch):
    monkeypatch.setattr(
        "camapp.pipeline.model_swap.WorkerPool", partial(WorkerPool, limits=PoolLimits(min_stuck_s=0.6))
    )
    source = ScriptedSource(60, live=True, interval=0.01)
    pipeline, keep = build(source, workers=2)
    source.script += [lambda: os.kill(pipeline.inference.pool.processes()[0], signal.SIGSTOP), 140]
    summary = pipeline.run()
    check(summary)
    assert pipeline.inference.pool.restarts == 1
    assert summary.balance.failed == {"worker hung": 1}
    assert summary.balance.predicted > 100
    assert keep.seqs == sorted(set(keep.seqs))


def test_when_no_worker_stays_alive_the_run_ends_with_70(build):
    source = ScriptedSource(10, live=True, interval=0.01)
    pipeline, _ = build(source, workers=1)

    def kill_all():
        for pid in pipeline.inference.pool.processes():
            os.kill(pid, signal.SIGKILL)

    for _ in range(1000):
        source.script += [kill_all, 2]
    summary = pipeline.run()
    check(summary)
    assert summary.code is ExitCode.INTERNAL
    assert "workers lost" in summary.reason


def test_an_image_that_cannot_be_prepared_fails_alone(build, monkeypatch, caplog):
    pipeline, keep = build(ScriptedSource(20, live=False))
    prepare = pipeline.task.prepare

    def sometimes(frame, batch):
        if frame.seq in (3, 4):
            raise ValueError(f"poison in frame {frame.seq}")
        return prepare(frame, batch)

    monkeypatch.setattr(pipeline.task, "prepare", sometimes)
    summary = pipeline.run()
    check(summary)
    assert summary.balance.failed == {"prepare": 2}
    assert caplog.text.count("poison") == 1
    assert keep.seqs == [seq for seq in range(20) if seq not in (3, 4)]


def test_a_result_that_cannot_be_decoded_fails_alone(build, monkeypatch):
    pipeline, keep = build(ScriptedSource(20, live=False))
    decode = pipeline.task.decode

    def sometimes(frame, *rest):
        if frame.seq == 7:
            raise ValueError("poison")
        return decode(frame, *rest)

    monkeypatch.setattr(pipeline.task, "decode", sometimes)
    summary = pipeline.run()
    check(summary)
    assert summary.balance.failed == {"decode": 1}
    assert 7 not in keep.seqs
    assert len(keep.seqs) == 19


def test_the_frame_size_may_change_during_a_run(build):
    source = ScriptedSource(3, live=False, size=(64, 48))
    source.script += [lambda: setattr(source, "size", (31, 77)), 3]
    images = KeepImages()
    pipeline, keep = build(source, images)
    check(pipeline.run())
    assert len(keep.seqs) == 6
    assert {canvas.shape[:2] for canvas, _ in images.shown} == {(48, 64), (77, 31)}


def test_a_run_continues_after_a_lost_source_and_shows_no_signal_meanwhile(build):
    source = ScriptedSource(5, SourceLost("cable out"), 5, live=True, interval=0.02)
    source.open_errors = []
    opened = source.open

    def open_slowly():
        opened()
        if source.opened in (2, 3):
            raise SourceLost("cable out")
        time.sleep(0.8 if source.opened == 4 else 0)

    source.open = open_slowly
    images = KeepImages()
    pipeline, _ = build(source, images)
    summary = pipeline.run()
    check(summary)
    assert summary.balance.captured == 10
    assert any(trace is None for _, trace in images.shown)


def test_a_permanently_lost_source_ends_the_run_with_69_and_its_reason(build):
    pipeline, _ = build(ScriptedSource(2, PermanentSourceError("unplugged"), live=True))
    summary = pipeline.run()
    check(summary)
    assert summary.code is ExitCode.SOURCE_GONE
    assert summary.reason == "unplugged"


def test_a_requested_stop_is_prompt_and_every_frame_is_counted(build):
    pipeline, _ = build(ScriptedSource(100_000, live=True, interval=0.005), KeepImages(), workers=2)
    threading.Timer(0.5, pipeline.request_stop, ("SIGTERM",)).start()
    started = time.monotonic()
    summary = pipeline.run()
    assert time.monotonic() - started < 4.0
    check(summary)
    assert summary.reason == "SIGTERM"


def test_a_stop_while_a_worker_hangs_is_bounded(build):
    pipeline, _ = build(ScriptedSource(100_000, live=False, interval=0.001))

    def hang_then_stop():
        os.kill(pipeline.inference.pool.processes()[0], signal.SIGSTOP)
        time.sleep(0.2)
        pipeline.request_stop("SIGTERM")

    threading.Timer(0.5, hang_then_stop).start()
    started = time.monotonic()
    summary = pipeline.run()
    assert time.monotonic() - started < 6.0
    check(summary)


def test_pause_holds_predictions_and_counts_the_frames(build):
    source = ScriptedSource(20, live=True, interval=0.01)
    pipeline, keep = build(source)
    source.script += [pipeline.toggle_pause, 20, pipeline.toggle_pause, 20]
    summary = pipeline.run()
    check(summary)
    assert summary.balance.dropped["paused"] == 20
    assert not set(keep.seqs) & set(range(20, 40))
    assert keep.seqs[-1] > 50


@pytest.mark.parametrize("live", [True, False])
def test_the_last_picture_of_a_file_stays_while_it_is_watched(build, live):
    images = KeepImages()
    source = ScriptedSource(5, live=live, interval=0.02)
    source.finite = True
    pipeline, keep = build(source, images)
    watched = [True]
    pipeline.stay_at_end(lambda: watched[0])
    run = threading.Thread(target=lambda: check(pipeline.run()))
    run.start()
    eventually(lambda: pipeline.capture.at_end and not pipeline.stats.in_flight())
    # It is drawn again, for the keys that change what is drawn.
    drawn = len(images.shown)
    eventually(lambda: len(images.shown) >= drawn + 2)
    assert {trace.seq for _, trace in images.shown[drawn:]} == {4}
    watched[0] = False
    run.join(5)
    assert not run.is_alive()
    assert keep.seqs[-1] == 4


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_snapshots_and_recordings_exist_without_the_drawing_too(build, tmp_path):
    source = ScriptedSource(12, live=False, size=(320, 240))
    pipeline, _ = build(source)
    rate = lambda: 10.0  # noqa: E731
    films = [VideoSink(tmp_path / "a.avi", rate, False), RawVideoSink(raw_name(tmp_path / "a.avi"), rate, False)]
    snapshots = SnapshotSink(tmp_path / "shots", raw=True)
    for sink in (*films, snapshots):
        pipeline.add_sink(sink)
    snapshots.request()
    check(pipeline.run())
    raw, drawn = sorted((tmp_path / "shots").iterdir(), key=lambda path: "-raw" not in path.name)
    assert raw.name == drawn.name.replace(".png", "-raw.png")
    assert (cv2.imread(str(raw)) == source.level).all()
    assert (cv2.imread(str(drawn)) != source.level).any()
    for name, is_plain in (("a.avi", False), ("a-raw.avi", True)):
        film = cv2.VideoCapture(str(tmp_path / name))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 12
        assert (abs(film.read()[1].astype(int) - source.level).max() < 8) == is_plain


def test_an_image_sink_that_raises_ends_neither_predictions_nor_the_images_of_others(build, caplog):
    class Broken(ImageSink):
        def show(self, canvas, trace):
            raise OSError(f"no paint for {trace.seq}")

    others = KeepImages()
    pipeline, keep = build(ScriptedSource(10, live=False), before=Broken(), images=others)
    check(pipeline.run())
    assert len(keep.seqs) == len(others.shown) == 10
    assert caplog.text.count("Broken failed: OSError: no paint for 0") == caplog.text.count("no paint") == 1


def test_a_sink_may_be_a_dataclass_which_has_no_hash(build):
    @dataclass
    class Fails(PredictionSink):
        calls: int = 0

        def accept(self, prediction, frame, trace):
            self.calls += 1
            raise ValueError("no luck")

    sink = Fails()
    pipeline, keep = build(ScriptedSource(5, live=False), before=sink)
    check(pipeline.run())
    assert (sink.calls, len(keep.seqs)) == (5, 5)


def test_a_sink_that_cannot_be_stopped_does_not_keep_others_from_being_stopped(build, caplog):
    class Stops(KeepImages):
        stopped = False

        def stop(self):
            self.stopped = True

    class Stuck(KeepImages):
        def stop(self):
            raise RuntimeError("no end")

    pipeline, _ = build(ScriptedSource(3, live=False), before=(first := Stops()), images=Stuck())
    summary = pipeline.run()
    check(summary)
    assert (summary.code, first.stopped) == (ExitCode.OK, True)
    assert "Stuck failed: RuntimeError: no end" in caplog.text


def test_duration_ends_the_run(build):
    pipeline, _ = build(ScriptedSource(100_000, live=True, interval=0.01), duration="0.3")
    summary = pipeline.run()
    check(summary)
    assert summary.seconds < 30  # includes the start of the workers
    assert "--duration 0.3 s" in summary.reason


@pytest.mark.slow
def test_a_stalled_encoder_does_not_hang_the_stop(build):
    release = threading.Event()

    class Stalled(ImageSink):
        def show(self, canvas, trace):
            if trace.seq >= 5:
                release.wait(30)

    pipeline, _ = build(ScriptedSource(10_000, live=False, interval=0.001))
    pipeline.add_sink(Stalled())
    threading.Timer(1.0, pipeline.request_stop, ("SIGTERM",)).start()
    started = time.monotonic()
    summary = pipeline.run()
    release.set()
    assert time.monotonic() - started < 8.0
    assert summary.balance.is_conserved


def test_a_prediction_sink_that_raises_is_logged_once_and_does_not_end_predictions(build, caplog):
    class Broken(PredictionSink):
        def accept(self, prediction, frame, trace):
            raise OSError("no ink")

    pipeline, keep = build(ScriptedSource(10, live=False), before=Broken())
    check(pipeline.run())
    assert len(keep.seqs) == 10
    assert caplog.text.count("no ink") == 1


def test_an_error_that_ends_the_preparing_thread_ends_the_run_with_its_name(build, monkeypatch):
    pipeline, _ = build(ScriptedSource(100_000, live=True, interval=0.005))
    monkeypatch.setattr(pipeline.inference.pool, "acquire", lambda timeout: 1 / 0)
    summary = pipeline.run()
    assert summary.code is ExitCode.INTERNAL
    assert "ZeroDivisionError" in summary.reason


def test_a_stop_ends_the_wait_for_the_first_worker(build):
    pipeline, _ = build(ScriptedSource(10, live=True))
    # Ticks come every 50 ms, while a worker needs several of them to start.
    pipeline.on_tick(lambda: [os.kill(pid, signal.SIGSTOP) for pid in pipeline.inference.pool.processes()])
    threading.Timer(0.5, pipeline.request_stop, ("SIGTERM",)).start()
    started = time.monotonic()
    summary = pipeline.run()
    assert time.monotonic() - started < 4.0
    assert summary.code is ExitCode.OK


def test_filters_use_the_time_of_the_image_and_are_reset_for_stills(build):
    class Stills(ScriptedSource):
        def read(self, timeout):
            return replace(super().read(timeout), still=True)

    class Film(ScriptedSource):
        def read(self, timeout):
            return replace(super().read(timeout), moment_ns=(self.read_count() - 1) * 40_000_000)

        def read_count(self):
            self.count = getattr(self, "count", 0) + 1
            return self.count

    for source, resets in ((Stills(4, live=False), 4), (Film(4, live=False), 0)):
        pipeline, _ = build(source)
        seen = {"resets": 0, "times": []}
        reset, decode = pipeline.task.reset, pipeline.task.decode
        pipeline.task.reset = lambda: (seen.__setitem__("resets", seen["resets"] + 1), reset())  # noqa: B023
        pipeline.task.decode = lambda *args: (seen["times"].append(args[-1]), decode(*args))[1]  # noqa: B023
        check(pipeline.run())
        assert seen["resets"] == resets
        if not resets:
            assert seen["times"] == [0, 40_000_000, 80_000_000, 120_000_000]


def test_while_workers_start_the_run_is_in_a_bounded_step_and_ticks(build, monkeypatch):
    pipeline, _ = build(ScriptedSource(3, live=False))
    steps = []
    pipeline.on_tick(lambda: steps.append((pipeline.started, pipeline.reporter.bounded_step())))
    # No limit applies to a source that has not started.
    monkeypatch.setattr(pipeline.capture, "is_within_limits", lambda: False)
    pipeline.run()
    assert (False, "starting workers") in steps
    assert pipeline.started


def test_no_image_is_drawn_for_a_sink_that_wants_none(build):
    class Idle(KeepImages):
        def wanted(self):
            return False

    idle = Idle()
    pipeline, keep = build(ScriptedSource(20, live=False), idle)
    pipeline.run()
    assert idle.shown == []
    assert len(keep.seqs) == 20
