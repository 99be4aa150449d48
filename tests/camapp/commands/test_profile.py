"""`camapp profile` prints where a model's time goes, as a table or JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from camapp.commands.boards import BOARDS
from camapp.commands.profile import machine_rates, run_profile
from engine.kernels import blas
from engine.model import ModelError


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    described = replace(blas.describe(), threads=1)
    monkeypatch.setattr(blas, "describe", lambda: described)


@pytest.mark.usefixtures("one_thread")
def test_json_holds_everything_that_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    run_profile("mnist", rounds=3, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["net"] == "mnist"
    assert found["macs"] == 158_400
    assert found["input_shapes"] == [[1, 1, 28, 28]]
    assert {"fc"} <= {each["name"] for each in found["layers"]}
    assert sum(each["macs"] for each in found["layers"]) == found["macs"]
    assert sum(each["share"] for each in found["layers"]) == pytest.approx(1)
    assert found["rates"].keys() == {"product_gflops", "copy_gbs", "pass_gbs", "call_us"}
    assert found.keys() >= {"machine", "microseconds", "gflops", "arena_bytes"}
    assert [each["board"] for each in found["estimates"]["boards"]] == [board.name for board in BOARDS]


@pytest.mark.usefixtures("one_thread")
def test_estimates_of_boards_are_called_estimates_with_their_error(capsys: pytest.CaptureFixture[str]) -> None:
    run_profile("mnist", rounds=2)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.index("this machine:") < printed.index("ESTIMATE") < printed.index("Raspberry Pi 5 (A76, 2.4 GHz)")
    assert "never measured there: up to 1.6 times as fast or as slow" in printed


def test_the_table_lists_layers_in_order_and_estimates_no_batches(capsys: pytest.CaptureFixture[str]) -> None:
    run_profile("cifar10", rounds=2, batch=2)
    printed = capsys.readouterr().out
    assert "input 2x3x32x32" in printed
    assert "gemm_node" in printed
    assert printed.index("conv1") < printed.index("fc1") < printed.index("fc2") < printed.index("this machine")
    assert "estimate" not in printed.lower()


def test_rates_of_this_machine_are_plausible() -> None:
    rates = machine_rates()
    assert 0.1 < rates["product_gflops"] < 10_000
    assert 0.1 < rates["copy_gbs"] < 1000
    assert 0.1 < rates["pass_gbs"] < 10_000
    assert 0.05 < rates["call_us"] < 100


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no model 'mnits'"):
        run_profile("mnits")
