"""What the tests of the workers share."""

import numpy as np
import pytest

from engine import nets
from engine.model import Model


@pytest.fixture(scope="module")
def model():
    """A small net with random weights."""
    rng = np.random.default_rng(7)
    graph = nets.build("mnist")
    graph = graph.bind({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in graph.parameters.items()})
    return Model(nets.default_card("mnist"), graph)
