"""The profile accounts for every layer of a plan once, with its kernel and its share."""

from __future__ import annotations

import pytest

from engine.profile import profile
from tests.engine.test_nets import model


@pytest.mark.parametrize("name", ["mnist", "cifar10", "residual"])
def test_every_call_of_the_plan_is_in_one_layer(name: str) -> None:
    net = model(name)
    found = profile(net, rounds=3)
    layers = found.layers
    assert sum(layer.calls for layer in layers) == len(net.plan().calls)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert found.macs == sum(layer.macs for layer in layers) == sum(each.step.macs for each in net.chosen())


def test_a_layer_says_its_kernel_and_speed() -> None:
    layers = {layer.name: layer for layer in profile(model("cifar10"), rounds=3).layers}
    conv = layers["conv2"]
    assert (conv.op_type, conv.kernel, conv.shape) == ("Conv+MaxPool", "bands", (1, 32, 8, 8))
    assert conv.gflops == pytest.approx(2e-3 * 16 * 16 * 32 * 16 * 9 / conv.microseconds)
    assert layers["copy of input"].kernel == ""
