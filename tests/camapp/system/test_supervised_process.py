"""Tests child processes and their supervision with real processes."""

import os
import signal
import sys
import threading
import time
from itertools import pairwise

import pytest

from camapp.system.supervised_process import ChildProcess, SupervisedProcess

ECHO = """
while packet := parent.recv(100):
    parent.send(packet.upper())
"""


@pytest.fixture
def spawn():
    """Starts a child that runs `code`, with its socket as `parent`; ends it after the test."""
    children = []

    def start(code, **options):
        script = f"import os, socket, sys, time\nparent = socket.socket(fileno=int(sys.argv[5]))\n{code}"
        children.append(ChildProcess("camapp.none", wrapper=(sys.executable, "-c", script), **options))
        return children[-1]

    yield start
    for child in children:
        child.end(0)


def test_a_child_exits_if_the_parent_hangs_up(spawn):
    child = spawn(ECHO)
    child.socket.send(b"hello")
    assert child.wait_readable(20)
    assert child.socket.recv(100) == b"HELLO"
    assert not child.wait_readable(0.01)
    assert child.end(20) == 0
    assert child.exit_reason == "exit code 0"


def test_a_child_that_does_not_exit_is_killed_after_its_grace_period(spawn):
    child = spawn("parent.send(b'ready')\ntime.sleep(60)")
    assert child.wait_readable(20)
    since = time.monotonic()
    assert child.end(0.2) == -signal.SIGKILL
    assert time.monotonic() - since < 5
    assert child.exit_reason == "signal SIGKILL"


def test_the_exit_reason_names_a_signal_without_a_name_by_its_number(spawn):
    child = spawn(f"os.kill(os.getpid(), {signal.SIGRTMIN + 1})")
    assert child.end(20) == -(signal.SIGRTMIN + 1)
    assert child.exit_reason == f"signal {signal.SIGRTMIN + 1}"


def test_the_exit_reason_has_the_last_line_of_stderr_that_is_not_about_fonts(spawn):
    lines = "\\n".join(["x" * 100] * 1000 + ["cannot open display", "no Font found", ""])
    child = spawn(f"sys.stderr.write({lines!r}.replace('\\\\n', chr(10)))\nsys.exit(3)", keep_stderr=True)
    while not child.wait_readable(20):
        pass  # 100 kB do not fit into the pipe: the child ends only because they are read meanwhile
    assert child.socket.recv(100) == b""
    assert child.end(20) == 3
    assert child.exit_reason == "exit code 3: cannot open display"


def test_a_program_that_cannot_be_started_leaves_no_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no-such-program"):
        ChildProcess("camapp.none", wrapper=("/no-such-program",))
    assert len(os.listdir("/proc/self/fd")) == before


class Owner:
    """Supervises a child and records how its children ended."""

    @property
    def is_supervising(self):
        return any(thread.name == "under test" for thread in threading.enumerate())

    def __init__(self, spawn, serve, restart=True, **options):
        self.exits = []
        self.changed = threading.Condition()
        self.restart = restart
        self.process = SupervisedProcess("under test", spawn, serve, self._on_exit, **options)
        self.process.start()

    def _on_exit(self, code, reason):
        with self.changed:
            self.exits.append((time.monotonic(), code, reason))
            self.changed.notify_all()
        return self.restart

    def wait(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.exits) >= count, 30)


def wait_for_end(child):
    while not child.wait_readable(0.1):
        pass


@pytest.mark.slow
def test_the_delay_before_a_restart_doubles_up_to_its_maximum(spawn):
    owner = Owner(lambda: spawn("sys.exit(2)"), wait_for_end, retry_s=0.2, max_retry_s=0.8)
    owner.wait(4)
    owner.process.stop()
    assert not owner.is_supervising
    times, codes, reasons = zip(*owner.exits, strict=True)
    assert set(codes) == {2}
    assert set(reasons) == {"exit code 2"}
    assert [later - earlier > 0.4 for earlier, later in pairwise(times)] == [True] * 3
    assert times[2] - times[1] > 0.8


def test_the_delay_is_short_again_after_a_child_that_worked(spawn):
    def serve(child):
        wait_for_end(child)
        owner.process.reset_delay()

    owner = Owner(lambda: spawn("sys.exit(2)"), serve, retry_s=0.01, max_retry_s=100.0)
    owner.wait(12)  # doubled each time, the delays would sum up to 40 s
    owner.process.stop()


def test_no_child_is_started_again_if_its_owner_says_so(spawn):
    owner = Owner(lambda: spawn("sys.exit(2)"), wait_for_end, restart=False, retry_s=0.01)
    owner.wait(1)
    time.sleep(0.1)
    assert not owner.is_supervising
    assert len(owner.exits) == 1


def test_a_child_that_cannot_be_started_is_tried_again(spawn):
    errors = [OSError("no memory")]
    owner = Owner(lambda: None if not errors else raise_(errors.pop()), wait_for_end, retry_s=0.01)
    owner.wait(1)
    assert owner.exits[0][1:] == (None, "its process cannot be started or reached: no memory")
    time.sleep(0.1)
    assert owner.is_supervising
    assert len(owner.exits) == 1, "None is no failure"
    owner.process.stop()


def raise_(error):
    raise error


def test_stop_ends_the_child_within_its_bound_and_reports_no_exit(spawn):
    owner = Owner(lambda: spawn("time.sleep(60)"), wait_for_end, retry_s=0.01, grace_s=0.3)
    while (child := owner.process.child) is None:
        time.sleep(0.01)
    since = time.monotonic()
    owner.process.stop()
    assert time.monotonic() - since < 3
    assert not owner.is_supervising
    assert owner.exits == []
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_an_error_of_the_owner_ends_the_child_and_not_the_supervision(spawn):
    owner = Owner(lambda: spawn(ECHO), lambda child: raise_(TypeError("no such message")), retry_s=0.01)
    owner.wait(2)
    assert owner.exits[0][1:] == (None, "TypeError: no such message")
    owner.process.stop()
