"""Tests the rules by which a pool replaces workers, without processes."""

import time

import pytest

from camapp.workers.supervision import PoolLimits, WorkerSupervision

LIMITS = PoolLimits(
    start_s=30.0, min_stuck_s=2.0, stuck_times_p95=10.0, restarts=3, restarts_within_s=0.5, lost_in_row=2, poll_s=0.5
)


def ago(seconds):
    return time.monotonic() - seconds


@pytest.mark.parametrize(("job_s", "times", "seconds"), [(0.0, [0.01], 2.0), (0.0, [0.5] * 20, 5.0), (9.0, [0.5], 9.0)])
def test_a_job_hangs_after_a_multiple_of_the_usual_time_or_the_jobs_own_limit(job_s, times, seconds):
    supervision = WorkerSupervision(LIMITS, job_s)
    for one in times:
        supervision.add_time(one)
    assert supervision.stuck_after() == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("started", "is_ready", "busy", "fault"),
    [
        (100, True, None, ""),
        (100, True, 1.5, ""),
        (100, True, 2.5, "hung for 2.5 s"),
        (29, False, None, ""),
        (31, False, None, "not ready within 30 s"),
    ],
)
def test_a_worker_over_its_limits_has_a_fault(started, is_ready, busy, fault):
    supervision = WorkerSupervision(LIMITS)
    supervision.add_time(0.01)
    assert supervision.fault(ago(started), is_ready, None if busy is None else ago(busy)) == fault


def test_too_many_losses_within_the_time_exhaust_the_budget():
    supervision = WorkerSupervision(LIMITS)
    assert [supervision.note_loss() for _ in range(3)] == [""] * 3
    assert supervision.note_loss() == "4 workers lost within 0 s"
    assert supervision.restarts == 3
    time.sleep(0.6)
    assert supervision.note_loss() == ""


def test_a_step_is_bounded_until_workers_are_lost_without_a_result():
    supervision = WorkerSupervision(LIMITS)
    supervision.add_time(0.01)
    assert supervision.bounded_step([], []) == ""
    assert supervision.bounded_step([ago(31)], [ago(3)]) == ""
    assert supervision.bounded_step([ago(30.2)], []) == "starting workers"
    assert supervision.bounded_step([], [ago(2.2)]) == "inferring"
    for _ in range(3):
        supervision.note_loss()
    assert supervision.bounded_step([ago(1)], [ago(1)]) == ""
    supervision.note_result(0.01)
    assert supervision.bounded_step([ago(1)], []) == "starting workers"
