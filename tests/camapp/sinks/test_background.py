"""The queue and the thread that most sinks share."""

import sys
import threading
import time

import pytest

from camapp.core.timeouts import stuck_threads
from camapp.sinks.background import BackgroundSink


class Recorder(BackgroundSink[int]):
    """Handles items while `open` is set; an item below zero can be handled at the second attempt only."""

    def __init__(self, capacity=2, **options):
        super().__init__("recorder", capacity, **options)
        self.handled = []
        self.open = threading.Event()
        self.started = threading.Event()

    def _handle(self, item):
        self.started.set()
        self.open.wait(10)
        if item < 0:
            self.requeue(-item)
        else:
            self.handled.append(item)

    def _finish(self):
        self.handled.append("finished")


@pytest.fixture
def start():
    sinks = []

    def start_sink(**options):
        sinks.append(Recorder(**options))
        sinks[-1].start()
        return sinks[-1]

    yield start_sink
    for sink in sinks:
        sink.open.set()
        sink.stop()


def busy(sink):
    """Make the thread wait inside `_handle`."""
    sink.put(0)
    assert sink.started.wait(10)
    return sink


@pytest.mark.parametrize(("newest", "handled"), [(False, [0, 1, 2]), (True, [0, 3, 4])])
def test_a_full_queue_drops_the_new_item_or_the_oldest_one(start, newest, handled):
    sink = busy(start(newest=newest))
    assert [sink.put(item) for item in (1, 2, 3, 4)] == [True, True, False, False]
    sink.open.set()
    sink.stop()
    assert sink.handled == [*handled, "finished"]


def test_a_blocking_put_waits_for_room(start):
    sink = busy(start(blocking=True))
    threading.Timer(0.1, sink.open.set).start()
    assert all(sink.put(item) for item in range(1, 100))
    sink.stop()
    assert sink.handled == [*range(100), "finished"]


def test_a_blocking_put_waits_in_vain_once_and_no_longer_than_its_limit(start):
    sink = busy(start(blocking=True, wait_s=0.2, capacity=1))
    assert sink.put(1)
    began = time.monotonic()
    assert not any(sink.put(item) for item in range(2, 50))
    assert 0.2 <= time.monotonic() - began < 5


def test_stop_ends_a_blocking_put(start):
    sink = busy(start(blocking=True, capacity=1, stop_s=0.0))
    sink.put(1)
    threading.Timer(0.1, sink.stop).start()
    assert not sink.put(2)


def test_an_unexpected_error_costs_its_item_and_no_other(start, caplog):
    sink = busy(start(blocking=True))
    sink.put("not a number")
    sink.open.set()
    assert all(sink.put(item) for item in range(1, 20))
    sink.stop()
    assert sink.handled == [*range(20), "finished"]
    assert sink.lost == 1
    assert caplog.text.count("Recorder failed: TypeError") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_end_of_the_thread_ends_a_blocking_put(start, monkeypatch):
    sink = busy(start(blocking=True, capacity=1))
    monkeypatch.setattr(sink, "_handle", lambda item: sys.exit())
    sink.put(1)
    threading.Timer(0.1, sink.open.set).start()
    while sink.put(2):
        pass
    assert sink.handled == [0, "finished"]


def test_stop_does_not_wait_for_a_handler_that_hangs(start):
    sink = busy(start(stop_s=0.1))
    began = time.monotonic()
    sink.stop()
    assert time.monotonic() - began < 2
    assert sink.running


def test_an_item_that_could_not_be_handled_is_the_next_one(start):
    sink = busy(start())
    sink.put(-1)
    sink.put(2)
    sink.open.set()
    sink.stop()
    assert sink.handled == [0, 1, 2, "finished"]
    assert sink.lost == 0


def test_an_item_that_could_not_be_handled_is_lost_if_the_queue_is_full():
    sink = Recorder(capacity=1)
    sink.put(2)
    sink.requeue(1)
    assert (sink.pending, sink.lost) == (1, 1)


def test_a_closed_sink_refuses_items_and_keeps_the_queued_ones_pending(start):
    sink = busy(start())
    sink.put(1)
    sink.close()
    assert not sink.put(2)
    sink.open.set()
    sink.stop()
    assert sink.handled == [0, "finished"]
    assert sink.pending == 1


def test_items_that_linger_are_handled_together_and_earlier_if_the_queue_is_half_full(start):
    sink = start(capacity=10, linger_s=60.0)
    sink.open.set()
    for item in range(4):
        sink.put(item)
    time.sleep(0.1)
    assert sink.handled == []
    sink.put(4)
    assert sink.started.wait(10)
    sink.stop()
    assert sink.handled == [*range(5), "finished"]


def test_losses_are_counted_and_logged_at_powers_of_two():
    sink = Recorder()
    logged = [number for number in range(1, 20) if sink.lose(f"reason {number}")]
    assert logged == [1, 2, 4, 8, 16]
    assert (sink.lost, sink.reason) == (19, "reason 19")


def test_a_thread_that_does_not_end_is_registered_as_stuck(start):
    sink = busy(start(stop_s=0.05))
    assert "recorder" not in stuck_threads()
    sink.stop()
    assert "recorder" in stuck_threads()
    sink.open.set()
    sink.stop()
    assert "recorder" not in stuck_threads()
