import queue
import threading
import time

import pytest

from camapp.capture.source import SourceOptions
from camapp.capture.thread import CaptureState, CaptureThread
from camapp.core.errors import PermanentSourceError, SourceLost
from camapp.core.stats import Stats
from tests.camapp.scripted import ScriptedSource


def run(source, **options):
    stats, frames = Stats(), []

    def deliver(frame, trace):
        frames.append(frame)
        stats.dropped(trace, "test")

    thread = CaptureThread(source, stats, deliver, **options)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert stats.balance().is_conserved
    return thread, frames


def test_frames_are_numbered_without_gaps_and_the_end_is_clean():
    source = ScriptedSource(5)
    thread, frames = run(source)
    assert [frame.seq for frame in frames] == [0, 1, 2, 3, 4]
    assert thread.status.state is CaptureState.ENDED
    assert source.closed == 1


def test_max_frames_ends_the_run():
    thread, frames = run(ScriptedSource(100), max_frames=3)
    assert len(frames) == 3
    assert thread.status.state is CaptureState.ENDED


def test_a_lost_live_source_is_closed_and_opened_again():
    source = ScriptedSource(2, SourceLost("cable"), 3)
    source_states = []
    source.script.insert(2, lambda: source_states.append(source.opened))
    _, frames = run(source)
    assert [frame.seq for frame in frames] == [0, 1, 2, 3, 4]
    assert source_states == [2]
    assert source.closed == 2


def test_a_live_source_that_stays_lost_fails_with_its_reason_after_the_reconnect_time():
    source = ScriptedSource(1, *[SourceLost("unplugged")] * 50)
    thread, _ = run(source, reconnect_s=0.3)
    assert thread.status.state is CaptureState.FAILED
    assert "unplugged" in thread.status.reason
    assert "gave up" in thread.status.reason


def test_a_file_that_is_lost_is_not_retried():
    source = ScriptedSource(1, SourceLost("truncated"), 5, live=False)
    thread, frames = run(source)
    assert len(frames) == 1
    assert thread.status.state is CaptureState.FAILED
    assert source.opened == 1


def test_a_permanent_error_ends_at_once():
    source = ScriptedSource(1)
    source.open_errors = [PermanentSourceError("no such file")]
    thread, _ = run(source)
    assert thread.status.state is CaptureState.FAILED
    assert isinstance(thread.status.error, PermanentSourceError)


def test_an_unexpected_error_in_a_source_ends_the_thread_with_its_name():
    thread, _ = run(ScriptedSource(1, ZeroDivisionError("oops")))
    assert thread.status.state is CaptureState.FAILED
    assert "ZeroDivisionError: oops" in thread.status.reason


def test_the_status_is_lost_while_the_source_is_lost():
    seen = threading.Event()
    source = ScriptedSource(1, SourceLost("no signal"))
    source.open_errors = []
    thread = CaptureThread(source, Stats(), lambda frame, trace: None, reconnect_s=5)

    def look():
        if thread.status.state is CaptureState.LOST and thread.status.reason == "no signal":
            seen.set()

    source.script.append(look)
    thread.start()
    thread.join(5)
    assert seen.is_set()


def test_frames_of_a_paused_live_source_are_counted_as_paused():
    stats = Stats()
    source = ScriptedSource(5)
    thread = CaptureThread(source, stats, lambda frame, trace: pytest.fail("delivered while paused"))
    thread.paused.set()
    thread.start()
    thread.join(5)
    assert stats.balance().dropped == {"paused": 5}


@pytest.mark.parametrize("live", [True, False])
def test_a_file_waits_during_a_pause_and_steps_by_single_frames(live):
    source, arrived = ScriptedSource(5, live=live), queue.Queue()
    source.finite, source.resumed = True, 0

    def resume():
        source.resumed += 1

    source.resume = resume
    stats = Stats()
    thread = CaptureThread(source, stats, lambda frame, trace: arrived.put(frame.seq))
    thread.paused.set()
    thread.start()
    for seq in range(2):
        with pytest.raises(queue.Empty):
            arrived.get(timeout=0.12)
        thread.step()
        assert arrived.get(timeout=5) == seq
    thread.paused.clear()
    thread.join(5)
    assert [arrived.get_nowait() for _ in range(3)] == [2, 3, 4]
    assert source.resumed == 3
    assert stats.balance().dropped == {}
    assert thread.at_end


def test_a_step_lets_one_frame_of_a_paused_camera_pass():
    source, seqs = ScriptedSource(3), []
    thread = CaptureThread(source, Stats(), lambda frame, trace: seqs.append(frame.seq))
    source.script += [thread.paused.set, 2, thread.step, 3, thread.paused.clear, 1]
    thread.start()
    thread.join(5)
    assert seqs == [0, 1, 2, 5, 8]


def test_a_limit_is_no_end_of_the_file():
    thread, _ = run(ScriptedSource(5), max_frames=3)
    assert not thread.at_end


def test_stop_ends_a_reconnecting_thread_soon():
    source = ScriptedSource(1, *[SourceLost("away")] * 1000)
    thread = CaptureThread(source, Stats(), lambda frame, trace: None)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    thread.stop()
    thread.join(5)
    assert time.monotonic() - started < 2.0


def test_orientation_is_applied_to_image_and_size():
    source = ScriptedSource(1, size=(64, 48), options=SourceOptions(rotate=90, hflip=True))
    _, frames = run(source)
    assert frames[0].view.size == (48, 64)


@pytest.mark.parametrize(("given", "expected"), [(0.7, 0.7), (None, 10.0)])
def test_the_setting_of_the_read_timeout_is_the_wait_for_a_frame(given, expected):
    source = ScriptedSource(1, options=SourceOptions(read_timeout=given))
    assert CaptureThread(source, Stats(), lambda frame, trace: None).read_limit.seconds() == expected
