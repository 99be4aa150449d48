"""The notification socket, the watchdog's diet, and the program as a service manager sees it."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camapp.system import systemd
from camapp.system.systemd import JournalFormatter, ServiceManager, is_journal, on_hang_up, on_stop_signals
from camapp.system.watchdog import READY_WITHIN, Watchdog

ROOT = Path(__file__).parents[3]


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(20)
        self.address = address
        self.heard = []

    def wait_for(self, *assignments):
        while not all(any(line.startswith(wanted) for line in self.heard) for wanted in assignments):
            self.heard += self.socket.recv(4096).decode().splitlines()

    def all(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.heard += self.socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return self.heard


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = f"@camapp-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    heard = Manager(address)
    yield heard
    heard.socket.close()


@pytest.fixture
def handlers():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("managed", "terminal", "happens"),
    [(True, False, "reload"), (True, True, "reload"), (False, False, "reload"), (False, True, "SIGHUP")],
)
def test_hanging_up_stops_only_what_a_user_started_at_a_terminal(handlers, monkeypatch, managed, terminal, happens):
    monkeypatch.setattr(systemd, "_has_terminal", lambda: terminal)
    done = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    on_stop_signals(done.append)
    on_hang_up(lambda: done.append("reload"), managed)
    signal.raise_signal(signal.SIGHUP)
    assert done == [happens]


def test_hanging_up_stays_ignored_under_nohup(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_stop_signals(lambda name: None)
    on_hang_up(lambda: None, managed=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_lines_reach_a_path_and_an_abstract_socket(manager):
    environ = {"NOTIFY_SOCKET": manager.address}
    ServiceManager(environ).notify("READY=1", "STATUS=well")
    assert manager.all() == ["READY=1", "STATUS=well"]
    assert environ == {}, "children must not speak in our name"


def test_without_a_manager_nothing_happens():
    nobody = ServiceManager({})
    assert not nobody
    assert nobody.watchdog_s is None
    nobody.notify("READY=1")


def test_a_manager_that_went_away_costs_nothing(tmp_path):
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_limit_is_read_if_it_is_meant_for_us(environ, seconds):
    assert ServiceManager({"NOTIFY_SOCKET": "/run/nobody", **environ}).watchdog_s == seconds


class Run:
    """A run whose clock, predictions and steps a test sets."""

    watchdog_s = 10.0

    def __init__(self):
        self.now, self.count, self.step, self.started = 100.0, 0, "", True
        self.told = []
        self.watchdog = Watchdog(
            self, lambda: self.started, lambda: self.count, lambda: self.step, lambda: "fine", lambda: self.now
        )

    def notify(self, *lines):
        self.told += lines

    def go(self, seconds, frames=0):
        """Let time pass in ticks; what was said meanwhile."""
        self.told = []
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.count += frames
            self.watchdog.tick()
        return self.told


def test_frames_that_come_out_feed_it_and_it_is_fed_no_more_often_than_needed():
    run = Run()
    assert 9 <= run.go(10, frames=1).count("WATCHDOG=1") <= 11


def test_it_starves_when_nothing_comes_out_and_says_so_once(caplog):
    run = Run()
    run.go(1, frames=1)
    assert "WATCHDOG=1" not in run.go(20)
    assert [record.getMessage() for record in caplog.records if "no frame has come through" in record.getMessage()] == [
        "no frame has come through for 5 s: the service manager will restart this"
    ]
    assert "WATCHDOG=1" in run.go(1, frames=1)


def test_a_bounded_step_feeds_it_and_only_while_it_lasts():
    run = Run()
    run.step = "no image: unplugged"
    assert run.go(60).count("WATCHDOG=1") > 50
    run.step = ""
    assert "WATCHDOG=1" not in run.go(20)


def test_ready_comes_with_the_first_prediction_once():
    run = Run()
    run.step = "starting workers"
    assert "READY=1" not in run.go(5)
    assert run.go(5, frames=1).count("READY=1") == 1
    assert "READY=1" not in run.go(20, frames=1)


def test_without_a_prediction_it_is_ready_after_a_bounded_time_and_says_what_it_waits_for():
    run = Run()
    run.step = "no image: unplugged"
    told = run.go(READY_WITHIN + 1)
    assert told.count("READY=1") == 1
    assert "STATUS=no image: unplugged: fine" in told


def test_workers_that_take_long_to_start_feed_it_and_are_waited_for():
    run = Run()
    run.started, run.step = False, "starting workers"
    told = run.go(READY_WITHIN + 5)
    assert told.count("WATCHDOG=1") > 10
    assert "READY=1" not in told
    assert "STATUS=starting workers: fine" in told
    run.started, run.step = True, "no image: opening the source"
    assert run.go(1).count("READY=1") == 1


def test_workers_that_do_not_start_in_their_time_starve_it():
    run = Run()
    run.started, run.step = False, "starting workers"
    run.go(5)
    run.step = ""
    assert "WATCHDOG=1" not in run.go(20)
    assert "READY=1" not in run.told


def test_the_program_reports_ready_is_fed_and_says_that_it_stops(manager):
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}
    command = [sys.executable, "-m", "camapp", "--source", "pattern://digits?size=320x240", "--log", "-"]
    command += ["--on-label", "sh -c 'echo NOTIFY=$NOTIFY_SOCKET >&2'"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        manager.wait_for("READY=1", "WATCHDOG=1", "STATUS=camera")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "STOPPING=1" in manager.all()
    assert b"NOTIFY=/" not in errors
    assert b"NOTIFY=@" not in errors


@pytest.mark.slow
def test_a_stopped_worker_is_no_reason_to_starve_and_a_stopped_run_is(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}
    command = [sys.executable, "-m", "camapp", "--source", "pattern://digits?size=320x240", "--log", "-"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        manager.wait_for("READY=1")
        lists = Path(f"/proc/{process.pid}/task").glob("*/children")
        (worker, *_) = [int(child) for children in lists for child in children.read_text().split()]
        os.kill(worker, signal.SIGSTOP)
        manager.all()
        manager.heard.clear()
        manager.socket.settimeout(1.9)  # a longer silence would be the end of the run
        until = time.monotonic() + 4
        while time.monotonic() < until:
            manager.socket.recv(4096)
        process.send_signal(signal.SIGSTOP)
        manager.all()
        manager.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            manager.socket.recv(4096)
        process.kill()


def test_the_journal_gets_priorities_and_no_clock(tmp_path):
    record = logging.makeLogRecord({"levelno": logging.WARNING, "msg": "no image:\nunplugged"})
    assert JournalFormatter().format(record) == "<4>no image: | unplugged"
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        try:
            assert is_journal(stream.fileno())
            assert not is_journal(0)
        finally:
            del os.environ["JOURNAL_STREAM"]
