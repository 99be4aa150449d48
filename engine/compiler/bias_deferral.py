"""Defers biases: a value lacks its bias, and the nodes that read it account for that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.compiler.cleanup import drop_unused
from engine.graph import Array, Graph, Node
from engine.kernels.block import BLOCK, PAIR
from engine.kernels.step import FLOOR

# An offset is at most this many times a layer's largest bias, which costs up to two bits of precision.
MAX_OFFSET = 4
# Longest chain of Adds that pass offsets on; each may double them.
MAX_SUMS = 6


def defer_biases(graph: Graph) -> Graph:
    """Add biases late or never: keep a value y as t = y - b, with an offset b for each channel.

    max(x + b, 0) is max(x, -b) + b: one pass over the numbers instead of two. A Conv or Gemm that reads t has W b in
    its own bias (and -b as its padding); a pool passes b on; a residual's b joins the bias. So many biases end up as
    the floor of an activation (`FLOOR`), which costs almost nothing. Applied only if every reader can account for b and
    if b stays small: along a deep net W (W (W b)) would grow without bound, and y would be lost in its rounding.
    """
    return _Deferral(graph).run()


class _Deferral:
    """Rewrites the nodes of one graph in order, with the offset of each value so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.arrays = dict(graph.initializers)
        self.outputs = {value.name for value in graph.outputs}
        self.readers: dict[str, list[tuple[Node, int]]] = {}
        for node in graph.nodes:
            for at, name in enumerate(node.inputs):
                self.readers.setdefault(name, []).append((node, at))
        self.offsets: dict[str, Array] = {}  # value -> the offset that it lacks by channel, float64
        self.channels: dict[str, int] = {}  # value -> its channels, if known
        self.sums: dict[str, int] = {}  # value -> length of the chain of Adds before it
        for node in graph.nodes:
            if (count := self._channels(node)) is not None:
                self.channels[node.outputs[0]] = count
        self.deferrable: set[str] = set()  # values of which every reader can account for an offset
        for node in reversed(graph.nodes):
            name = node.outputs[0]
            if name not in self.outputs and all(self._absorbs(*reader) for reader in self.readers.get(name, [])):
                self.deferrable.add(name)

    def run(self) -> Graph:
        nodes = tuple(self._rewrite(node) for node in self.graph.nodes)
        return drop_unused(replace(self.graph, nodes=nodes, initializers=self.arrays))

    def _rewrite(self, node: Node) -> Node:
        if node.op_type in ("Conv", "Gemm") and self._is_linear(node):
            return self._linear(node)
        if node.op_type in (PAIR, BLOCK):
            return self._block(node)
        if node.op_type == "MaxPool" and len(node.inputs) == 2:
            own = self.arrays[node.inputs[1]].astype(np.float64)
            return self._store(node, 1, own + self.offsets.get(node.inputs[0], 0.0), own)
        if node.op_type in ("Add", "Concat") and any(name in self.offsets for name in node.inputs):
            parts = [self.offsets.get(name, np.zeros(self.channels[name])) for name in node.inputs]
            self.offsets[node.outputs[0]] = sum(parts[1:], parts[0]) if node.op_type == "Add" else np.concatenate(parts)
        elif node.inputs and node.inputs[0] in self.offsets:  # a pool or Flatten: only these leave an offset
            self.offsets[node.outputs[0]] = self.offsets[node.inputs[0]]
        return node

    def _block(self, node: Node) -> Node:
        """Add the first matrix times the offset to its bias column, and a residual's offset to the last matrix's."""
        inputs = list(node.inputs)
        if inputs[0] in self.offsets:
            matrix, offset = self.arrays[inputs[1]].astype(np.float64), self.offsets[inputs[0]]
            matrix[:, -1] += matrix[:, :-1] @ np.repeat(offset, (matrix.shape[1] - 1) // len(offset))
            inputs[1] = self._late(inputs[1], matrix)
        if len(inputs) > 4 and inputs[4] in self.offsets:
            matrix = self.arrays[inputs[3]].astype(np.float64)
            matrix[:, -1] += self.offsets[inputs[4]]
            inputs[3] = self._late(inputs[3], matrix)
        return replace(node, inputs=tuple(inputs))

    def _late(self, name: str, matrix: Array) -> str:
        self.arrays[f"{name}, late"] = matrix.astype(np.float32)
        return f"{name}, late"

    def _linear(self, node: Node) -> Node:
        weight, has_residual = self.arrays[node.inputs[1]], bool(node.attributes.get("residual"))
        if node.op_type == "Gemm":
            weight = weight if node.attributes.get("transB") else weight.T
        has_bias = len(node.inputs) - has_residual > 2
        bias = self.arrays[node.inputs[2]].astype(np.float64) if has_bias else np.zeros(len(weight))
        own, attributes = bias, dict(node.attributes)
        offset = self.offsets.get(node.inputs[0])
        if offset is not None:
            by_input = weight.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
            if node.op_type == "Conv":
                of_group = np.repeat(
                    offset.reshape(-1, weight.shape[1]), len(weight) * weight.shape[1] // len(offset), 0
                )
                bias = bias + (by_input * of_group).sum(axis=1)
                # Unused if nothing is padded.
                attributes["padding"] = tuple((-offset).astype(np.float32).tolist())
            else:  # after a Flatten a channel has several features
                bias = bias + by_input @ np.repeat(offset, weight.shape[1] // len(offset))
        if has_residual:
            bias = bias + self.offsets.get(node.inputs[-1], 0.0)
        if not bias.any():
            return replace(node, attributes=attributes)
        for reader, _ in self.readers.get(node.outputs[0], []) if not has_bias else []:
            if reader.op_type == "MaxPool" and len(reader.inputs) == 2:  # `delay_epilogues` moved the bias to it
                own = self.arrays[reader.inputs[1]]
        return self._store(replace(node, attributes=attributes), 2, bias, own, has=has_bias)

    def _store(self, node: Node, at: int, bias: Array, own: Array, has: bool = True) -> Node:
        """Return the node with this bias: as a floor or not at all if its readers add it, else as its input `at`.

        `own` is the node's bias in the net; a small offset is small compared with it.
        """
        name, attributes = node.outputs[0], dict(node.attributes)
        before, after = node.inputs[:at], node.inputs[at + has :]
        activation = attributes.get("activation", "")
        small = np.abs(bias).max() <= MAX_OFFSET * np.abs(own).max()
        if small and activation in ("", "Relu") and name in self.deferrable:
            self.offsets[name] = bias
            if not activation:
                return replace(node, inputs=(*before, *after))
            attributes["activation"], bias = FLOOR, -bias
        key = f"{name}/late bias"
        self.arrays[key] = bias.astype(np.float32)
        return replace(node, inputs=(*before, key, *after), attributes=attributes)

    def _is_linear(self, node: Node) -> bool:
        """Return whether the node's bias can be computed when planning."""
        has = node.attributes
        fixed = node.inputs[1 : len(node.inputs) - bool(has.get("residual"))]
        if not all(name in self.arrays for name in fixed):
            return False
        if node.op_type == "Conv":
            return True
        vector = len(node.inputs) < 3 or self.arrays[node.inputs[2]].ndim == 1
        return vector and not has.get("transA") and has.get("alpha", 1.0) == has.get("beta", 1.0) == 1.0

    def _channels(self, node: Node) -> int | None:
        """Return the channels of a node's output; None if they do not follow from the nodes before."""
        if node.op_type == "Conv":
            return len(self.arrays[node.inputs[1]]) if node.inputs[1] in self.arrays else None
        if node.op_type in (PAIR, BLOCK):
            return len(self.arrays[node.inputs[3 if node.op_type == BLOCK else 2]])
        counts = [self.channels[name] for name in node.inputs if name in self.channels]
        if node.op_type in ("MaxPool", "AveragePool"):
            return counts[0] if counts else None
        if len(counts) < len(node.inputs):
            return None
        if node.op_type == "Add":
            deep = self.sums[node.outputs[0]] = 1 + max(self.sums.get(name, 0) for name in node.inputs)
            return counts[0] if len(set(counts)) == 1 and deep <= MAX_SUMS else None
        return sum(counts) if node.op_type == "Concat" and node.attributes.get("axis") == 1 else None

    def _absorbs(self, node: Node, at: int) -> bool:
        """Return whether the node can account for an offset of its input `at`."""
        if node.op_type == "Conv" and (at == 0 or (node.attributes.get("residual") and at == len(node.inputs) - 1)):
            return self._is_linear(node)
        if node.op_type == "Gemm" and at == 0:
            return self._is_linear(node)
        if node.op_type in (PAIR, BLOCK):
            padded = any(node.attributes.get("first_pads", ())) or "first_auto_pad" in node.attributes
            return at > 0 or not padded
        if node.op_type == "MaxPool" and len(node.inputs) == 2:
            return at == 0
        if node.op_type in ("Add", "Concat") and "activation" not in node.attributes:
            return node.outputs[0] in self.channels and node.outputs[0] in self.deferrable
        plain = len(node.inputs) == 1 and "activation" not in node.attributes
        if node.op_type == "AveragePool":
            plain = plain and not node.attributes.get("count_include_pad")
        passes_on = ("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
        if node.op_type == "Flatten" and node.attributes.get("axis", 1) != 1:
            return False
        return plain and node.op_type in passes_on and node.outputs[0] in self.deferrable
