"""Small nets with the outputs of known detectors: random features of a picture, scaled so that some cells find objects.

They are written as ONNX files by the engine, with the shapes and the last operators of the real exports.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.formats.onnx import write_onnx
from engine.graph import Graph, Node, Value
from engine.model import Model
from engine.model_card import ModelCard

Floats = NDArray[np.float32]
CHANNELS = 16


class Twin:
    """Collects the nodes of one net.

    Args:
        item: the normalised picture (C, H, W) whose features the outputs are scaled by.
        strides: of the levels, each twice the one before.
    """

    def __init__(self, item: Floats, strides: Sequence[int], seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._input = Value("images", (1, *item.shape))
        self._nodes: list[Node] = []
        self._arrays: dict[str, Any] = {}
        self._levels: dict[int, tuple[str, Floats]] = {}
        x, channels, spread = "images", item.shape[0], float(item.std())
        for before, stride in zip((1, *strides), strides, strict=False):
            step = stride // before
            weight = self._random(CHANNELS, channels, step, step) / np.float32(np.sqrt(channels) * step * spread / 2)
            x = self.node("Conv", x, self.constant(weight), strides=(step, step), kernel_shape=(step, step))
            # Bounded features: those of every level are of the same size.
            x = self.node("Tanh", x)
            model = Model(self._card(), self._graph({x: ()}))
            self._levels[stride] = x, np.asarray(model.run(item[None]))[0]
            channels, spread = CHANNELS, 1.0

    def _random(self, *shape: int) -> Floats:
        return self._rng.standard_normal(shape).astype(np.float32)

    def _graph(self, outputs: dict[str, tuple[int, ...]]) -> Graph:
        values = tuple(Value(name, shape) for name, shape in outputs.items())
        return Graph("twin", (self._input,), values, tuple(self._nodes), initializers=dict(self._arrays))

    def _card(self, **more: Any) -> ModelCard:
        return ModelCard("twin", input_shape=self._input.shape[1:], **more)

    def constant(self, array: Any) -> str:
        """Add an initializer."""
        name = f"constant{len(self._arrays)}"
        self._arrays[name] = np.asarray(array)
        return name

    def node(self, op_type: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node and name its output."""
        outputs = tuple(outputs) or (f"value{len(self._nodes)}",)
        self._nodes.append(Node(op_type, inputs, outputs, attributes, outputs[0]))
        return outputs[0]

    def conv(self, stride: int, means: Sequence[float], stds: Sequence[float]) -> str:
        """Add a layer on a level whose outputs have these means and standard deviations over the picture's cells."""
        name, features = self._levels[stride]
        weight = self._random(len(means), CHANNELS)
        made = np.einsum("oc,chw->ohw", weight, features)
        spread = made.std(axis=(1, 2))
        # A level of one cell has none.
        scale = np.array(stds, np.float32) / np.where(spread > 0, spread, 1)
        bias = np.array(means, np.float32) - made.mean(axis=(1, 2)) * scale
        weight = (weight * scale[:, None])[:, :, None, None]
        return self.node("Conv", name, self.constant(weight), self.constant(bias), kernel_shape=(1, 1))

    def reshape(self, x: str, *shape: int) -> str:
        """Add a Reshape."""
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def rows(self, x: str, numbers: int) -> str:
        """Turn (1, numbers, h, w) into (1, h * w, numbers)."""
        return self.node("Transpose", self.reshape(x, 1, numbers, -1), perm=(0, 2, 1))

    def concat(self, *parts: str, axis: int) -> str:
        """Add a Concat."""
        return self.node("Concat", *parts, axis=axis)

    def save(self, path: Path, outputs: dict[str, tuple[int, ...]], **card: Any) -> Path:
        """Write the net with these outputs and their shapes."""
        write_onnx(path, self._graph(outputs), self._card(**card))
        return path
