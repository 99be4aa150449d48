"""Commands shared by the remote interfaces, and the queue that runs them."""

import queue
import threading

import pytest

from camapp.remote.commands import CommandDispatcher, CommandQueue, CommandRejected
from engine.model import ModelError
from tests.camapp.remote.web.stand_in import StandIn


@pytest.fixture
def commands():
    """A queue whose commands take until the test releases them."""
    begun, release = queue.SimpleQueue(), threading.Semaphore(0)

    def handle(command):
        begun.put(command)
        release.acquire(timeout=20)

    commands = CommandQueue("commands", handle, 2)
    commands.begun, commands.release = begun, release
    commands.start()
    yield commands
    release.release(9)
    commands.stop()


def test_commands_run_one_by_one_and_only_a_few_wait(commands):
    assert commands.put("a")
    assert commands.begun.get(timeout=20) == "a"
    assert [commands.put(command) for command in "bcd"] == [True, True, False]
    commands.release.release(2)
    assert [commands.begun.get(timeout=20) for _ in "bc"] == ["b", "c"]


def test_stop_discards_the_waiting_commands(commands):
    for command in "abc":
        commands.put(command)
    assert commands.begun.get(timeout=20) == "a"
    ended = threading.Thread(target=commands.stop)
    ended.start()
    assert commands.stopping.wait(20)
    commands.release.release(9)
    ended.join(20)
    assert not ended.is_alive()
    assert commands.begun.empty()


def test_an_idle_queue_stops_at_once_and_one_never_started_too():
    commands = CommandQueue("an idle queue", print, 1)
    commands.start()
    commands.stop()
    assert "an idle queue" not in {thread.name for thread in threading.enumerate()}
    CommandQueue("commands", print, 1).stop()


def test_a_change_that_fails_is_rejected_with_the_reason(tmp_path, monkeypatch):
    camera = StandIn(tmp_path)
    dispatcher = CommandDispatcher([camera], lambda name, path: None)
    assert dispatcher.run("model", "camera", "lenet").text == "model lenet"
    assert camera.settings.model == "lenet"
    with pytest.raises(CommandRejected, match="no such model; there are "):
        dispatcher.run("model", "camera", "../lenet.npz")

    def fail(settings):
        raise ModelError("damaged")

    monkeypatch.setattr(camera, "apply", fail)
    with pytest.raises(CommandRejected, match="not changed: damaged"):
        dispatcher.run("model", "camera", "mnist")
    assert camera.settings.model == "lenet"


def test_sinks_are_added_by_attach_and_not_by_the_constructor(tmp_path):
    camera = StandIn(tmp_path)
    dispatcher = CommandDispatcher([camera], lambda name, path: None)
    assert camera.image_sinks == []
    dispatcher.attach()
    assert camera.image_sinks == [dispatcher.snapshots["camera"]]


def test_a_region_without_a_state_folder_is_used_but_not_kept(tmp_path):
    camera = StandIn(tmp_path)
    result = CommandDispatcher([camera], lambda name, path: None).run("roi", "camera", [0, 0, 0.5, 0.5])
    assert camera.settings.roi == (0, 0, 0.5, 0.5)
    assert not result.values["kept"]
