"""Reads what the checks need of an ONNX file with numpy alone: nodes, attributes, initializers. Weights must be inline."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# TensorProto.DataType → numpy.
DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
# TensorProto fields that hold elements one by one: float_data, int32_data, int64_data, double_data.
TYPED_FIELDS = {4: "<f4", 5: None, 7: None, 10: "<f8"}

# int, float, bytes, list[int] or an array, as the operator's definition says.
Attribute = Any


@dataclass(frozen=True)
class Node:
    """One operator call."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class Graph:
    """A graph without subgraphs; `inputs` leaves the initializers out."""

    nodes: list[Node]
    initializers: dict[str, np.ndarray]
    inputs: list[str]
    outputs: list[str]


def read_graph(path: Path) -> Graph:
    """The main graph of a model file (ModelProto field 7)."""
    model = group(path.read_bytes())
    fields = group(model[7][0])
    initializers = dict(tensor(raw) for raw in fields.get(5, []))
    names = [text(group(raw)[1][0]) for raw in fields.get(11, [])]
    return Graph(
        nodes=[node(raw) for raw in fields.get(1, [])],
        initializers=initializers,
        inputs=[name for name in names if name not in initializers],
        outputs=[text(group(raw)[1][0]) for raw in fields.get(12, [])])


def node(raw: bytes) -> Node:
    """NodeProto."""
    fields = group(raw)
    return Node(
        op=text(fields[4][0]),
        inputs=[text(name) for name in fields.get(1, [])],
        outputs=[text(name) for name in fields.get(2, [])],
        attributes=dict(attribute(a) for a in fields.get(5, [])))


def attribute(raw: bytes) -> tuple[str, Attribute]:
    """AttributeProto: float, int, string, tensor or a list of ints."""
    fields = group(raw)
    name = text(fields[1][0])
    kind = fields[20][0]
    if kind == 1:
        return name, float(np.frombuffer(fields[2][0], "<f4")[0])
    if kind == 2:
        return name, signed(fields.get(3, [0])[0])
    if kind == 3:
        return name, fields.get(4, [b""])[0]
    if kind == 4:
        return name, tensor(fields[5][0])[1]
    if kind == 7:
        return name, integers(fields.get(8, []))
    raise ValueError(f"attribute {name!r} has kind {kind}, which this reader does not know")


def tensor(raw: bytes) -> tuple[str, np.ndarray]:
    """TensorProto with raw or typed data."""
    fields = group(raw)
    name = text(fields.get(8, [b""])[0])
    if fields.get(14, [0])[0] == 1:
        raise ValueError(f"tensor {name!r} lies in an external file, which this reader does not open")
    code = fields[2][0]
    if code not in DTYPES:
        raise ValueError(f"tensor {name!r} has element type {code}, which this reader does not know")
    shape = integers(fields.get(1, []))
    if 9 in fields:
        flat = np.frombuffer(fields[9][0], np.dtype(DTYPES[code]).newbyteorder("<"))
    else:
        flat = typed_data(fields).astype(DTYPES[code])
    return name, flat.reshape(shape)


def typed_data(fields: dict[int, list]) -> np.ndarray:
    """Elements that stand in float_data, int32_data, int64_data or double_data."""
    for number, layout in TYPED_FIELDS.items():
        if number in fields and layout:
            return np.concatenate([np.frombuffer(chunk, layout) for chunk in fields[number]])
        if number in fields:
            return np.array(integers(fields[number]))
    return np.array([])


def integers(values: list[int | bytes]) -> list[int]:
    """A repeated integer field, packed or not."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(signed(value))
        else:
            position = 0
            while position < len(value):
                number, position = varint(value, position)
                found.append(signed(number))
    return found


def group(raw: bytes) -> dict[int, list]:
    """The fields of a message by number, in order."""
    fields: dict[int, list] = {}
    for number, value in wire(raw):
        fields.setdefault(number, []).append(value)
    return fields


def wire(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf's wire format: (field number, varint or bytes)."""
    position = 0
    while position < len(raw):
        key, position = varint(raw, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = varint(raw, position)
            yield number, value
            continue
        if kind == 2:
            size, position = varint(raw, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}: not a protobuf file")
        yield number, raw[position : position + size]
        position += size


def varint(raw: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def signed(value: int) -> int:
    """A 64-bit varint as a signed number."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text(raw: bytes) -> str:
    """UTF-8."""
    return raw.decode()
