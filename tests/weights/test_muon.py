from copy import deepcopy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from weights.muon import Muon, orthogonal  # noqa: E402


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (5, 5)])
def test_singular_values_are_brought_to_about_one(shape):
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    values = torch.linalg.svdvals(orthogonal(matrix)).numpy()
    assert values.min() > 0.4
    assert values.max() < 1.3


def test_it_fits_a_linear_map_and_continues_from_its_state():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=generator)
    wanted = inputs @ torch.randn(6, 4, generator=generator) + 0.5

    def begin():
        matrix, bias = torch.nn.Parameter(torch.zeros(6, 4)), torch.nn.Parameter(torch.zeros(4))
        return matrix, bias, Muon([matrix], [bias], lr=0.05, lr_others=0.5, weight_decay=0.0)

    def steps(matrix, bias, optimiser, count):
        for _ in range(count):
            loss = ((inputs @ matrix + bias - wanted) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    matrix, bias, optimiser = begin()
    first = steps(matrix, bias, optimiser, 1)
    steps(matrix, bias, optimiser, 59)
    again_matrix, again_bias, again = begin()
    again.load_state_dict(deepcopy(optimiser.state_dict()))
    with torch.no_grad():
        again_matrix.copy_(matrix)
        again_bias.copy_(bias)
    last = steps(matrix, bias, optimiser, 60)
    assert last < 0.01 * first
    assert steps(again_matrix, again_bias, again, 60) == last
