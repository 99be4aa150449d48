"""Reads and writes ONNX files without the onnx package: a ModelProto (see onnx.proto) to a Graph and back.

Nodes of old operator sets are upgraded (`engine.formats.opsets`), nodes that no output depends on are dropped unread.
Weights lie in the file itself, or in one beside it (`engine.formats.external_data`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes import PARAMETERS
from engine.formats.content import MAX_ARRAYS, Content, array_of, read_bytes, reading, write_whole
from engine.formats.external_data import ExternalData
from engine.formats.microsoft import MICROSOFT, upgrade_microsoft
from engine.formats.opsets import NEWEST, upgrade
from engine.formats.protobuf import MessageReader, bytes_field, float_field, int_field, read_message
from engine.formats.quantized import replace_quantized
from engine.graph import Array, Graph, ModelError, Node, Shape, UnsupportedOperator, Value
from engine.model_card import ModelCard

CARD = "card"  # key of the card's JSON among the model's metadata
DEFAULT_SIDE = 224  # if an image's size is free
WRITTEN_OPSET, WRITTEN_IR = 20, 9
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
ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings"}
MAX_DEPTH = 4  # of subgraphs within subgraphs

ENTRY = {1: ("key", "text"), 2: ("value", "text")}
TENSOR = {
    1: ("dims", ["int"]),
    2: ("data_type", "int"),
    4: ("float_data", ["float"]),
    5: ("int32_data", ["numbers"]),
    7: ("int64_data", ["numbers"]),
    8: ("name", "text"),
    9: ("raw_data", "bytes"),
    10: ("double_data", ["double"]),
    11: ("uint64_data", ["numbers"]),
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
        ModelError: not readable, damaged, or with weights elsewhere than in the file or in one beside it.
        UnsupportedOperator: functions, or data types that the engine lacks.
    """
    with reading(path):
        return parse_onnx(read_bytes(path), path.stem, path.parent)


def parse_onnx(data: bytes, name: str = "onnx", folder: Path | None = None) -> Content:
    """Parse the bytes of a file as `read_onnx` does, with its errors; `name` is the net's if the file has none.

    External data are read from `folder`; None: they are refused.
    """
    messages = MessageReader()
    model = messages.message(memoryview(data), MODEL)
    if "graph" not in model or not model["graph"]["output"]:
        raise ModelError("not an ONNX model: it has no graph with outputs")
    if model["functions"]:
        raise UnsupportedOperator("it defines functions; inline them first")
    versions = [entry.get("version", 0) for entry in model["opset_import"] if entry.get("domain", "") in _OWN_DOMAINS]
    opset = max(versions, default=1)
    if not 1 <= opset <= NEWEST:
        raise UnsupportedOperator(f"operator set {opset}; known are 1 to {NEWEST}")
    _open_subgraphs(model["graph"], messages, 0)
    graph = _Reader(opset, ExternalData(folder)).graph(model["graph"], name)
    texts = {entry.get("key", ""): entry.get("value", "") for entry in model["metadata_props"]}
    card = ModelCard.from_json(texts[CARD]) if CARD in texts else _guessed_card(graph, texts)
    return Content(graph.initializers, card, graph)


_OWN_DOMAINS = ("", "ai.onnx")


class _Reader:
    """Turns the messages of one file into a graph, and keeps what its subgraphs share: all arrays by name."""

    def __init__(self, opset: int, external: ExternalData) -> None:
        self.opset = opset
        self.external = external
        self.arrays: dict[str, Array] = {}

    def graph(self, found: Mapping[str, Any], name: str) -> Graph:
        """Return the whole graph."""
        tensors = _tensors(found)
        inputs = tuple(_value(item, needs_shape=True) for item in found["input"] if item.get("name") not in tensors)
        outputs = tuple(_value(item) for item in found["output"])
        # Files of IR version 3 list every initializer among the inputs as well.
        known = {*tensors, *(value.name for value in inputs), ""}
        if len(known) != len(tensors) + len(inputs) + 1:
            raise ModelError("two inputs of the same name, or one without")
        items = _in_order(found["node"], [value.name for value in outputs], known)
        self.read_arrays(tensors, items, outputs)
        nodes = [made for index, item in items for made in self.nodes(item, index)]
        return Graph(found.get("name") or name, inputs, outputs, tuple(_distinct(nodes)), initializers=self.arrays)

    def branch(self, found: Mapping[str, Any], prefix: str) -> Graph:
        """Return a subgraph, its own values named with a prefix; it may read all values around it."""
        if found["input"]:
            raise UnsupportedOperator(f"'{prefix}' is a subgraph with inputs")
        tensors, own = _tensors(found), {}
        for each in (*tensors, *(output for item in found["node"] for output in item["output"])):
            own[each] = f"{prefix}/{each}" if each else ""
        wanted = [item.get("name", "") for item in found["output"]]
        outside = {name for item in found["node"] for name in _read_by(item)} - own.keys()
        items = _in_order(found["node"], [name for name in wanted if name in own], {*tensors, *outside, ""})
        renamed = [(index, _renamed(item, own)) for index, item in items]
        outputs = tuple(Value(own.get(name, name), ()) for name in wanted)
        self.read_arrays({own[name]: tensor for name, tensor in tensors.items()}, renamed, outputs)
        nodes = [made for index, item in renamed for made in self.nodes(item, index)]
        return Graph(prefix, (), outputs, tuple(nodes))

    def read_arrays(self, tensors: Mapping[str, Any], items: Items, outputs: tuple[Value, ...]) -> None:
        """Read the weights that something reads."""
        used = {name for _, item in items for name in _read_by(item)} | {value.name for value in outputs}
        for name, tensor in tensors.items():
            if name in used:
                self.arrays[name] = _array(tensor, name, self.external)

    def nodes(self, item: Mapping[str, Any], index: int) -> list[Node]:
        """Return the current nodes of a node."""
        op_type, outputs, domain = item.get("op_type", ""), tuple(item["output"]), item.get("domain", "")
        name = item.get("name") or next(iter(outputs), "") or f"node {index}"
        attributes: dict[str, Any] = {}
        for attribute in item["attribute"]:
            key = attribute.get("name", "")
            where = f"{op_type} '{name}': attribute {key}"
            if key in attributes:
                raise ModelError(f"{where} appears twice")
            if "graph" in attribute:
                prefix = f"{outputs[0] if outputs else name}/{key}"
                attributes[key] = self.branch(attribute["graph"], prefix)
            else:
                attributes[key] = _attribute(attribute, where, self.external)
        node = Node(op_type, tuple(item["input"]), outputs, attributes, name)
        plain = replace_quantized(node) if domain in (*_OWN_DOMAINS, MICROSOFT) else None
        if plain is not None:
            return plain
        if domain == MICROSOFT:
            return upgrade_microsoft(node)
        if domain not in _OWN_DOMAINS:  # refused by `load`, together with all others
            return [replace(node, op_type=f"{op_type} of domain '{domain}'")]
        return upgrade(node, self.opset, self.arrays)


Items = list[tuple[int, Mapping[str, Any]]]  # nodes of a file, with their index
SUBGRAPH = 5  # onnx.AttributeProto.GRAPH


def _tensors(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a graph by name, not yet read."""
    if found["sparse_initializer"]:
        raise UnsupportedOperator("sparse weights; store them as dense arrays")
    if len(found["initializer"]) > MAX_ARRAYS or len(found["node"]) > MAX_NODES:
        raise ModelError(f"{len(found['initializer'])} weights and {len(found['node'])} nodes are too many")
    tensors: dict[str, Any] = {}
    for tensor in found["initializer"]:
        if tensor.get("name", "") in ("", *tensors):
            raise ModelError(f"weight '{tensor.get('name', '')}' has no name, or that of another one")
        tensors[tensor["name"]] = tensor
    return tensors


def _open_subgraphs(found: Mapping[str, Any], messages: MessageReader, depth: int) -> None:
    """Read the messages of all branches of If, and of those within them."""
    if depth > MAX_DEPTH:
        raise UnsupportedOperator(f"more than {MAX_DEPTH} subgraphs within one another")
    for item in found["node"]:
        for attribute in item["attribute"] if item.get("op_type") == "If" else ():
            if attribute.get("type") == SUBGRAPH:
                attribute["graph"] = messages.message(attribute.get("g", memoryview(b"")), GRAPH)
                _open_subgraphs(attribute["graph"], messages, depth + 1)


def _read_by(item: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that a node reads, those that its subgraphs read from around it included."""
    names = list(item["input"])
    for attribute in item["attribute"]:
        if graph := attribute.get("graph"):
            own = {output for inner in graph["node"] for output in inner["output"]}
            own |= {tensor.get("name") for tensor in graph["initializer"]}
            used = [name for inner in graph["node"] for name in _read_by(inner)]
            used += [value.get("name", "") for value in graph["output"]]
            names += [name for name in used if name not in own]
    return names


def _renamed(item: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a node with other names of values, in its subgraphs too."""
    found = {**item, "input": [names.get(name, name) for name in item["input"]]}
    found["output"] = [names.get(name, name) for name in item["output"]]
    found["attribute"] = [dict(attribute) for attribute in item["attribute"]]
    for attribute in found["attribute"]:
        if graph := attribute.get("graph"):
            own = {output for inner in graph["node"] for output in inner["output"]}
            own |= {tensor.get("name") for tensor in graph["initializer"]}
            outer = {old: new for old, new in names.items() if old not in own}
            outputs = [{**value, "name": outer.get(value.get("name"), value.get("name"))} for value in graph["output"]]
            nodes = [_renamed(inner, outer) for inner in graph["node"]]
            attribute["graph"] = {**graph, "node": nodes, "output": outputs}
    return found


def _in_order(found: list[Any], outputs: list[str], known: set[str]) -> Items:
    """Return the nodes on which the outputs depend, in an order in which they can run: the file's if that is one.

    Raises:
        ModelError: a node reads a value that no node makes, or only one that depends on it; or a value is made twice.
    """
    maker: dict[str, int] = {}
    for index, item in enumerate(found):
        for name in item["output"]:
            if name and (name in known or name in maker):
                raise ModelError(f"{_label(item)} makes '{name}' a second time")
            maker[name] = index
    for name in outputs:
        if name not in known and name not in maker:
            raise ModelError(f"no node makes the output '{name}'")
    live, left = set(), [maker[name] for name in outputs if name in maker]
    before: dict[int, set[int]] = {}
    while left:
        index = left.pop()
        if index in live:
            continue
        live.add(index)
        for name in _read_by(found[index]):
            if name not in known and name not in maker:
                raise ModelError(f"{_label(found[index])} reads '{name}', which does not exist")
        before[index] = {maker[name] for name in _read_by(found[index]) if name not in known}
        left += before[index]
    after: dict[int, list[int]] = {}
    for index, makers in before.items():
        for made in makers:
            after.setdefault(made, []).append(index)
    waits = {index: len(makers) for index, makers in before.items()}
    ready = [index for index, count in waits.items() if not count]
    heapify(ready)
    order = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in after.get(index, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heappush(ready, reader)
    if len(order) < len(live):
        late = min(live - set(order))
        name = next(name for name in _read_by(found[late]) if maker.get(name) in live - set(order))
        raise ModelError(f"{_label(found[late])} reads '{name}', made only later (a cycle)")
    return [(index, found[index]) for index in order]


def _label(item: Mapping[str, Any]) -> str:
    name = item.get("name") or next(iter(item["output"]), "")
    return f"{item.get('op_type', '')} '{name}'"


def _distinct(nodes: list[Node]) -> list[Node]:
    """Return the nodes with distinct names, which a file does not guarantee."""
    used = Counter(node.name for node in nodes)
    return [
        replace(node, name=f"{node.name} ({node.outputs[0]})") if used[node.name] > 1 and node.outputs else node
        for node in nodes
    ]


def _array(tensor: Mapping[str, Any], name: str, external: ExternalData) -> Array:
    kind = KINDS.get(tensor.get("data_type", 0))
    if kind is None:
        raise UnsupportedOperator(f"weight '{name}' is of ONNX data type {tensor.get('data_type', 0)}")
    shape = tuple(tensor["dims"])
    if tensor["external_data"] or tensor.get("data_location", 0):
        texts = {entry.get("key"): entry.get("value", "") for entry in tensor["external_data"]}
        return external.array(name, texts, kind, shape)
    if "raw_data" in tensor:
        return array_of(name, tensor["raw_data"], kind, shape)
    if kind in ("f4", "f8"):
        return array_of(name, tensor["float_data" if kind == "f4" else "double_data"], kind, shape)
    numbers = tensor["int64_data" if kind == "i8" else "uint64_data" if kind in ("u4", "u8") else "int32_data"]
    stored = np.dtype({"f2": "u2", "bf16": "u2", "?": "i4"}.get(kind, kind))  # half floats come as their bits
    array = numbers.view(np.uint64) if kind == "u8" else numbers.astype(stored)
    if kind != "u8" and not np.array_equal(array, numbers):
        raise ModelError(f"weight '{name}': a number that is none of {kind}")
    if kind == "?":
        array = array.astype(bool)
    return array_of(name, array.astype(array.dtype.newbyteorder("<")).tobytes(), kind, shape)


def _attribute(found: Mapping[str, Any], where: str, external: ExternalData) -> Any:
    if found.get("ref_attr_name"):
        raise UnsupportedOperator(f"{where} refers to a function's")
    kind = ATTRIBUTE_FIELDS.get(found.get("type", 0))
    if kind is None and not found.get("type", 0):  # files before IR version 2 do not state it
        kind = next((field for field in ATTRIBUTE_FIELDS.values() if found.get(field)), None)
    if kind is None:
        raise UnsupportedOperator(f"{where} is of a kind that is not supported")
    if kind == "g":
        return "a subgraph"  # of an operator that is refused
    if kind == "t":
        return _array(found.get("t", read_message(memoryview(b""), TENSOR)), where, external)
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
    if "type" not in item and not needs_shape:
        return Value(name, (), "")
    tensor = item.get("type", {}).get("tensor_type")
    if tensor is None:
        raise UnsupportedOperator(f"'{name}' is a sequence, a map or of no type; only arrays are supported")
    kind = KINDS.get(tensor.get("elem_type", 0))
    if kind is None:
        raise UnsupportedOperator(f"'{name}' is of ONNX data type {tensor.get('elem_type', 0)}")
    if needs_shape and "shape" not in tensor:
        raise ModelError(f"input '{name}' has no shape")
    shape = tuple(dim.get("value", 0) for dim in tensor.get("shape", {"dim": []})["dim"])
    if any(not -1 <= size < 1 << 31 for size in shape):
        raise ModelError(f"'{name}': {shape!r:.60} is not a shape")
    dtype = "float32" if kind == "bf16" else np.dtype(kind).name
    return Value(name, tuple(max(size, 0) for size in shape), dtype)  # -1: free, as 0


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
    """Write graph, weights and card as a model of operator set 20: whole or not at all.

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
            value = np.array(attributes.pop(name), dtype)
            arrays[key] = value.reshape(1) if name == "k" else value
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
    kind = int_field(1, codes["float32" if value.dtype in ("", "float16") else value.dtype])
    return bytes_field(1, value.name) + bytes_field(
        2, bytes_field(1, kind, b"" if shape is None else bytes_field(2, *sizes))
    )


def _dimension_bytes(size: int, axis: int) -> bytes:
    return bytes_field(1, int_field(1, size) if size else bytes_field(2, f"axis{axis}" if axis else "N"))
