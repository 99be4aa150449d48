"""Tests the notification socket, the watchdog, and the program under a service manager."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camapp.system.systemd import JournalFormatter, ServiceManager, is_journal, on_reload_signal, on_stop_signals
from camapp.system.watchdog import READY_WITHIN, Watchdog

ROOT = Path(__file__).parents[3]


class Manager:
    """Receives what is sent to NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(20)
        self.address = address
        self.received = []

    def wait_for(self, *assignments):
        while not all(any(line.startswith(wanted) for line in self.received) for wanted in assignments):
            self.received += self.socket.recv(4096).decode().splitlines()

    def all(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.received += self.socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return self.received


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = f"@camapp-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    manager = Manager(address)
    yield manager
    manager.socket.close()


@pytest.fixture
def handlers():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("managed", "terminal", "effect"),
    [(True, False, "reload"), (True, True, "reload"), (False, False, "reload"), (False, True, "SIGHUP")],
)
def test_sighup_stops_only_a_run_that_was_started_at_a_terminal(handlers, managed, terminal, effect):
    done = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    on_stop_signals(done.append)
    on_reload_signal(lambda: done.append("reload"), managed, lambda: terminal)
    signal.raise_signal(signal.SIGHUP)
    assert done == [effect]


def test_sighup_stays_ignored_under_nohup(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_stop_signals(lambda name: None)
    on_reload_signal(lambda: None, managed=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_lines_reach_a_path_and_an_abstract_socket(manager):
    environ = {"NOTIFY_SOCKET": manager.address}
    ServiceManager(environ).notify("READY=1", "STATUS=fine")
    assert manager.all() == ["READY=1", "STATUS=fine"]
    assert environ == {}, "children must not send messages as this process"


def test_without_a_manager_nothing_happens():
    manager = ServiceManager({})
    assert not manager
    assert manager.watchdog_s is None
    manager.notify("READY=1")


def test_a_missing_manager_is_ignored(tmp_path):
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
def test_the_watchdogs_limit_is_read_if_it_is_for_this_process(environ, seconds):
    assert ServiceManager({"NOTIFY_SOCKET": "/run/none", **environ}).watchdog_s == seconds


class Run:
    """A run whose clock, predictions and steps a test sets."""

    watchdog_s = 10.0

    def __init__(self):
        self.now, self.count, self.step, self.started = 100.0, 0, "", True
        self.sent = []
        self.watchdog = Watchdog(
            self, lambda: self.started, lambda: self.count, lambda: self.step, lambda: "fine", lambda: self.now
        )

    def notify(self, *lines):
        self.sent += lines

    def go(self, seconds, frames=0):
        """Let time pass in ticks; return the lines that were sent meanwhile."""
        self.sent = []
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.count += frames
            self.watchdog.tick()
        return self.sent


def test_predictions_feed_the_watchdog_no_more_often_than_needed():
    run = Run()
    assert 9 <= run.go(10, frames=1).count("WATCHDOG=1") <= 11


def test_without_predictions_it_is_not_fed_and_logs_one_error(caplog):
    run = Run()
    run.go(1, frames=1)
    assert "WATCHDOG=1" not in run.go(20)
    assert [record.getMessage() for record in caplog.records if "no frame has come through" in record.getMessage()] == [
        "no frame has come through for 5 s: the service manager will restart this"
    ]
    assert "WATCHDOG=1" in run.go(1, frames=1)


def test_a_bounded_step_feeds_it_only_while_it_lasts():
    run = Run()
    run.step = "no image: unplugged"
    assert run.go(60).count("WATCHDOG=1") > 50
    run.step = ""
    assert "WATCHDOG=1" not in run.go(20)


def test_ready_is_sent_once_with_the_first_prediction():
    run = Run()
    run.step = "starting workers"
    assert "READY=1" not in run.go(5)
    assert run.go(5, frames=1).count("READY=1") == 1
    assert "READY=1" not in run.go(20, frames=1)


def test_without_a_prediction_it_is_ready_after_a_bounded_time_and_the_status_names_the_step():
    run = Run()
    run.step = "no image: unplugged"
    sent = run.go(READY_WITHIN + 1)
    assert sent.count("READY=1") == 1
    assert "STATUS=no image: unplugged: fine" in sent


def test_workers_that_start_slowly_feed_it_and_delay_ready():
    run = Run()
    run.started, run.step = False, "starting workers"
    sent = run.go(READY_WITHIN + 5)
    assert sent.count("WATCHDOG=1") > 10
    assert "READY=1" not in sent
    assert "STATUS=starting workers: fine" in sent
    run.started, run.step = True, "no image: opening the source"
    assert run.go(1).count("READY=1") == 1


def test_workers_that_do_not_start_in_time_do_not_feed_it():
    run = Run()
    run.started, run.step = False, "starting workers"
    run.go(5)
    run.step = ""
    assert "WATCHDOG=1" not in run.go(20)
    assert "READY=1" not in run.sent


def test_the_program_reports_ready_watchdog_and_stopping(manager):
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
def test_a_stopped_worker_does_not_stop_the_feeding_but_a_stopped_run_does(tmp_path):
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
        manager.received.clear()
        manager.socket.settimeout(1.9)  # systemd would end the run after a longer silence
        until = time.monotonic() + 4
        while time.monotonic() < until:
            manager.socket.recv(4096)
        process.send_signal(signal.SIGSTOP)
        manager.all()
        manager.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            manager.socket.recv(4096)
        process.kill()


def test_the_journal_gets_priorities_and_no_time(tmp_path):
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
