"""Calls that hang are bounded, and do not keep the process from ending."""

import subprocess
import sys
import threading
import time

import pytest

from camapp.core.timeouts import call_bounded, exit_process, stuck_threads


def test_a_call_that_ends_in_time_leaves_no_thread_behind():
    done = []
    call_bounded(lambda: done.append(1), 5.0, "quick")
    assert done == [1]
    assert "quick" not in stuck_threads()


@pytest.mark.parametrize("error", [ValueError("bad"), TimeoutError("its own")])
def test_the_error_of_the_call_is_raised(error):
    def fail():
        raise error

    with pytest.raises(type(error), match=str(error)):
        call_bounded(fail, 5.0, "failing")
    assert "failing" not in stuck_threads()


def test_a_call_that_hangs_is_registered_until_it_ends():
    release = threading.Event()
    with pytest.raises(TimeoutError):
        call_bounded(release.wait, 0.05, "hanging")
    assert "hanging" in stuck_threads()
    release.set()
    deadline = time.monotonic() + 5
    while "hanging" in stuck_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_stuck_thread_the_process_ends_by_system_exit(monkeypatch):
    monkeypatch.setattr("camapp.core.timeouts.stuck_threads", list)
    with pytest.raises(SystemExit) as end:
        exit_process(70)
    assert end.value.code == 70


@pytest.mark.parametrize(("code", "expected"), [("70", 70), ("None", 0), ("'message'", 1)])
def test_with_a_stuck_thread_the_process_ends_at_once(code, expected):
    program = (
        "import atexit, contextlib, time; from camapp.core.timeouts import call_bounded, exit_process\n"
        "atexit.register(time.sleep, 100)\n"
        "with contextlib.suppress(TimeoutError): call_bounded(lambda: time.sleep(100), 0.05, 'driver')\n"
        f"exit_process({code})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == expected
    assert "ending although driver hangs" in done.stderr


def test_the_process_ends_although_a_stuck_thread_holds_stdout():
    program = (
        "import contextlib, sys; from camapp.core.timeouts import call_bounded, exit_process\n"
        "write = lambda: sys.stdout.buffer.write(bytes(1 << 20))\n"
        "with contextlib.suppress(TimeoutError): call_bounded(write, 0.5, 'console')\n"
        "exit_process(70)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # Nothing reads stdout, whose pipe is full.
        assert process.wait(30) == 70
        assert process.stderr is not None
        assert "ending although console hangs" in process.stderr.read()
