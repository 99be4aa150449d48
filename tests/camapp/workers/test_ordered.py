"""Runs batches on real worker processes: order, kills, batches that kill their worker."""

import os
import signal
import time

import numpy as np
import pytest

from camapp.core.errors import PoolError
from camapp.workers.ordered import OrderedRun, Work
from camapp.workers.pool import OwnJob
from camapp.workers.supervision import DEFAULT_LIMITS, PoolLimits


def echo_run(model, workers=2, stuck_after=30.0, limits=DEFAULT_LIMITS, **options):
    """Return a run whose batches are lists of words, echoed."""
    work = Work(
        write=lambda batch, slot: (len(batch), " ".join(batch).encode()),
        read=lambda batch, outcome: outcome.reply.decode().split(),
        give_up=lambda batch, error: [f"{word}: {error}" for word in batch],
        split=lambda batch: [[word] for word in batch],
    )
    own_job = OwnJob("tests.camapp.worker_jobs:echo", options, stuck_after)
    return OrderedRun(model, work, 1, workers, own_job=own_job, limits=limits)


def batches(count, size=4):
    return [[f"{batch}-{item}" for item in range(size)] for batch in range(count)]


def flat(lists):
    return [word for words in lists for word in words]


def test_results_come_in_order_from_several_workers(model):
    assert list(echo_run(model).results(batches(60))) == batches(60)


def test_a_reply_may_be_much_larger_than_a_packet(model):
    (found,) = echo_run(model, times=20_000).results([["abcdefg", ""]])
    assert found == ["abcdefg"] * 20_000


def test_the_net_itself_runs_on_what_slots_hold(model):
    rng = np.random.default_rng(3)
    inputs = [rng.random((size, 1, 28, 28), dtype=np.float32) for size in (4, 4, 3, 1)]

    def write(batch, slot):
        slot.input[: len(batch)] = batch
        return len(batch), b""

    work = Work(
        write, lambda batch, outcome: outcome.slot.outputs[0][: outcome.items].copy(), lambda batch, error: error
    )
    for batch, found in zip(inputs, OrderedRun(model, work, 4, 2).results(inputs), strict=True):
        np.testing.assert_allclose(found, model.run(batch), rtol=1e-5, atol=1e-6)


def test_killed_workers_lose_and_double_nothing(model):
    run = echo_run(model, seconds=0.01)
    found = []
    for number, result in enumerate(run.results(batches(80))):
        found += result
        if number in (10, 30, 50):
            os.kill(run.pool.processes()[0], signal.SIGKILL)
    assert found == flat(batches(80))
    assert run.pool.restarts == 3


def test_a_worker_that_sends_empty_pieces_is_not_replaced_as_hung(model):
    run = echo_run(model, workers=1, stuck_after=0.5, limits=PoolLimits(min_stuck_s=0.5, poll_s=0.05), empty_pieces=5)
    assert list(run.results(batches(1))) == batches(1)
    assert run.pool.restarts == 0


def test_an_item_that_kills_its_worker_is_given_up_alone(model):
    given = batches(8)
    given[3][2] = "poison"
    found = flat(echo_run(model).results(given))
    expected = flat(given)
    expected[expected.index("poison")] = "poison: worker died"
    assert found == expected


def test_the_error_of_a_job_that_raises_is_reported(model):
    found = flat(echo_run(model, workers=1).results([["a", "raise", "b"]]))
    assert found == ["a", "raise: ValueError: as requested", "b"]


def test_an_item_that_hangs_is_given_up_within_its_bound(model):
    began = time.monotonic()
    run = echo_run(model, stuck_after=0.3, limits=PoolLimits(min_stuck_s=0.2))
    assert flat(run.results([["a", "hang"], ["b"]])) == ["a", "hang: worker hung", "b"]
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_too_many_deaths_end_the_run(model):
    with pytest.raises(PoolError, match="workers lost within"):
        list(echo_run(model, workers=1).results([["poison"]] * 10))


def test_stop_finishes_the_submitted_batches_and_reads_no_more(model):
    run = echo_run(model, seconds=0.01)
    taken, found = [], []

    def source():
        for batch in batches(1000):
            taken.append(batch)
            yield batch

    for result in run.results(source(), stop=lambda: len(found) >= 3):
        found.append(result)
    assert found == taken
    assert len(taken) < 100
    assert not run.pool.processes()


def test_few_batches_wait_behind_a_slow_one_and_are_dropped_without_a_warning(model, caplog):
    taken = []

    def source():
        for batch in batches(400):
            taken.append(batch)
            yield batch

    results = echo_run(model).results(source())
    next(results)
    time.sleep(0.5)
    assert len(taken) < 60
    results.close()
    assert not caplog.records
