"""The published nets: known numbers of parameters, the same logits as in PyTorch, S1's spellings, and the cat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import nets
from engine.graph import Array, Graph

IMAGENET = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "imagenet"

# As torchvision and the papers count them: without running statistics.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "squeezenet1_1": 1_235_496,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters_is_the_published_one(name: str) -> None:
    shapes = nets.build(name).parameters
    assert sum(int(np.prod(shape)) for key, shape in shapes.items() if "running" not in key) == PARAMETERS[name]


def weights(graph: Graph) -> dict[str, Array]:
    """Seeded, and scaled so that activations neither vanish nor explode over a hundred layers."""
    generator = np.random.default_rng(9)
    arrays = {}
    for key, shape in graph.parameters.items():
        if len(shape) > 1:
            gain = (2 / np.prod(shape[1:])) ** 0.5
            arrays[key] = generator.standard_normal(shape, np.float32) * np.float32(gain)
        elif key.endswith(("running_var", "norm.weight")) or (
            "weight" in key and f"{key[:-6]}running_var" in graph.parameters
        ):
            arrays[key] = generator.uniform(0.5, 1.0, shape).astype(np.float32)
        else:
            arrays[key] = generator.uniform(-0.1, 0.1, shape).astype(np.float32)
    return arrays
