"""Shares one read-only copy of a model with many processes: a JSON header, then each array at a multiple of 64 bytes.

The parent writes it into a memfd, every worker maps it. It is an exchange between processes of one program, not a file
format: the version must match exactly. Nevertheless all of it is checked before use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import prod
from mmap import mmap
from typing import Any, BinaryIO

import numpy as np

from engine.compiler.planner import PreparedGraph
from engine.graph import Array, Graph, ModelError, Node, Shape, Value
from engine.kernels.step import ALIGNMENT, Layout
from engine.model import Model, ModelCard

MAGIC = b"engine-share-3\n\0"
MAX_HEADER = 16 << 20
DTYPES = ("float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def write_shared(model: Model, target: BinaryIO | int) -> int:
    """Write card, optimised graph, kernels and packed parameters at the target's position; return the number of bytes.

    They include the selected kernels and packed parameters of this model's plans: attached models select and pack none.
    The target is a binary file, or a file descriptor (which stays open), such as one of `os.memfd_create`.

    Raises:
        ModelError: the graph has an attribute that JSON cannot hold.
        OSError: the target cannot be written.
    """
    if isinstance(target, int):
        with os.fdopen(os.dup(target), "wb") as file:
            return write_shared(model, file)
    shapes = model.default_shapes
    prepared = model.prepared[0] if model.prepared and model.prepared[0].fits(shapes) else model.prepare(shapes)
    assert prepared.graph is not None
    arrays = {**prepared.graph.initializers, **prepared.packed}
    places, size = {}, 0
    for name, array in arrays.items():
        places[name] = {"shape": array.shape, "offset": size, "dtype": array.dtype.name}
        size += _round_up(array.nbytes)
    header = _header(model.card, prepared, places, size)
    start = _round_up(len(MAGIC) + 8 + len(header))
    target.write((MAGIC + len(header).to_bytes(8, "little") + header).ljust(start, b"\0"))
    for array in arrays.values():
        data = np.ascontiguousarray(array)
        target.write(data.data)
        target.write(bytes(_round_up(data.nbytes) - data.nbytes))
    return start + size


def attach_shared(buffer: bytes | mmap | memoryview) -> Model:
    """Return the model in a buffer that `write_shared` filled; its arrays are read-only views, nothing is copied.

    An `mmap` must stay open as long as the model is used. Raises ModelError if the buffer is damaged or holds no model.
    """
    view = memoryview(buffer).toreadonly().cast("B")
    prefix = len(MAGIC) + 8
    if len(view) < prefix or view[: len(MAGIC)] != MAGIC:
        raise ModelError("shared model: this memory holds none, or one of another program version")
    length = int.from_bytes(view[len(MAGIC) : prefix], "little")
    if length > min(MAX_HEADER, len(view) - prefix):
        raise ModelError(f"shared model: a header of {length} bytes in {len(view)} bytes")
    try:
        found = json.loads(bytes(view[prefix : prefix + length]))
        card = ModelCard.from_json(found["card"])
        arrays = dict(_arrays(view, found["arrays"], _round_up(prefix + length), found["size"]))
        packed = {str(name): arrays[name] for name in found["packed"]}
        graph = _graph(found["graph"], {name: arrays[name] for name in arrays.keys() - packed.keys()})
        prepared = PreparedGraph(
            items=tuple(_shape(shape) for shape in found["items"]),
            batches=tuple(_shape(shape) for shape in found["batches"]),
            graph=graph,
            layout=Layout(found["layout"]),
            packed=packed,
            pins={str(name): str(kernel) for name, kernel in found["pins"].items()},
            shapes={name: _shape(shape) for name, shape in found["shapes"].items()},
            final=True,
        )
        return Model(card, graph, [prepared])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"shared model: damaged header: {type(error).__name__}: {error}") from error


def _header(card: ModelCard, prepared: PreparedGraph, places: Mapping[str, Any], size: int) -> bytes:
    graph = prepared.graph
    assert graph is not None
    described = {
        "name": graph.name,
        "inputs": [asdict(value) for value in graph.inputs],
        "outputs": [asdict(value) for value in graph.outputs],
        "nodes": [{**vars(node), "attributes": dict(node.attributes)} for node in graph.nodes],
    }
    header = {
        "card": card.to_json(),
        "graph": described,
        "items": prepared.items,
        "batches": prepared.batches,
        "layout": prepared.layout.value,
        "pins": prepared.pins,
        "shapes": prepared.shapes,
        "packed": list(prepared.packed),
        "arrays": places,
        "size": size,
    }
    try:
        return json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ModelError(f"net '{graph.name}' cannot be shared: {error}") from error


def _arrays(view: memoryview, places: Mapping[str, Any], start: int, size: int) -> Iterator[tuple[str, Array]]:
    if start + size > len(view):
        raise ModelError(f"shared model: expected {start + size} bytes, found {len(view)}")
    for name, place in places.items():
        shape, offset = _shape(place["shape"]), place["offset"]
        if place["dtype"] not in DTYPES:
            raise ModelError(f"shared model: array '{name}' of {place['dtype']!r:.20}")
        dtype = np.dtype(place["dtype"])
        nbytes = dtype.itemsize * prod(shape)
        if not isinstance(offset, int) or offset % ALIGNMENT or not 0 <= offset <= size - nbytes:
            raise ModelError(f"shared model: array '{name}' of {nbytes} bytes at {offset} is not within {size} bytes")
        yield name, np.frombuffer(view, dtype, prod(shape), start + offset).reshape(shape)


def _graph(found: Mapping[str, Any], arrays: Mapping[str, Array]) -> Graph:
    return Graph(
        name=str(found["name"]),
        inputs=tuple(Value(item["name"], _shape(item["shape"]), item["dtype"]) for item in found["inputs"]),
        outputs=tuple(Value(item["name"], _shape(item["shape"]), item["dtype"]) for item in found["outputs"]),
        nodes=tuple(
            Node(
                item["op_type"],
                tuple(item["inputs"]),
                tuple(item["outputs"]),
                {key: tuple(value) if isinstance(value, list) else value for key, value in item["attributes"].items()},
                item["name"],
            )
            for item in found["nodes"]
        ),
        initializers=arrays,
    )


def _shape(found: Any) -> Shape:
    if not isinstance(found, list) or not all(isinstance(size, int) and size >= 0 for size in found):
        raise ModelError(f"shared model: {found!r:.60} is not a shape")
    return tuple(found)


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
