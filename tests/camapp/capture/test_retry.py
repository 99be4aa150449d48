import logging
import random

import pytest

from camapp.capture.retry import HEALTHY_S, BackOff, LossLog, ReadLimit


def waits(back_off, healthy, attempts, absent=False):
    return [back_off.after_loss(healthy, absent=absent) for _ in range(attempts)]


def test_waits_double_up_to_the_healthy_time():
    assert waits(BackOff(), 0.03, 10) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20])


def test_only_a_healthy_while_starts_the_waits_anew():
    back_off = BackOff()
    waits(back_off, 5.0, 6)
    assert back_off.after_loss(HEALTHY_S - 1, absent=False) == pytest.approx(6.4)
    assert back_off.after_loss(HEALTHY_S, absent=False) == pytest.approx(0.1)


def test_a_source_that_is_not_there_is_tried_every_second_and_does_not_slow_the_retries_of_a_present_one():
    back_off = BackOff()
    assert waits(back_off, 0.0, 6, absent=True) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1, 1])
    assert back_off.after_loss(0.0, absent=False) == pytest.approx(0.1)


@pytest.mark.parametrize("steady", [0.0, 0.04, 2.0, HEALTHY_S - 0.1, HEALTHY_S + 0.1, 60.0])
@pytest.mark.parametrize("reasons", [1, 2, 1000])
def test_ten_minutes_of_any_flapping_source_are_few_connections_and_few_lines(caplog, steady, reasons):
    caplog.set_level(logging.INFO)
    back_off, losses, rng = BackOff(), LossLog(), random.Random(1)
    now, connections = 1000.0, 0
    while now < 1600:
        connections += 1
        if steady:
            losses.back("camera", now)
        now += steady
        losses.lost(f"reason {rng.randrange(reasons)}", now)
        now += back_off.after_loss(steady, absent=False)
    assert connections <= 40
    assert len(caplog.records) <= 20


def test_a_long_outage_is_one_line_and_its_end_another(caplog):
    losses = LossLog()
    for second in range(100):
        losses.lost("unplugged", 1000.0 + second)
    losses.back("camera", 1100.0)
    losses.back("camera", 1101.0)
    assert [record.message for record in caplog.records] == [
        "no image: unplugged; trying again",
        "source is back: camera",
    ]


def test_a_new_reason_of_an_outage_is_logged(caplog):
    losses = LossLog()
    for reason in ("stream broke off", "refused", "refused", "no video in it"):
        losses.lost(reason, 1000.0)
    assert len(caplog.records) == 3


def test_further_losses_are_summed_up_with_their_number(caplog):
    losses = LossLog()
    for second in range(0, 130, 10):
        losses.lost("broke off", 1000.0 + second)
        losses.back("camera", 1001.0 + second)
    lines = [record.message for record in caplog.records]
    assert lines[:6] == ["no image: broke off; trying again", "source is back: camera"] * 3
    assert lines[6:] == ["no image: broke off (lost 7 times in 60 s)"]


def test_after_quiet_minutes_losses_are_logged_singly_again(caplog):
    losses = LossLog()
    for now in (1000, 1010, 1020, 1030, 2000):
        losses.lost("broke off", float(now))
        losses.back("camera", now + 1.0)
    assert len(caplog.records) == 2 * 4


def limit_after(intervals, **options):
    limit, now = ReadLimit(**options), 0.0
    limit.arrived(now)
    for interval in intervals:
        limit.arrived(now := now + interval)
    return limit.seconds()


def test_a_given_time_is_used_as_it_is():
    assert limit_after([3.0] * 9, given=0.4, fps=30) == 0.4


def test_while_the_rate_is_unknown_there_is_time_for_a_slow_one():
    assert limit_after([]) == limit_after([0.03] * 4) == 10.0


@pytest.mark.parametrize(("interval", "expected"), [(1 / 30, 1.5), (0.5, 2.0), (2.0, 8.0), (30.0, 60.0)])
def test_a_known_rate_gives_the_limit(interval, expected):
    assert limit_after([interval] * 10) == pytest.approx(expected)


def test_a_slow_rate_that_was_asked_for_counts_from_the_start():
    assert limit_after([], fps=0.1) == pytest.approx(40.0)


def test_a_source_that_is_lost_again_soon_gets_twice_the_time_until_it_is_healthy():
    limit, now = ReadLimit(), 0.0
    for _ in range(10):
        limit.arrived(now := now + 0.03)
    limits = []
    for _ in range(3):
        limit.lost(0.3)
        limits.append(limit.seconds())
    assert limits == pytest.approx([3.0, 6.0, 12.0])
    limit.lost(HEALTHY_S)
    assert limit.seconds() == pytest.approx(1.5)
