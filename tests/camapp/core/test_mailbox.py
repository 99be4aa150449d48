import threading
import time

from camapp.core.mailbox import Mailbox


def test_a_newer_item_replaces_an_older_one_and_returns_it():
    box = Mailbox()
    assert box.replace("a") is None
    assert box.replace("b") == "a"
    assert box.get(0) == "b"
    assert box.get(0) is None


def test_put_waits_for_the_reader():
    box = Mailbox()
    assert box.put(1, 0.1)
    assert not box.put(2, 0.02)
    threading.Timer(0.05, box.get, (0,)).start()
    assert box.put(2, 2.0)
    assert box.get(0) == 2


def test_get_returns_as_soon_as_an_item_arrives():
    box = Mailbox()
    threading.Timer(0.05, box.replace, ("x",)).start()
    start = time.monotonic()
    assert box.get(5.0) == "x"
    assert time.monotonic() - start < 4.0


def test_close_wakes_waiting_threads_and_returns_the_remaining_item():
    box = Mailbox()
    box.replace(1)
    assert box.close() == 1
    assert box.replace(2) == 2
    assert not box.put(3, 0)
    start = time.monotonic()
    assert box.get(5.0) is None
    assert time.monotonic() - start < 4.0
