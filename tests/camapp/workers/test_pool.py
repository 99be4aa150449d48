"""Tests the worker pool with real processes, kills and hangs."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from camapp.core.errors import PoolError
from camapp.system.process import limit_blas
from camapp.workers.pool import WorkerPool
from camapp.workers.supervision import DEFAULT_LIMITS, PoolLimits
from engine.kernels import blas
from engine.plan import Plan
from tests.programs import wait_until


class Harness:
    """A pool whose outcomes are kept, with copies of their outputs."""

    def __init__(self, model, workers=1, spare=1, max_items=2, limits=DEFAULT_LIMITS):
        self.outcomes = {}
        self.outputs = {}
        self.changed = threading.Condition()
        self.pool = WorkerPool(model, max_items, workers, 1, spare, self._on_outcome, limits=limits)
        self.pool.start()
        assert self.pool.wait_ready(20)

    def _on_outcome(self, outcome):
        with self.changed:
            assert outcome.token not in self.outcomes, "one outcome a token"
            self.outcomes[outcome.token] = outcome
            self.outputs[outcome.token] = outcome.slot.outputs[0][: outcome.items].copy()
            self.changed.notify_all()
        self.pool.release(outcome.slot)

    def send(self, token, batch, items=None):
        slot = self.pool.acquire(20)
        assert slot is not None, "no slot within 20 s"
        slot.input[: len(batch)] = batch
        self.pool.submit(slot, token, items or len(batch))

    def wait(self, *tokens, timeout=30):
        with self.changed:
            assert self.changed.wait_for(lambda: all(token in self.outcomes for token in tokens), timeout)
        return [self.outcomes[token] for token in tokens]


@pytest.fixture
def start(model):
    started = []

    def start_pool(**options):
        started.append(Harness(model, **options))
        return started[-1]

    yield start_pool
    for harness in started:
        harness.pool.stop()


def batch(seed, items=1):
    return np.random.default_rng(seed).random((items, 1, 28, 28), dtype=np.float32)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_pool_without_memory_leaves_none_of_it(model, monkeypatch):
    def fail(*_):
        raise OSError("no memory")

    def used():
        return sum("memfd:" in os.readlink(f"/proc/self/fd/{fd.name}") for fd in os.scandir("/proc/self/fd"))

    gc.collect()  # what the tests before have left
    before = used()
    for name in ("Slots.create", "write_shared"):
        with monkeypatch.context() as patch:
            patch.setattr(f"camapp.workers.pool.{name}", fail)
            with pytest.raises(OSError, match="no memory"):
                WorkerPool(model, 1, 1, 1, 0, print)
    assert used() == before


def test_results_equal_the_engine_in_this_process(model, start):
    harness = start(workers=2, spare=2)
    for token in range(12):
        harness.send(token, batch(token, items=1 + token % 2))
    for outcome in harness.wait(*range(12)):
        assert outcome.error == ""
        assert outcome.infer_end >= outcome.infer_start > 0
        expected = model.run(batch(outcome.token, items=1 + outcome.token % 2))
        # The workers use one BLAS thread, this process perhaps more: sums may differ in the last bit.
        np.testing.assert_allclose(harness.outputs[outcome.token], expected, rtol=1e-5, atol=1e-6)


def test_a_net_is_planned_with_the_workers_blas_threads(model, monkeypatch):
    planned = []
    plan = type(model).plan
    monkeypatch.setattr(
        type(model), "plan", lambda *given, **named: planned.append(blas.describe().threads) or plan(*given, **named)
    )
    if blas.describe().library != "openblas":
        pytest.skip("not OpenBLAS")
    with limit_blas(2):
        WorkerPool(model, 1, 1, 3, 1, lambda outcome: None).stop()
        assert set(planned) == {3}
        assert blas.describe().threads == 2


def test_a_slow_net_has_more_time_to_start(model, monkeypatch):
    run = Plan.run
    monkeypatch.setattr(Plan, "run", lambda *given: time.sleep(0.3) or run(*given))
    pool = WorkerPool(model, 1, 1, 1, 1, lambda outcome: None, limits=PoolLimits(start_s=5.0, stuck_times_p95=10.0))
    pool.stop()
    assert 8 <= pool.start_s < 60


def test_a_killed_worker_costs_only_its_frame_and_is_replaced(start):
    harness = start(workers=1, spare=1)
    (first,) = harness.pool.processes()
    # A stopped worker cannot finish the job before it is killed.
    os.kill(first, signal.SIGSTOP)
    harness.send(1, batch(1))
    harness.send(2, batch(2))
    os.kill(first, signal.SIGKILL)
    lost, kept = harness.wait(1, 2)
    assert lost.error == "worker died"
    assert kept.error == ""
    assert harness.pool.restarts == 1
    assert harness.pool.processes() != [first]


def test_a_standby_takes_over_at_once_and_is_replaced(start, monkeypatch):
    harness = start(workers=1, spare=0, limits=PoolLimits(restarts=10_000))
    assert harness.pool.wait_ready(20, workers=2)
    first, second = harness.pool.processes()
    with monkeypatch.context() as patch:
        # No further worker can start, so the second result comes from the standby.
        patch.setenv("PYTHONHOME", "/nonexistent")
        os.kill(first, signal.SIGSTOP)
        harness.send(1, batch(1))
        os.kill(first, signal.SIGKILL)
        harness.send(2, batch(2))
        lost, kept = harness.wait(1, 2)
    assert lost.error == "worker died"
    assert kept.error == ""
    assert second in harness.pool.processes()
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: second not in harness.pool.processes(), 5)
    assert harness.pool.wait_ready(20, workers=2)


def test_a_standby_does_not_work_beside_the_others(start):
    harness = start(workers=1, spare=0)
    assert harness.pool.wait_ready(20, workers=2)
    first, _ = harness.pool.processes()
    os.kill(first, signal.SIGSTOP)
    harness.send(1, batch(1))
    assert harness.pool.acquire(0.05) is None
    os.kill(first, signal.SIGCONT)
    assert harness.wait(1)[0].error == ""


def test_there_is_no_standby_if_frames_are_prepared_ahead(start):
    harness = start(workers=1, spare=1)
    harness.send(1, batch(1))
    harness.wait(1)
    assert len(harness.pool.processes()) == 1


def test_an_idle_worker_killed_costs_nothing(start):
    harness = start(workers=1)
    (first,) = harness.pool.processes()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: harness.pool.restarts == 1, 2)
    harness.send(1, batch(1))
    assert harness.wait(1)[0].error == ""


def test_a_stopped_worker_is_killed_and_replaced(start):
    harness = start(workers=1, spare=1, limits=PoolLimits(min_stuck_s=0.5))
    (first,) = harness.pool.processes()
    os.kill(first, signal.SIGSTOP)
    harness.send(1, batch(1))
    harness.send(2, batch(2))
    hung, kept = harness.wait(1, 2)
    assert hung.error == "worker hung"
    assert kept.error == ""
    assert not alive(first)


def test_a_raising_worker_reports_why_and_is_replaced(start):
    harness = start(workers=1)
    harness.send(1, batch(1), items=99)  # more than a slot holds: the plan raises
    (outcome,) = harness.wait(1)
    assert "Error" in outcome.error
    wait_until(lambda: harness.pool.restarts == 1, 2)
    harness.send(2, batch(2))
    assert harness.wait(2)[0].error == ""


def test_the_restart_budget_ends_in_one_clear_error(start):
    harness = start(workers=1)
    deadline = time.monotonic() + 20
    while harness.pool.error is None:
        assert time.monotonic() < deadline
        for pid in harness.pool.processes():
            with contextlib.suppress(ProcessLookupError):  # reaped between the two lines
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    assert isinstance(harness.pool.error, PoolError)
    assert "6 workers lost within 60 s" in str(harness.pool.error)
    assert harness.pool.acquire(0.1) is None


def test_stop_leaves_no_process_and_returns_every_job(model):
    harness = Harness(model, workers=2, spare=2)
    pids = harness.pool.processes()
    os.kill(pids[0], signal.SIGSTOP)
    for token in range(4):
        harness.send(token, batch(token))
    started = time.monotonic()
    harness.pool.stop()
    assert time.monotonic() - started < 3
    assert sorted(harness.outcomes) == [0, 1, 2, 3]
    assert not any(alive(pid) for pid in pids)


def test_no_descriptor_or_thread_is_left_behind(model):
    def once():
        harness = Harness(model, workers=1)
        harness.send(1, batch(1))
        harness.wait(1)
        harness.pool.stop()
        del harness
        gc.collect()  # the slots' mapping goes with its last view
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    assert once() == once() == once()


PARENT = """
import sys, time, numpy as np
from engine import nets
from engine.model import Model
from camapp.system.process import limit_blas
from camapp.workers.pool import WorkerPool
graph = nets.build("mnist")
model = Model(nets.default_card("mnist"), graph.bind({n: np.zeros(s, np.float32) for n, s in graph.parameters.items()}))
pool = WorkerPool(model, 1, 2, 1, 1, lambda outcome: None)
pool.start(); pool.wait_ready(20, workers=2)
print(*pool.processes(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_no_worker_outlives_a_killed_parent(stopped):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        if stopped:
            os.kill(pids[0], signal.SIGSTOP)
        parent.kill()
        wait_until(lambda: not any(alive(pid) for pid in pids), 5)


def test_starting_and_inferring_are_bounded_steps_but_losing_one_worker_after_another_is_not(start):
    limits = PoolLimits(restarts=100)
    harness = start(limits=limits)
    assert harness.pool.bounded_step() == ""
    os.kill(harness.pool.processes()[0], signal.SIGSTOP)
    harness.send(1, batch(1))
    assert harness.pool.bounded_step() == "inferring"
    for _ in range(limits.lost_in_row + 1):
        assert harness.pool.wait_ready(20)
        before = harness.pool.processes()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda before=before: harness.pool.processes() not in (before, []), 5)
    assert harness.pool.bounded_step() == ""
    harness.wait(1)
    assert harness.pool.wait_ready(20)
    harness.send(2, batch(2))
    harness.wait(2)
    os.kill(harness.pool.processes()[0], signal.SIGKILL)
    wait_until(lambda: harness.pool.bounded_step() == "starting workers", 5)


def test_workers_outlive_the_thread_that_started_the_pool(model):
    made = []
    thread = threading.Thread(target=lambda: made.append(Harness(model)))
    thread.start()
    thread.join(20)
    (harness,) = made
    time.sleep(0.2)
    harness.send(1, batch(1))
    assert harness.wait(1)[0].error == ""
    assert harness.pool.restarts == 0
    harness.pool.stop()
