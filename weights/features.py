"""Runs a net up to its last layer on image files, in the application's worker processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from camapp.capture.images import read_image
from camapp.commands.classify.command import grouped, suitable_batch
from camapp.commands.classify.job import to_message
from camapp.core.errors import PoolError
from camapp.core.image import silence_opencv
from camapp.core.image_ops import Preprocessor
from camapp.core.models import run_items
from camapp.workers.ordered import OrderedRun, Work
from camapp.workers.pool import OwnJob
from engine import nets
from engine.graph import Array, Graph, Node, Value
from engine.model import Model
from weights import WeightsError
from weights.softmax import Layer

TASK = "features"
_MAKE = "weights.features:make"
# Seconds after which a worker counts as hung, and images that it gets at a time.
_STUCK_AFTER, _STRIDE = 120.0, 16
# Operators between the last layer and the output that only turn scores into other scores.
_AFTER = ("Identity", "Softmax", "LogSoftmax", "Sigmoid", "Dropout")


@dataclass(frozen=True)
class Backbone:
    """A net cut before its last layer.

    Attributes:
        model: whose output are the features, (N, features).
        start: the whole model.
        head: the last layer, a Gemm.
    """

    model: Model
    start: Model
    head: Node

    @property
    def width(self) -> int:
        """Return the number of features."""
        return int(self.model.graph.outputs[0].shape[1])

    def with_layer(self, layer: Layer, **card: Any) -> Model:
        """Return the model with another last layer, for other classes; `card` changes fields of its card."""
        graph = self.start.graph
        weight, bias = self.head.inputs[1:3]
        # What the start's card says of its outputs and its file does not hold for other classes.
        changed = replace(self.start.card, **{"outputs": (), "metadata": {}, "rejection": {}, "head": "", **card})
        arrays = {**graph.initializers, weight: layer.weight, bias: layer.bias}
        if graph.parameters:
            return Model(changed, nets.fit(changed.net, arrays)[0])
        at = graph.nodes.index(self.head)
        attributes = {"transB": 1}
        head = replace(self.head, outputs=(graph.outputs[0].name,), attributes=attributes)
        outputs = (replace(graph.outputs[0], shape=(0, len(layer.bias))),)
        return Model(changed, replace(graph, nodes=(*graph.nodes[:at], head), outputs=outputs, initializers=arrays))


def backbone_of(model: Model) -> Backbone:
    """Cut a net before its last layer.

    Raises:
        WeightsError: its last layer is not a fully connected one of its own with biases, or it takes no images.
    """
    graph, card = model.graph, model.card
    makers = {output: node for node in graph.nodes for output in node.outputs}
    value = graph.outputs[0].name
    while (node := makers.get(value)) is not None and node.op_type in _AFTER:
        value = node.inputs[0]
    other = "choose a net such as mobilenet_v3_small or resnet18"
    if len(graph.outputs) > 1 or node is None or node.op_type != "Gemm" or len(node.inputs) < 3:
        raise WeightsError(f"net '{card.net}' has no fully connected last layer to replace: {other}")
    plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0
    weight = graph.initializers.get(node.inputs[1])
    if weight is None or not plain or node.attributes.get("transA", 0):
        raise WeightsError(f"the last layer of net '{card.net}' is of a kind that cannot be replaced: {other}")
    if graph.parameters and nets.REGISTRY[card.net].head != node.inputs[1]:
        raise WeightsError(f"net '{card.net}' exists for its own classes only: {other}")
    if not card.colour:
        raise WeightsError(f"net '{card.net}' takes no images: {other}")
    width = weight.shape[1 if node.attributes.get("transB", 0) else 0]
    nodes, arrays = _needed(graph, node.inputs[0])
    outputs = (Value(node.inputs[0], (0, width)),)
    cut = Graph(f"{graph.name}_features", graph.inputs, outputs, nodes, {}, arrays)
    return Backbone(Model(replace(card, task=TASK, labels=(), outputs=()), cut), model, node)


def _needed(graph: Graph, value: str) -> tuple[tuple[Node, ...], dict[str, Array]]:
    """Return the nodes that compute a value, and their arrays."""
    wanted, nodes = {value}, []
    for node in reversed(graph.nodes):
        if wanted & set(node.outputs):
            nodes.append(node)
            wanted |= set(node.inputs)
    return tuple(reversed(nodes)), {name: graph.initializers[name] for name in graph.initializers if name in wanted}


def features(
    backbone: Backbone,
    files: Sequence[str],
    fit: str = "crop",
    workers: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Array, dict[int, str]]:
    """Return the features of image files, and why some of them have none.

    Args:
        fit: of the images to the net's input, as the application will fit them.
        workers: processes; 0 takes all cores.
        progress: called with the number of files done since the last call.

    Returns:
        float32 (files, features), zeros for a file that cannot be read; and the reasons, by index.

    Raises:
        WeightsError: no worker stays alive.
    """
    found = np.zeros((len(files), backbone.width), np.float32)
    bad: dict[int, str] = {}
    at = 0
    work: Work[list[str], tuple[Array, dict[int, str]]] = Work(
        write=lambda part, slot: (len(part), to_message(part)),
        read=lambda part, outcome: _from_bytes(outcome.reply),
        give_up=lambda part, error: (
            np.zeros((len(part), backbone.width), np.float32),
            dict.fromkeys(range(len(part)), f"the process that read it failed: {error}"),
        ),
        split=lambda part: [[file] for file in part],
    )
    options = {"batch": min(_STRIDE, suitable_batch(backbone.model)), "fit": fit}
    run = OrderedRun(backbone.model, work, 1, workers or os.cpu_count() or 1, 1, OwnJob(_MAKE, options, _STUCK_AFTER))
    try:
        for part, reasons in run.results(grouped(files, lambda: _STRIDE)):
            found[at : at + len(part)] = part
            bad.update({at + index: reason for index, reason in reasons.items()})
            at += len(part)
            progress(len(part))
    except PoolError as error:
        raise WeightsError(f"computing features stopped: {error}") from error
    return found, bad


def make(model: Model, options: dict[str, Any]) -> Callable[[bytes], Iterator[bytes]]:
    """Make a worker's job: from a message of file names to the bytes that `_from_bytes` reads."""
    cv2.setNumThreads(1)
    silence_opencv()
    preprocess = Preprocessor(model.card, options["fit"])
    batch = model.only_batch or options["batch"]

    def job(message: bytes) -> Iterator[bytes]:
        names = os.fsdecode(message).split("\0")
        inputs = np.zeros((len(names), *model.card.input_shape), np.float32)
        bad = {}
        for index, name in enumerate(names):
            try:
                preprocess(read_image(name), inputs[index])
            except (OSError, ValueError, MemoryError, cv2.error) as error:
                bad[index] = getattr(error, "strerror", None) or " ".join(str(error).split())
            yield b""
        (found,) = run_items(model, inputs, len(names), batch)
        found[list(bad)] = 0
        yield json.dumps([found.shape, bad]).encode() + b"\n" + np.ascontiguousarray(found, np.float32).tobytes()

    return job


def _from_bytes(reply: bytes) -> tuple[Array, dict[int, str]]:
    head, _, rest = reply.partition(b"\n")
    shape, bad = json.loads(head)
    return np.frombuffer(rest, np.float32).reshape(shape), {int(index): reason for index, reason in bad.items()}
