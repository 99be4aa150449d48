"""What any face may order, and the clerk who obeys."""

import queue
import threading

import pytest

from camapp.remote.commands import CommandQueue, CommandRejected, RemoteControl
from engine.model import ModelError
from tests.camapp.remote.web.stand_in import StandIn


@pytest.fixture
def desk():
    """A clerk whose every order takes until it is let go."""
    begun, let_go = queue.SimpleQueue(), threading.Semaphore(0)

    def obey(order):
        begun.put(order)
        let_go.acquire(timeout=20)

    clerk = CommandQueue("clerk", obey, 2)
    clerk.begun, clerk.let_go = begun, let_go
    clerk.start()
    yield clerk
    let_go.release(9)
    clerk.stop()


def test_orders_are_obeyed_one_by_one_and_only_a_few_may_wait(desk):
    assert desk.take("a")
    assert desk.begun.get(timeout=20) == "a"
    assert [desk.take(order) for order in "bcd"] == [True, True, False]
    desk.let_go.release(2)
    assert [desk.begun.get(timeout=20) for _ in "bc"] == ["b", "c"]


def test_a_clerk_who_stops_leaves_what_waits(desk):
    for order in "abc":
        desk.take(order)
    assert desk.begun.get(timeout=20) == "a"
    ended = threading.Thread(target=desk.stop)
    ended.start()
    assert desk.stopping.wait(20)
    desk.let_go.release(9)
    ended.join(20)
    assert not ended.is_alive()
    assert desk.begun.empty()


def test_one_with_nothing_to_do_stops_at_once_and_one_never_started_too():
    clerk = CommandQueue("clerk", print, 1)
    clerk.start()
    clerk.stop()
    assert not clerk._thread.is_alive()
    CommandQueue("clerk", print, 1).stop()


def test_a_change_that_fails_is_refused_and_says_why(tmp_path, monkeypatch):
    camera = StandIn(tmp_path)
    steering = RemoteControl([camera], lambda name, path: None)
    steering.choose_model(camera, "lenet")
    assert camera.settings.model == "lenet"
    with pytest.raises(CommandRejected, match="no such model; there are "):
        steering.choose_model(camera, "../lenet.npz")

    def fail(settings):
        raise ModelError("damaged")

    monkeypatch.setattr(camera, "apply", fail)
    with pytest.raises(CommandRejected, match="not changed: damaged"):
        steering.choose_model(camera, "mnist")
    assert camera.settings.model == "lenet"
