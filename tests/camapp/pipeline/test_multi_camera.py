"""Several cameras in one run, with real workers: one that fails, ends or hangs does not affect the others."""

import threading
import time

import pytest

from camapp.app import build_cameras
from camapp.capture.thread import CaptureState
from camapp.core.errors import ExitCode, PermanentSourceError, SinkError, SourceLost
from camapp.core.settings import load_settings
from camapp.core.status import State
from camapp.pipeline.multi_camera import JointManager
from camapp.sinks.sink import ImageSink
from tests.camapp.scripted import ScriptedSource


@pytest.fixture
def cameras(monkeypatch):
    def make(sources, **settings):
        monkeypatch.setattr("camapp.capture.source.create_source", lambda uri, options: sources[uri])
        return build_cameras(
            [load_settings({"source": uri, "name": uri, **settings}, environment={}) for uri in sources]
        )

    return make


def run(cameras, before_stop=lambda: None):
    """Run in a thread, so that a test may act meanwhile; return a function that waits for the summaries."""
    found = []
    thread = threading.Thread(target=lambda: found.extend(cameras.run(before_stop)), daemon=True)
    thread.start()

    def result():
        thread.join(30)
        assert not thread.is_alive(), "the run did not end within its limit"
        return found

    return result


@pytest.mark.parametrize("share", [False, True])
def test_each_camera_predicts_all_its_frames(cameras, share):
    sources = {"a": ScriptedSource(40, live=False), "b": ScriptedSource(25, live=False)}
    stops = []
    summaries = run(cameras(sources, share_workers=share), lambda: stops.append(1))()
    assert [summary.balance.predicted for summary in summaries] == [40, 25]
    assert all(summary.balance.is_conserved and summary.code is ExitCode.OK for summary in summaries)
    assert stops == [1]


def test_a_camera_that_fails_for_good_leaves_the_other_running(cameras, caplog):
    broken = ScriptedSource(5, live=True)
    broken.script = [3, PermanentSourceError("the cable is cut")]
    both = cameras({"broken": broken, "well": ScriptedSource(100_000, live=True, interval=0.01)})
    assert both.pipelines[0].health is both.pipelines[1].health, "one machine has one monitor"
    result = run(both)
    deadline = time.monotonic() + 20
    while "the other cameras continue" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = both.pipelines[1].stats.predictions()
    while both.pipelines[1].stats.predictions() < before + 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    both.request_stop("the test is over")
    first, second = result()
    assert (first.code, second.code) == (ExitCode.SOURCE_GONE, ExitCode.OK)
    assert "the cable is cut" in first.reason
    assert "camera broken has failed" in caplog.text


@pytest.mark.slow
def test_a_camera_that_is_away_too_long_is_retried_as_long_as_another_works(cameras, caplog):
    away = ScriptedSource(5, live=True)
    well = ScriptedSource(100_000, live=True, interval=0.01)
    away.script = [3, *[SourceLost("unplugged")] * 4, 3, *[SourceLost("unplugged again")] * 500]
    both = cameras({"away": away, "well": well}, reconnect=0.2)
    result = run(both)
    lost, working = both.pipelines
    deadline = time.monotonic() + 30
    while lost.stats.balance().captured < 6 or lost.status().state is not State.NO_SIGNAL:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    # Longer than --reconnect: still tried, and said.
    assert lost.capture.status.state is CaptureState.LOST
    assert (lost.status().state, lost.status().reason) == (State.NO_SIGNAL, "unplugged again")
    assert "has failed" not in caplog.text
    working.request_stop("this one ends")
    # Now nothing works any more.
    first, second = result()
    assert (first.code, second.code) == (ExitCode.SOURCE_GONE, ExitCode.OK)
    assert "unplugged again (gave up after" in first.reason


def test_a_sink_that_cannot_start_ends_all_cameras_with_its_error(cameras):
    class Impossible(ImageSink):
        def start(self):
            raise SinkError("no such screen")

        def show(self, canvas, trace):
            raise AssertionError("never started")

    both = cameras({"a": ScriptedSource(100_000, live=True, interval=0.01), "b": ScriptedSource(9, live=True)})
    both.pipelines[1].add_sink(Impossible())
    with pytest.raises(SinkError, match="no such screen"):
        both.run()


class RecordingManager:
    watchdog_s = 10.0

    def __init__(self):
        self.lines = []

    def notify(self, *lines):
        self.lines += lines


def test_the_service_manager_is_notified_only_once_all_running_cameras_have_notified():
    manager, ended = RecordingManager(), set()
    joint = JointManager(manager, ended.__contains__)
    a, b = joint.member("a"), joint.member("b")
    a.notify("READY=1")
    a.notify("WATCHDOG=1")
    assert manager.lines == []
    b.notify("READY=1")
    b.notify("STATUS=30 fps")
    assert manager.lines == ["READY=1", "STATUS=b: 30 fps"]
    b.notify("WATCHDOG=1")
    assert manager.lines[-1] == "WATCHDOG=1"
    b.notify("WATCHDOG=1")
    assert manager.lines.count("WATCHDOG=1") == 1, "a has not notified since"
    ended.add("a")
    b.notify("WATCHDOG=1")
    assert manager.lines.count("WATCHDOG=1") == 2
