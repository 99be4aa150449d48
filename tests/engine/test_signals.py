"""Nets of signals: any length and batch, and float64 where float32 holds it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from engine import nets
from engine.graph import ModelError
from engine.inputs import as_float32
from engine.model import Model, for_length
from tests.engine.nets.test_nets import model as image_model

NAMES = ("mobilenet_v3_1d_small", "mobilenet_v3_1d_large")


def arrays(name: str, channels: int, length: int) -> dict[str, np.ndarray]:
    graph = nets.REGISTRY[name].build(channels=channels, length=length)
    rng = np.random.default_rng(0)
    return {key: rng.uniform(0.05, 0.1, shape).astype(np.float32) for key, shape in graph.parameters.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [16, 33, 300])
def test_a_file_s_net_takes_signals_of_any_length_as_if_built_for_them(name: str, length: int) -> None:
    values = arrays(name, 3, 224)
    loaded = Model(nets.default_card(name), nets.fit(name, values)[0])
    inputs = np.random.default_rng(1).normal(size=(5, 3, length)).astype(np.float32)
    graph, card = nets.fit(name, values, (3, length))
    np.testing.assert_array_equal(loaded.run(inputs), Model(card, graph).run(inputs))
    assert loaded.run(np.zeros((2, 3, 224), np.float32)).shape == (2, 2)
    assert loaded.run(inputs[:1]).shape == (1, 2)


def test_other_channels_are_still_refused() -> None:
    loaded = Model(nets.default_card(NAMES[0]), nets.fit(NAMES[0], arrays(NAMES[0], 3, 224))[0])
    with pytest.raises(ModelError, match=r"is \(N, 3, 224\), found \(1, 4, 300\)"):
        loaded.run(np.zeros((1, 4, 300), np.float32))


def test_only_nets_of_signals_change_their_length() -> None:
    with pytest.raises(ModelError, match=r"net 'mnist' takes items of \(1, 28, 28\), and no others"):
        for_length(image_model("mnist"), 30)


def test_float64_is_converted_with_a_warning_that_python_shows_once() -> None:
    net = image_model("mnist")
    image = np.random.default_rng(0).uniform(size=(1, 1, 28, 28))
    with pytest.warns(UserWarning, match="float64 was converted to float32"):
        found = net.run(image)
    np.testing.assert_array_equal(found, net.run(image.astype(np.float32)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            net.run(image)
    assert len(said) == 1


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_numbers_beyond_float32_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="too large"):
        as_float32(np.array([0.0, value]))


@pytest.mark.filterwarnings("ignore:input. float64")
def test_infinities_nan_and_tiny_numbers_pass() -> None:
    given = np.array([np.inf, -np.inf, np.nan, 1e-320, 0.1])
    np.testing.assert_array_equal(as_float32(given), given.astype(np.float32))
    whole = np.arange(3)
    assert as_float32(whole) is whole
