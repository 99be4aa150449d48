"""The product's nets and a residual one with seeded weights, and each written plainly in PyTorch to compare with."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from engine import nets
from engine.graph import Array, Graph
from engine.nets.layers import NetBuilder

NETS = ("mnist", "lenet", "cifar_small", "cifar10", "residual")  # small enough for any test; others: test_big_nets.py


def residual() -> Graph:
    """A small ResNet: batch norms, a block that adds its input and one that adds a projection of it."""
    net = NetBuilder("residual", (3, 16, 16))
    stem = net.conv(net.input, "conv1", 3, 8, 3, stride=2, pad=1, bias=False)
    x = net.relu(net.batch_norm(stem, "bn1", 8))
    y = net.relu(net.batch_norm(net.conv(x, "block1.conv1", 8, 8, 3, pad=1, bias=False), "block1.bn1", 8))
    y = net.batch_norm(net.conv(y, "block1.conv2", 8, 8, 3, pad=1, bias=False), "block1.bn2", 8)
    x = net.relu(net.add(y, x))
    y = net.batch_norm(net.conv(x, "block2.conv1", 8, 16, 3, stride=2, pad=1, bias=False), "block2.bn1", 16)
    shortcut = net.batch_norm(net.conv(x, "block2.down", 8, 16, 1, stride=2, bias=False), "block2.downbn", 16)
    x = net.relu(net.add(y, shortcut))
    return net.graph(net.linear(net.flatten(net.global_average_pool(x)), "fc", 16, 5), (5,))


def build(name: str) -> Graph:
    return residual() if name == "residual" else nets.build(name)


def weights(name: str) -> dict[str, Array]:
    """Seeded, scaled by fan-in; RandomState's stream is frozen for good (NEP 19)."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    arrays = {}
    for key, shape in build(name).parameters.items():
        scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.5
        arrays[key] = state.uniform(-1.7 * scale, 1.7 * scale, shape).astype(np.float32)
        if key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            arrays[key] = np.abs(arrays[key]) + np.float32(0.5)
    return arrays


def images(name: str, count: int = 2) -> Array:
    shape = build(name).inputs[0].shape[1:]
    # The seed of the stored golden logits.
    state = np.random.RandomState(zlib.crc32(f"{name} pictures".encode()))
    return state.uniform(-1, 1, (count, *shape)).astype(np.float32)


def run_in_torch(name: str, arrays: dict[str, Array], x: Array) -> Array:
    """Logits of the net as PyTorch computes them, written from the nets' description (needs torch)."""
    import torch
    import torch.nn.functional as F

    p: dict[str, Any] = {key: torch.from_numpy(array) for key, array in arrays.items()}

    def conv(data: Any, key: str, **options: Any) -> Any:
        return F.conv2d(data, p[f"{key}.weight"], p.get(f"{key}.bias"), **options)

    def linear(data: Any, key: str) -> Any:
        return F.linear(data, p[f"{key}.weight"], p[f"{key}.bias"])

    def norm(data: Any, key: str) -> Any:
        fields = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(data, *(p[f"{key}.{field}"] for field in fields))

    def pooled(data: Any) -> Any:
        return F.max_pool2d(F.relu(data), 2)

    data: Any = torch.from_numpy(x)
    if name == "mnist":
        data = linear(pooled(conv(data, "conv1")).flatten(1), "fc")
    elif name in ("lenet", "cifar_small"):
        data = pooled(conv(pooled(conv(data, "conv1")), "conv2")).flatten(1)
        data = linear(F.relu(linear(F.relu(linear(data, "fc1")), "fc2")), "fc3")
    elif name == "cifar10":
        for stage in (1, 2, 3):
            data = pooled(conv(data, f"conv{stage}", padding=1))
        data = linear(F.relu(linear(data.flatten(1), "fc1")), "fc2")
    elif name == "track":
        for key, stride in (("stem", 2), ("second", 2)):
            data = F.relu(norm(conv(data, key, stride=stride, padding=1), f"{key}_bn"))
        data = data + F.relu(norm(conv(data, "third", padding=1), "third_bn"))
        data = F.relu(norm(conv(data, "fourth", stride=2, padding=1), "fourth_bn"))
        for i, reach in enumerate((1, 2, 4, 1), start=1):
            data = data + F.relu(norm(conv(data, f"wide{i}", padding=reach, dilation=reach), f"wide{i}_bn"))
        data = conv(data, "head")
    elif name == "residual":
        data = F.relu(norm(conv(data, "conv1", stride=2, padding=1), "bn1"))
        inner = F.relu(norm(conv(data, "block1.conv1", padding=1), "block1.bn1"))
        data = F.relu(norm(conv(inner, "block1.conv2", padding=1), "block1.bn2") + data)
        inner = norm(conv(data, "block2.conv1", stride=2, padding=1), "block2.bn1")
        data = F.relu(inner + norm(conv(data, "block2.down", stride=2), "block2.downbn"))
        data = linear(F.adaptive_avg_pool2d(data, 1).flatten(1), "fc")
    else:
        raise ValueError(f"net '{name}' is not written down here")
    return np.ascontiguousarray(data.numpy())
