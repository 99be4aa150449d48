import math

import numpy as np
import pytest

from camapp.tasks.smoothing import ArrayAverage, Latch, NamedAverage, softmax

SECOND = 1_000_000_000


def test_softmax_sums_to_one_and_survives_large_numbers():
    scores = softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], np.float32))
    assert np.allclose(scores, [[1, 0, 0], [1 / 3] * 3])


def test_the_first_value_is_used_unchanged():
    assert np.allclose(ArrayAverage(0.5).update(np.float32([0.2, 0.8]), 7), [0.2, 0.8])


def test_the_average_depends_on_time_not_on_the_number_of_frames():
    frequent, rare = ArrayAverage(0.5), ArrayAverage(0.5)
    for average in (frequent, rare):
        average.update(np.float32([1.0]), 0)
    for step in range(1, 31):
        last = frequent.update(np.float32([0.0]), step * SECOND // 30)
    assert last[0] == pytest.approx(math.exp(-2), abs=1e-5)
    assert rare.update(np.float32([0.0]), SECOND)[0] == pytest.approx(math.exp(-2), abs=1e-5)


def test_without_smoothing_each_value_is_used():
    average = ArrayAverage(0)
    average.update(np.float32([1.0]), 0)
    assert average.update(np.float32([0.25]), 0)[0] == 0.25


def test_the_average_does_not_change_its_input():
    values = np.float32([1.0])
    average = ArrayAverage(1.0)
    average.update(values, 0)
    average.update(np.float32([0.0]), SECOND)
    assert values[0] == 1.0


def test_names_appear_fade_and_are_removed():
    average = NamedAverage(0.2)
    average.update({"407": 1.0}, 0)
    both = average.update({"401": 1.0}, SECOND // 10)
    assert list(both) == ["407", "401"]
    assert both["407"] == pytest.approx(math.exp(-0.5))
    assert list(average.update({"401": 1.0}, 10 * SECOND)) == ["401"]


def test_a_latch_sets_above_high_holds_between_and_clears_below_low():
    latch = Latch(0.6, 0.3)
    assert latch.update("cat", 0.5, 0.0) is None
    assert latch.update("cat", 0.6, 0.0) == "cat"
    assert latch.update("dog", 0.55, 0.45) == "cat"
    assert latch.update("dog", 0.65, 0.35) == "dog"
    assert latch.update("cat", 0.5, 0.29) is None


def test_scores_around_one_threshold_do_not_make_the_label_flicker():
    latch = Latch(0.5, 0.35)
    scores = [0.52, 0.48, 0.51, 0.44, 0.53, 0.4]
    assert {latch.update(3, score, score) for score in scores} == {3}


@pytest.mark.parametrize(("high", "low"), [(0.3, 0.5), (1.2, 0.5), (0.5, -0.1)])
def test_thresholds_in_the_wrong_order_raise_an_error(high, low):
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        Latch(high, low)
