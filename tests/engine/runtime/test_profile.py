"""The profile accounts for every layer of a plan once, with its kernel and its share."""

from __future__ import annotations

import pytest

from engine.compiler.kernel_selection import KernelSelector
from engine.kernels.step import Layout
from engine.runtime.profile import profile
from tests.engine.nets.test_nets import model


@pytest.mark.parametrize("name", ["mnist", "cifar10", "residual"])
def test_every_call_of_the_plan_is_in_one_layer(name: str) -> None:
    net = model(name)
    found = profile(net, rounds=3)
    layers = found.layers
    assert sum(layer.calls for layer in layers) == len(net.plan().calls)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert found.macs == sum(layer.macs for layer in layers) == sum(each.step.macs for each in net.chosen())


def test_a_layer_has_its_kernel_and_speed() -> None:
    net = model("residual")
    net.plan(selector=KernelSelector(pins={"block1.conv1": "im2col"}, layout=Layout.PLANAR))
    layers = {layer.name: layer for layer in profile(net, rounds=3).layers}
    conv = layers["block1.conv1"]
    assert (conv.op_type, conv.kernel, conv.shape) == ("Conv", "im2col", (1, 8, 8, 8))
    assert conv.macs == 8 * 8 * 8 * 8 * 9
    assert conv.gflops == pytest.approx(2e-3 * conv.macs / conv.microseconds)
    assert conv.least <= conv.microseconds


def test_copies_between_layers_have_no_kernel() -> None:
    net = model("residual")
    net.plan(selector=KernelSelector(layout=Layout.LAST))
    layers = {layer.name: layer for layer in profile(net, rounds=3).layers}
    assert layers["copy of input"].kernel == layers["copy of input"].op_type == ""
