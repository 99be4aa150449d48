"""Reads and writes ONNX files without the onnx package: a ModelProto (see onnx.proto) to a Graph and back.

Nodes of old operator sets are upgraded (`engine.formats.opsets`). Weights must lie in the file itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes import PARAMETERS
from engine.formats.content import MAX_ARRAYS, Content, array_of, read_bytes, reading, write_whole
from engine.formats.opsets import NEWEST, upgrade
from engine.formats.protobuf import bytes_field, float_field, int_field, read_message
from engine.graph import Array, Graph, ModelError, Node, Shape, UnsupportedOperator, Value
from engine.model_card import ModelCard

CARD = "card"  # key of the card's JSON among the model's metadata
DEFAULT_SIDE = 224  # if an image's size is free
WRITTEN_OPSET, WRITTEN_IR = 19, 9
MAX_NODES = 100_000
MAX_METADATA = 1 << 20  # characters

# onnx.TensorProto.DataType -> kind
KINDS = {
    1: "f4",
    2: "u1",
    3: "i1",
    4: "u2",
    5: "i2",
    6: "i4",
    7: "i8",
    9: "?",
    10: "f2",
    11: "f8",
    12: "u4",
    13: "u8",
    16: "bf16",
}
# onnx.AttributeProto.AttributeType -> field
ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}

ENTRY = {1: ("key", "text"), 2: ("value", "text")}
TENSOR = {
    1: ("dims", ["int"]),
    2: ("data_type", "int"),
    4: ("float_data", ["float"]),
    5: ("int32_data", ["int"]),
    7: ("int64_data", ["int"]),
    8: ("name", "text"),
    9: ("raw_data", "bytes"),
    10: ("double_data", ["double"]),
    11: ("uint64_data", ["int"]),
    13: ("external_data", [ENTRY]),
    14: ("data_location", "int"),
}
ATTRIBUTE = {
    1: ("name", "text"),
    2: ("f", "float"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    5: ("t", TENSOR),
    6: ("g", "bytes"),
    7: ("floats", ["float"]),
    8: ("ints", ["int"]),
    9: ("strings", ["bytes"]),
    20: ("type", "int"),
    21: ("ref_attr_name", "text"),
}
NODE = {
    1: ("input", ["text"]),
    2: ("output", ["text"]),
    3: ("name", "text"),
    4: ("op_type", "text"),
    5: ("attribute", [ATTRIBUTE]),
    7: ("domain", "text"),
}
DIMENSION = {1: ("value", "int"), 2: ("param", "text")}
TENSOR_TYPE = {1: ("elem_type", "int"), 2: ("shape", {1: ("dim", [DIMENSION])})}
VALUE_INFO = {1: ("name", "text"), 2: ("type", {1: ("tensor_type", TENSOR_TYPE)})}
GRAPH = {
    1: ("node", [NODE]),
    2: ("name", "text"),
    5: ("initializer", [TENSOR]),
    11: ("input", [VALUE_INFO]),
    12: ("output", [VALUE_INFO]),
    15: ("sparse_initializer", ["bytes"]),
}
MODEL = {
    1: ("ir_version", "int"),
    7: ("graph", GRAPH),
    8: ("opset_import", [{1: ("domain", "text"), 2: ("version", "int")}]),
    14: ("metadata_props", [ENTRY]),
    25: ("functions", ["bytes"]),
}


def read_onnx(path: Path) -> Content:
    """Return the graph with its weights, and a card: from the metadata, or derived from the first input.

    Raises:
        ModelError: not readable, damaged, or with weights outside the file.
        UnsupportedOperator: operators of other domains, subgraphs, functions, data types that the engine lacks.
    """
    with reading(path):
        return parse_onnx(read_bytes(path), path.stem)


def parse_onnx(data: bytes, name: str = "onnx") -> Content:
    """Parse the bytes of a file as `read_onnx` does, with its errors; `name` is the net's if the file has none."""
    model = read_message(memoryview(data), MODEL)
    if "graph" not in model or not model["graph"]["output"]:
        raise ModelError("not an ONNX model: it has no graph with outputs")
    if model["functions"]:
        raise UnsupportedOperator("it defines functions; inline them first")
    versions = [entry.get("version", 0) for entry in model["opset_import"] if entry.get("domain", "") in _OWN_DOMAINS]
    opset = max(versions, default=1)
    if not 1 <= opset <= NEWEST:
        raise UnsupportedOperator(f"operator set {opset}; known are 1 to {NEWEST}")
    graph = _graph(model["graph"], opset, name)
    texts = {entry.get("key", ""): entry.get("value", "") for entry in model["metadata_props"]}
    card = ModelCard.from_json(texts[CARD]) if CARD in texts else _guessed_card(graph, texts)
    return Content(graph.initializers, card, graph)


_OWN_DOMAINS = ("", "ai.onnx")


def _graph(found: Mapping[str, Any], opset: int, name: str) -> Graph:
    if found["sparse_initializer"]:
        raise UnsupportedOperator("sparse weights; store them as dense arrays")
    if len(found["initializer"]) > MAX_ARRAYS or len(found["node"]) > MAX_NODES:
        raise ModelError(f"{len(found['initializer'])} weights and {len(found['node'])} nodes are too many")
    arrays: dict[str, Array] = {}
    for tensor in found["initializer"]:
        if tensor.get("name", "") in ("", *arrays):
            raise ModelError(f"weight '{tensor.get('name', '')}' has no name, or that of another one")
        arrays[tensor["name"]] = _array(tensor, tensor["name"])
    nodes = []
    for index, item in enumerate(found["node"]):
        nodes += upgrade(_node(item, index), opset, arrays)
    nodes = _distinct(nodes)
    # Files of IR version 3 list every initializer among the inputs as well.
    inputs = tuple(_value(item, needs_shape=True) for item in found["input"] if item.get("name") not in arrays)
    outputs = tuple(_value(item) for item in found["output"])
    graph = Graph(found.get("name") or name, inputs, outputs, tuple(nodes), initializers=arrays)
    _check_order(graph)
    return graph


def _distinct(nodes: list[Node]) -> list[Node]:
    """Return the nodes with distinct names, which a file does not guarantee."""
    used = Counter(node.name for node in nodes)
    return [
        replace(node, name=f"{node.name} ({node.outputs[0]})") if used[node.name] > 1 and node.outputs else node
        for node in nodes
    ]


def _array(tensor: Mapping[str, Any], name: str) -> Array:
    if tensor["external_data"] or tensor.get("data_location", 0):
        raise ModelError(f"weight '{name}' lies in another file; external data is never read, save it all in one file")
    kind = KINDS.get(tensor.get("data_type", 0))
    if kind is None:
        raise UnsupportedOperator(f"weight '{name}' is of ONNX data type {tensor.get('data_type', 0)}")
    shape = tuple(tensor["dims"])
    if "raw_data" in tensor:
        return array_of(name, tensor["raw_data"], kind, shape)
    if kind in ("f4", "f8"):
        return array_of(name, tensor["float_data" if kind == "f4" else "double_data"], kind, shape)
    numbers = tensor["int64_data" if kind == "i8" else "uint64_data" if kind in ("u4", "u8") else "int32_data"]
    stored = {"f2": "u2", "bf16": "u2", "?": "i4"}.get(kind, kind)  # half floats come as their bits
    try:
        # An unsigned number of 64 bits was read as signed.
        array = np.array(numbers, np.int64).astype(np.uint64) if kind == "u8" else np.array(numbers, stored)
    except (OverflowError, ValueError) as error:
        raise ModelError(f"weight '{name}': a number that is none of {kind}") from error
    if kind == "?":
        array = array.astype(bool)
    return array_of(name, array.astype(array.dtype.newbyteorder("<")).tobytes(), kind, shape)


def _node(item: Mapping[str, Any], index: int) -> Node:
    op_type, outputs = item.get("op_type", ""), tuple(item["output"])
    name = item.get("name") or next(iter(outputs), "") or f"node {index}"
    if item.get("domain", "") not in _OWN_DOMAINS:
        raise UnsupportedOperator(f"operator {op_type} ('{name}') of domain '{item['domain']}' is not supported")
    attributes: dict[str, Any] = {}
    for attribute in item["attribute"]:
        key = attribute.get("name", "")
        where = f"{op_type} '{name}': attribute {key}"
        if key in attributes:
            raise ModelError(f"{where} appears twice")
        attributes[key] = _attribute(attribute, where)
    return Node(op_type, tuple(item["input"]), outputs, attributes, name)


def _attribute(found: Mapping[str, Any], where: str) -> Any:
    if found.get("ref_attr_name"):
        raise UnsupportedOperator(f"{where} refers to a function's")
    kind = ATTRIBUTE_FIELDS.get(found.get("type", 0))
    if kind is None and not found.get("type", 0):  # files before IR version 2 do not state it
        kind = next((field for field in ATTRIBUTE_FIELDS.values() if found.get(field)), None)
    if kind is None:
        raise UnsupportedOperator(f"{where} is a subgraph, or of another kind that is not supported")
    if kind == "t":
        return _array(found.get("t", {"dims": [], "external_data": []}), where)
    if kind == "floats":
        if len(found["floats"]) % 4:
            raise ModelError(f"{where}: {len(found['floats'])} bytes are no whole number of float32")
        return tuple(np.frombuffer(found["floats"], "<f4").tolist())
    value = found.get(kind, {"f": 0.0, "i": 0, "s": b""}.get(kind))
    try:
        if kind == "s":
            return bytes(value).decode()
        return tuple(bytes(text).decode() for text in value) if kind == "strings" else _plain(value)
    except UnicodeDecodeError as error:
        raise ModelError(f"{where} is not UTF-8 text") from error


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _value(item: Mapping[str, Any], *, needs_shape: bool = False) -> Value:
    name = item.get("name", "")
    tensor = item.get("type", {}).get("tensor_type")
    if tensor is None:
        raise UnsupportedOperator(f"'{name}' is a sequence, a map or of no type; only arrays are supported")
    kind = KINDS.get(tensor.get("elem_type", 0))
    if kind is None:
        raise UnsupportedOperator(f"'{name}' is of ONNX data type {tensor.get('elem_type', 0)}")
    if needs_shape and "shape" not in tensor:
        raise ModelError(f"input '{name}' has no shape")
    shape = tuple(dim.get("value", 0) for dim in tensor.get("shape", {"dim": []})["dim"])
    if any(not 0 <= size < 1 << 31 for size in shape):
        raise ModelError(f"'{name}': {shape!r:.60} is not a shape")
    dtype = "float32" if kind in ("f2", "bf16") else np.dtype(kind).name
    return Value(name, shape, dtype)


def _check_order(graph: Graph) -> None:
    """Refuse a graph whose nodes read a value that no node before them makes (a cycle, too), or make a value twice."""
    made = {*graph.initializers, *(value.name for value in graph.inputs), ""}
    if len(made) != len(graph.initializers) + len(graph.inputs) + 1:
        raise ModelError("two inputs of the same name, or one without")
    later = {name for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            if name not in made:
                why = "made only later (a cycle, or nodes out of order)" if name in later else "which does not exist"
                raise ModelError(f"{node.op_type} '{node.name}' reads '{name}', {why}")
        for name in node.outputs:
            if name and name in made:
                raise ModelError(f"{node.op_type} '{node.name}' makes '{name}' a second time")
            made.add(name)
    for value in graph.outputs:
        if value.name not in made:
            raise ModelError(f"no node makes the output '{value.name}'")


def _guessed_card(graph: Graph, texts: Mapping[str, str]) -> ModelCard:
    """Return a card derived from the first input's shape, with the file's metadata; three channels mean RGB."""
    shape = graph.inputs[0].shape[1:] if graph.inputs else ()
    image = len(shape) == 3 and shape[0] in (0, 1, 3)
    defaults = (3, DEFAULT_SIDE, DEFAULT_SIDE) if image else (1,) * len(shape)
    item = tuple(size or default for size, default in zip(shape, defaults, strict=True))
    return ModelCard(
        graph.name,
        "classify" if image else "other",
        item,
        colour={1: "GRAY", 3: "RGB"}[item[0]] if image else "",
        metadata=texts if sum(map(len, texts.values())) <= MAX_METADATA else {},
    )


def write_onnx(path: Path, graph: Graph, card: ModelCard) -> None:
    """Write graph, weights and card as a model of operator set 19: whole or not at all.

    Raises:
        ModelError: an attribute that ONNX does not define.
        OSError: the folder cannot be written.
    """
    data = serialise_onnx(graph, card)
    write_whole(path, lambda file: file.write(data))


def serialise_onnx(graph: Graph, card: ModelCard) -> bytes:
    """Return the bytes that `write_onnx` writes; raises ModelError for an attribute that ONNX does not define."""
    arrays = dict(graph.initializers)
    nodes = [bytes_field(1, _node_bytes(node, arrays)) for node in graph.nodes]
    body = bytes_field(
        7,
        *nodes,
        bytes_field(2, graph.name),
        *(bytes_field(5, *_tensor_parts(name, array)) for name, array in arrays.items()),
        *(bytes_field(11, _value_bytes(value, value.shape)) for value in graph.inputs),
        *(bytes_field(12, _value_bytes(value, value.shape or None)) for value in graph.outputs),
    )
    opset = bytes_field(8, int_field(2, WRITTEN_OPSET))
    metadata = bytes_field(14, bytes_field(1, CARD), bytes_field(2, card.to_json()))
    return b"".join((int_field(1, WRITTEN_IR), bytes_field(2, "camapp engine"), body, opset, metadata))


def _node_bytes(node: Node, arrays: dict[str, Array]) -> bytes:
    """Return the node; attributes that are inputs in newer operator sets are added to `arrays`."""
    inputs, attributes = list(node.inputs), dict(node.attributes)
    for place, (name, dtype) in PARAMETERS.get(node.op_type, {}).items():
        if name in attributes:
            key = f"{node.outputs[0]}/{name}"
            arrays[key] = np.array(attributes.pop(name), dtype)
            inputs += [""] * (place + 1 - len(inputs))
            inputs[place] = key
    if "activation" in attributes:
        raise ModelError(f"{node.op_type} '{node.name}' is fused; write the graph as it was loaded")
    return b"".join(
        (
            *(bytes_field(1, name) for name in inputs),
            *(bytes_field(2, name) for name in node.outputs),
            bytes_field(3, node.name),
            bytes_field(4, node.op_type),
            *(bytes_field(5, _attribute_bytes(node, name, value)) for name, value in attributes.items()),
        )
    )


def _attribute_bytes(node: Node, name: str, value: Any) -> bytes:
    values = value if isinstance(value, tuple | list) else (value,)
    many = isinstance(value, tuple | list)
    if isinstance(value, np.ndarray):
        body, kind = bytes_field(5, *_tensor_parts("", value)), 4
    elif all(isinstance(item, int | np.integer) for item in values):
        body, kind = b"".join(int_field(8 if many else 3, int(item)) for item in values), 7 if many else 2
    elif all(isinstance(item, float | int) for item in values):
        body, kind = b"".join(float_field(7 if many else 2, item) for item in values), 6 if many else 1
    elif isinstance(value, str):
        body, kind = bytes_field(4, value), 3
    else:
        raise ModelError(f"{node.op_type} '{node.name}': attribute {name}={value!r:.60} cannot be written as ONNX")
    return bytes_field(1, name) + body + int_field(20, kind)


def _tensor_parts(name: str, array: Array) -> tuple[bytes, ...]:
    codes = {np.dtype(kind): code for code, kind in KINDS.items() if kind != "bf16"}
    plain = np.ascontiguousarray(array).reshape(array.shape)
    dims = [int_field(1, size) for size in array.shape]
    code = int_field(2, codes[array.dtype.newbyteorder("=")])
    little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    return (*dims, code, bytes_field(8, name), bytes_field(9, little.tobytes()))


def _value_bytes(value: Value, shape: Shape | None) -> bytes:
    """Return an input or output; shape None leaves it unspecified, () is a scalar."""
    codes = {np.dtype(kind).name: code for code, kind in KINDS.items() if kind != "bf16"}
    sizes = [_dimension_bytes(size, axis) for axis, size in enumerate(shape or ())]
    kind = int_field(1, codes[value.dtype])
    return bytes_field(1, value.name) + bytes_field(
        2, bytes_field(1, kind, b"" if shape is None else bytes_field(2, *sizes))
    )


def _dimension_bytes(size: int, axis: int) -> bytes:
    return bytes_field(1, int_field(1, size) if size else bytes_field(2, f"axis{axis}" if axis else "N"))
