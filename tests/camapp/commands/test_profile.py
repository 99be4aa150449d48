"""`camapp profile`: table, JSON and chart of where a model's time goes; the estimates follow from rates alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.commands.boards import BOARDS, Board, estimate, measure_here
from camapp.commands.chart import Bar, write_chart
from camapp.commands.profile import MAX_BARS, ProfileOptions, _chart, run_profile
from engine.model import ModelCard, ModelError
from engine.runtime.profile import LayerTime, Profile

HERE = Board("here", product_gflops=100.0, copy_gbs=10.0, call_us=0.35, four_cores=0.0)
SVG = "{http://www.w3.org/2000/svg}"


def layer(macs: int, microseconds: float, calls: int = 0, name: str = "conv") -> LayerTime:
    return LayerTime(name, "Conv", "im2col", (1, 2), calls, macs, 3 * microseconds, microseconds, 0.5)


def test_json_says_all_that_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    run_profile("mnist", ProfileOptions(rounds=3, as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["net"] == "mnist"
    assert found["macs"] == 158_400
    assert found["input_shapes"] == [[1, 1, 28, 28]]
    assert {"fc"} <= {each["name"] for each in found["layers"]}
    assert sum(each["macs"] for each in found["layers"]) == found["macs"]
    assert sum(each["share"] for each in found["layers"]) == pytest.approx(1)
    assert [each["board"] for each in found["estimates"]["boards"]] == [board.name for board in BOARDS]
    assert "never measured" in found["estimates"]["note"]


def test_table_names_layers_and_calls_estimates_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    run_profile("cifar10", ProfileOptions(rounds=2, batch=2))
    printed = capsys.readouterr().out
    assert "input 2x3x32x32" in printed
    assert "gemm_node" in printed
    assert printed.index("conv1") < printed.index("fc1") < printed.index("fc2") < printed.index("ESTIMATE")
    assert "never measured there" in printed


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_chart_has_a_bar_for_every_layer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"chart{suffix}"
    bars = [Bar(f"layer <{i}> \x01&", float(i), f"{i} us", "ab"[i % 2]) for i in range(5)]
    write_chart(path, "title", "below it", bars)
    if suffix == ".png":
        image = cv2.imread(str(path))
        colours = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
        assert {(178, 114, 0), (0, 159, 230)} <= colours
        longest = (np.abs(image.astype(int) - (178, 114, 0)).sum(axis=2) == 0).sum(axis=1).max()
        assert longest == pytest.approx(2 * 420, abs=2)
    else:
        root = ElementTree.parse(path).getroot()  # it is well-formed, whatever the labels hold
        texts = [item.text for item in root.iter(f"{SVG}text")]
        assert "layer <3> ?&" in texts
        widths = [float(item.get("width", 0)) for item in root.iter(f"{SVG}rect") if item.get("height") == "14.0"]
        assert widths[-5:] == pytest.approx([0.5, 105, 210, 315, 420])


def test_chart_of_very_many_layers_shows_the_longest_and_sums_up_the_rest() -> None:
    layers = tuple(layer(0, float(i), name=f"n{i}") for i in range(MAX_BARS + 50))
    _, _, bars = _chart(ModelCard("big"), Profile(layers, 1.0, (), 0))
    assert len(bars) == MAX_BARS + 1
    assert bars[0].label == "n50"
    assert bars[-1].label == "50 smaller ones"
    assert bars[-1].value == 3 * sum(range(50))


def test_estimates_scale_products_copies_and_calls_each_by_its_own_rate() -> None:
    pi4 = BOARDS[1]
    products, copies, calls = layer(10**6, 100.0), layer(0, 100.0), layer(10**6, 3.5, calls=10)
    found = [estimate([each], HERE)[1].milliseconds * 1e3 for each in (products, copies, calls)]
    assert found == pytest.approx([100 * 100 / pi4.product_gflops, 100 * 10 / pi4.copy_gbs, 10 * pi4.call_us])
    both = estimate([products, copies], HERE)[1]
    assert both.milliseconds * 1e3 == pytest.approx(found[0] + found[1])
    assert both.fps == pytest.approx(1e3 / both.milliseconds)
    assert both.fps_four_workers == pytest.approx(2 * both.fps)


def test_a_resnet50_at_the_rate_of_products_comes_to_what_the_boards_need_for_it() -> None:
    macs = 4_089_000_000
    whole = layer(macs, 2e-3 * macs / HERE.product_gflops)
    # Seconds that plain matrix products alone take there, by hand from the boards' rates.
    found = [each.milliseconds / 1e3 for each in estimate([whole], HERE)]
    assert found == pytest.approx([1.36, 0.71, 0.26], rel=0.02)


def test_this_machine_has_rates() -> None:
    here = measure_here()
    assert 0.1 < here.product_gflops < 10_000
    assert 0.1 < here.copy_gbs < 1000
    assert 0.05 < here.call_us < 100


def test_other_charts_and_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"chart\.pdf: a chart is written as \.svg or \.png"):
        run_profile("mnist", ProfileOptions(chart=tmp_path / "chart.pdf"))
    with pytest.raises(ModelError, match="no model 'mnits'"):
        run_profile("mnits", ProfileOptions())
