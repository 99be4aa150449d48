import pytest

from camapp.core.frames import Trace
from camapp.core.stats import Quantiles, RateMeter, Stats

SECOND = 1_000_000_000


def test_rate_is_gaps_over_span_and_falls_to_zero_when_events_stop():
    meter = RateMeter(window=2.0)
    for index in range(31):
        meter.tick(index * SECOND // 30)
    assert meter.rate(SECOND) == pytest.approx(30.0)
    assert meter.rate(4 * SECOND) == 0.0


def test_slow_events_have_a_rate_until_they_stop():
    meter = RateMeter(window=2.0)
    for index in range(3):
        meter.tick(index * 10 * SECOND)
    assert meter.rate(25 * SECOND) == pytest.approx(0.1)
    assert meter.rate(41 * SECOND) == 0.0


def test_one_event_gives_no_rate():
    meter = RateMeter()
    meter.tick(SECOND)
    assert meter.rate(SECOND) == 0.0


def test_quantiles_of_the_last_values():
    quantiles = Quantiles()
    assert quantiles.at(50, 99) == (0.0, 0.0)
    for value in range(101):
        quantiles.add(value)
    assert quantiles.at(50, 99) == (50.0, 99.0)
    assert quantiles.at(50, last=11) == (95.0,)


def test_quantiles_forget_values_beyond_their_capacity():
    quantiles = Quantiles(capacity=8)
    for value in range(20):
        quantiles.add(value)
    assert len(quantiles) == 8
    assert quantiles.at(0, 100) == (12.0, 19.0)
    assert quantiles.at(0, last=3) == (17.0,)
    assert quantiles.at(0, last=99) == (12.0,)


def test_the_balance_adds_up_and_is_printed():
    stats = Stats()
    traces = [stats.captured(seq, 0) for seq in range(5)]
    traces[0].decoded = 1
    stats.predicted(traces[0])
    stats.dropped(traces[1], "newer frame")
    stats.dropped(traces[2], "newer frame")
    stats.failed(traces[3], "worker died")
    balance = stats.balance()
    assert balance.is_conserved
    assert (balance.captured, balance.predicted, balance.in_flight) == (5, 1, 1)
    assert str(balance) == (
        "captured 5 = predicted 1 + dropped 2 (newer frame 2) + failed 1 (worker died 1) + in flight 1"
    )


def test_counting_a_frame_twice_is_an_error():
    stats = Stats()
    trace = stats.captured(0, 0)
    stats.dropped(trace, "paused")
    with pytest.raises(RuntimeError, match="frame 0 was accounted for twice"):
        stats.failed(trace, "decode")


def test_gaps_in_sensor_time_stamps_are_compared_with_the_usual_gap():
    stats = Stats()
    period = SECOND // 30
    stamps = [index * period + SECOND for index in range(10)] + [12 * period + SECOND, 13 * period + SECOND]
    for seq, stamp in enumerate(stamps):
        stats.captured(seq, stamp)
    assert stats.balance().sensor_missed == 2
    stats.source_lost()
    stats.captured(99, stamps[-1] + 100 * period)
    assert stats.balance().sensor_missed == 2


def test_gaps_of_a_file_with_a_variable_rate_are_not_missed_frames():
    stats = Stats()
    for seq, stamp in enumerate([*range(1, 10), 12, 13, 20]):
        stats.captured(seq, stamp * SECOND, regular=False)
    assert stats.balance().sensor_missed == 0
    assert "sensor" not in str(stats.balance())


def test_latencies_of_the_stages_add_up():
    trace = Trace(0, sensor=1, captured=3_000_001, taken=4_000_001, prepared=6_000_001)
    trace.infer_start, trace.infer_end, trace.decoded = 7_000_001, 11_000_001, 11_500_001
    latency = trace.latency_ms()
    assert latency == {
        "capture": 3.0,
        "prepare": 2.0,
        "queue": 2.0,
        "infer": 4.0,
        "decode": 0.5,
        "total": 11.5,
        "overhead": 2.5,
    }
    parts = ("capture", "prepare", "queue", "infer", "decode")
    assert sum(latency[stage] for stage in parts) == latency["total"]
