"""Who picks a kernel: pins, the clock, the rule; and the file of times, which nothing may break."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.compiler import kernel_selection
from engine.compiler.kernel_selection import (
    ROUNDS,
    KernelSelector,
    TimedSelector,
    default_file,
    measure,
    read_times,
    standard,
    write_times,
)
from engine.compiler.planner import choose_steps
from engine.graph import Array, Graph, ModelError
from engine.kernels.step import Call, Layout, Operand, Step
from engine.model import Model, ModelCard, load
from engine.nets.layers import NetBuilder
from engine.runtime.shared_model import attach_shared
from tests.engine.runtime.test_shared_model import shared


def heavy(*channels: int) -> Model:
    """Convolutions of a million multiply-adds that four kernels can run: 'conv', and one for each of `channels`."""
    net = NetBuilder("heavy", (16, 24, 24))
    x, before = net.conv(net.input, "conv", 16, 16, 3, pad=1), 16
    for after in channels:
        x, before = net.conv(x, f"conv{after}", before, after, 3, pad=1), after
    graph: Graph = net.graph(x, (before, 24, 24))
    state = np.random.RandomState(0)
    graph = graph.bind({key: state.uniform(-1, 1, shape) for key, shape in graph.parameters.items()})
    return Model(ModelCard("heavy", "other", (16, 24, 24), colour=""), graph)


def kernel_of(net: Model, selector: KernelSelector) -> str:
    net.plan(selector=selector)
    return net.prepared[0].pins["conv"]


def fake_clock(monkeypatch: pytest.MonkeyPatch, microseconds: Callable[[int], float]) -> list[float]:
    """Each measurement gives the microseconds for its number; returns those given."""
    given: list[float] = []

    def measure(_: object, step: Step, *__: object) -> tuple[float, Array]:
        given.append(microseconds(len(given)))
        return given[-1], np.ones(step.shape, np.float32)

    monkeypatch.setattr(kernel_selection, "measure", measure)
    return given


def ever_faster(count: int) -> float:
    return 100.0 - count


def test_rule_takes_the_first_and_looks_at_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_clock(monkeypatch, ever_faster)
    assert kernel_of(heavy(), KernelSelector(layout=Layout.LAST)) == "winograd4"
    assert not timed


@pytest.mark.parametrize("key", ["conv", "Conv"])
def test_pin_by_node_or_operator_wins(key: str) -> None:
    assert kernel_of(heavy(), KernelSelector({key: "rows_whole"}, Layout.LAST)) == "rows_whole"
    assert kernel_of(heavy(), TimedSelector({key: "rows_whole"}, Layout.LAST)) == "rows_whole"


def test_measured_times_decide_and_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed, file = fake_clock(monkeypatch, ever_faster), tmp_path / "deep" / "kernels.json"
    assert kernel_of(heavy(), TimedSelector(layout=Layout.LAST, file=file)) == "rows_whole"
    count = len(timed)
    assert count >= 3
    assert kernel_of(heavy(), TimedSelector(layout=Layout.LAST, file=file)) == "rows_whole"
    assert len(timed) == count
    ((kind, row),) = json.loads(file.read_text()).items()
    assert re.match(r"Conv 1x16x24x24 16x16x3x3 16 \[.*\] \(numpy ", kind)
    assert row["winograd4"] == 100 - count / kernel_selection.TURNS  # timed first in each turn, its best counts
    assert len(row) * kernel_selection.TURNS == count


def test_a_moment_in_which_the_machine_is_slow_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Step] = []

    def measure(_: object, step: Step, *__: object) -> tuple[float, Array]:
        timed.append(step)
        microseconds = 14.0 if len(timed) == 1 else 9.0 if step is timed[0] else 10.0
        return microseconds, np.ones(step.shape, np.float32)

    monkeypatch.setattr(kernel_selection, "measure", measure)
    assert kernel_of(heavy(), TimedSelector(layout=Layout.LAST)) == "winograd4"
    assert timed[0] in timed[1:]


def test_a_kernel_that_is_clearly_slower_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_clock(monkeypatch, lambda count: 10.0 if count == 1 else 16.0)
    selector = TimedSelector(layout=Layout.LAST)
    assert kernel_of(heavy(), selector) == "winograd2"
    (row,) = selector.times.values()
    assert len(timed) == len(row) + 1


def test_a_step_that_is_hopeless_beside_the_best_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(kernel_selection, "alone", lambda *_: ([lambda: runs.append(1)], np.zeros(1)))
    step = Step((1,), None)
    measure([], step, 0, math.inf)
    assert len(runs) == 1 + ROUNDS
    measure([], step, 0, 1e-9)
    assert len(runs) == 1 + ROUNDS + 1


def test_after_its_budget_the_rule_selects_and_the_next_plan_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed, file = fake_clock(monkeypatch, ever_faster), tmp_path / "kernels.json"
    monkeypatch.setattr(kernel_selection.time, "perf_counter", lambda: float(len(timed)))
    first = heavy(24, 32)
    # Enough for two of the nodes: four or five kernels, each timed twice.
    assert kernel_of(first, TimedSelector(layout=Layout.LAST, file=file, budget_s=15.0)) == "rows_whole"
    assert first.prepared[0].pins["conv24"] == "rows_whole"
    assert first.prepared[0].pins["conv32"] == "winograd4"
    count = len(timed)
    second = heavy(24, 32)
    assert kernel_of(second, TimedSelector(layout=Layout.LAST, file=file, budget_s=15.0)) == "rows_whole"
    assert second.prepared[0].pins["conv32"] == "rows_whole"
    assert len(timed) == count * 3 / 2
    assert len(read_times(file)) == 3


def test_kernels_that_differ_are_warned_of_when_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = choose_steps(heavy().graph, [(1, 16, 24, 24)], KernelSelector(layout=Layout.LAST))
    right = kernel_selection.alone

    def alone(inputs: Sequence[Operand], step: Step) -> tuple[list[Call], Array]:
        calls, output = right(inputs, step)
        wrong = {each.label for each in step.packs.values()} == {each.label for each in first.step.packs.values()}
        return [*calls, *([partial(np.multiply, output, np.float32(1.01), out=output)] if wrong else [])], output

    monkeypatch.setattr(kernel_selection, "alone", alone)
    with pytest.warns(UserWarning, match=r"Conv 'conv': kernels winograd4 and \w+ differ by 0\.0\d+ of the largest"):
        kernel_of(heavy(), TimedSelector(layout=Layout.LAST))
    monkeypatch.setattr(kernel_selection.blas, "product_error", lambda side: 1.0)
    with pytest.raises(ModelError, match="computes wrong products"):
        kernel_of(heavy(), TimedSelector(layout=Layout.LAST))


def test_real_times_are_plausible(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    kernel_of(heavy(), TimedSelector(layout=Layout.LAST, file=file))
    (row,) = read_times(file).values()
    assert all(1 < microseconds < 1e6 for microseconds in row.values())


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": {"b": "c"}}', "\udcff", "[" * 5000])
def test_damaged_file_is_ignored_with_a_warning(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match=r"kernels\.json: ignored, kernels are timed again"):
        assert read_times(file) == {}


def test_missing_file_is_nothing_to_warn_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert read_times(tmp_path / "none.json") == {}
    assert not recwarn


def test_folder_that_takes_no_file_costs_no_more_than_a_warning(tmp_path: Path) -> None:
    (tmp_path / "camapp").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="kernel times are not kept"):
        write_times(tmp_path / "camapp" / "kernels.json", {})


def test_the_standard_selector_is_timed_unless_the_environment_has_the_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert type(standard()) is KernelSelector
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    assert default_file() == Path("/nowhere/camapp/kernels.json")
    monkeypatch.delenv("ENGINE_CHOICES")
    timed = standard()
    assert isinstance(timed, TimedSelector)
    assert timed.file == Path("/nowhere/camapp/kernels.json")
    assert timed.budget_s == kernel_selection.BUDGET_S
    monkeypatch.setenv("ENGINE_CHOICES", "all")
    assert replace(timed, budget_s=math.inf) == standard()


@pytest.mark.parametrize("rule", ["rule", ""])
def test_environment_pins_kernels_by_layer_or_operator(
    rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ENGINE_CHOICES", rule)

    def kernels(pins: str) -> dict[str, str]:
        monkeypatch.setenv("ENGINE_KERNELS", pins)
        return {
            each.node.name: each.kernel for each in load(Path(__file__).parents[3] / "weights" / "track.npz").chosen()
        }

    assert kernels("wide1=winograd2")["wide1"] == "winograd2"
    second = kernels("Conv=winograd2, wide2=rows_whole")
    assert second["wide2"] == "rows_whole"
    assert second["wide1"] == second["wide4"] == "winograd2"
    with pytest.raises(ModelError, match="wide9=winograd2: no layer or operator 'wide9' has this kernel in this plan"):
        kernels("wide9=winograd2")
    with pytest.raises(ModelError, match="'winograd2' pins no kernels: expected LAYER=KERNEL"):
        kernels("winograd2")


def test_attached_model_runs_the_kernels_that_were_chosen_and_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = heavy()
    assert kernel_of(net, KernelSelector({"conv": "winograd2"}, Layout.LAST)) == "winograd2"
    attached = attach_shared(bytes(shared(net)))
    before = dict(attached.prepared[0].packed)
    assert [each.kernel for each in attached.chosen()] == ["winograd2"]
    x = np.random.RandomState(1).uniform(-1, 1, (3, 16, 24, 24)).astype(np.float32)
    np.testing.assert_array_equal(attached.run(x), net.run(x))
    assert attached.prepared[0].packed.keys() == before.keys()
    assert "conv.weight" not in attached.graph.initializers


def test_attached_model_takes_no_other_kernels_and_no_other_items() -> None:
    attached = attach_shared(bytes(shared(heavy())))
    with pytest.raises(ModelError, match="net 'heavy' was shared with its kernels selected"):
        attached.plan(selector=KernelSelector({"conv": "rows_whole"}, Layout.LAST))
    with pytest.raises(ModelError, match=r"for items of \(\(16, 24, 24\),\): it takes no others"):
        attached.plan((1, 16, 30, 30))


def test_the_earlier_name_of_the_selector_argument_still_works() -> None:
    net = heavy()
    net.plan(choices=KernelSelector({"conv": "rows_whole"}, Layout.LAST))
    assert net.prepared[0].pins["conv"] == "rows_whole"
