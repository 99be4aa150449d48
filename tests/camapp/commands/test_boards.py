import pytest

from camapp.commands.boards import BOARDS, FACTOR, estimates, record_of
from engine.runtime.profile import LayerTime

RATES = {"product_gflops": 124.0, "copy_gbs": 3.0, "pass_gbs": 28.0, "call_us": 0.3}


def layer(microseconds, macs=0, calls=0, kernel="im2col"):
    return LayerTime("conv", "Conv", kernel, (1, 2), calls, macs, 2 * microseconds, microseconds, 0.5)


def of_the_pi_5(*layers):
    return estimates(layers, RATES)[2].milliseconds * 1e3


def test_each_part_of_a_layer_goes_at_the_board_s_rate():
    assert of_the_pi_5(layer(3.0, calls=10)) == pytest.approx(10 * 0.6)
    # 62 million multiply-adds take 1 ms here: four times as long at 31 GFLOP/s.
    assert of_the_pi_5(layer(1000.0, macs=62_000_000)) == pytest.approx(4000)
    assert of_the_pi_5(layer(100.0)) == pytest.approx(100 * 28 / 14)
    assert of_the_pi_5(layer(1103.0, 62_000_000, 10)) == pytest.approx(4000 + 6 + 200)


def test_winograd_s_kernels_have_fewer_products():
    plain, quarter = (of_the_pi_5(layer(1000.0, 62_000_000, kernel=name)) for name in ("im2col", "winograd4_beside"))
    assert plain == pytest.approx(4000)
    assert quarter == pytest.approx(1000 + 750 * 2)


def test_a_machine_like_the_board_gets_its_own_times_back():
    board = BOARDS[1]
    here = {"product_gflops": board.product_gflops, "pass_gbs": board.pass_gbs, "call_us": board.call_us}
    layers = [layer(500.0, 1_000_000, 30), layer(20.0, calls=5), layer(80.0, 10_000_000)]
    assert estimates(layers, here)[1].milliseconds == pytest.approx(0.6)


def test_four_workers_are_a_range_below_four_times_one():
    for each, board in zip(estimates([layer(100.0)], RATES), BOARDS, strict=True):
        low, high = each.fps_four_workers
        assert each.fps < low < high < 4 * each.fps
        assert each.board == board.name


def test_the_record_calls_itself_an_estimate_with_its_error_and_sources():
    record = record_of(estimates([layer(100.0)], RATES))
    assert "never measured there" in record["note"]
    assert f"{FACTOR:g} times" in record["note"]
    assert "OpenBLAS pull request 2643" in record["sources"]
    assert [each["board"] for each in record["boards"]] == [board.name for board in BOARDS]
