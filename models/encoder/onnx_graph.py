"""What an encoder's ONNX graph may hold, checked before ONNX Runtime reads it.

A walk over the protobuf fields, so that serving needs no ONNX package. Refused: tensors in other files,
control flow (any attribute that is a graph), functions, operators that ONNX Runtime does not bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from models.errors import ReleaseError

# Fields of ONNX's protobuf messages (onnx.proto3).
MODEL_GRAPH, MODEL_OPSET, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 8, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_ATTRIBUTE, NODE_DOMAIN = 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE: Final = (22, 23)
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
OPSET_DOMAIN: Final = 1
DOMAINS: Final = {b"", b"ai.onnx", b"com.microsoft"}
# A graph of ours has some thousands.
MOST_FIELDS: Final = 1_000_000
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Walk:
    """One walk over a model's bytes; counts the fields it has seen."""

    def __init__(self) -> None:
        self.fields = 0

    def model(self, data: memoryview) -> None:
        graphs = 0
        for number, value in self._fields(data):
            if number == MODEL_GRAPH:
                graphs += 1
                self._graph(_bytes(value))
            elif number == MODEL_OPSET:
                self._domain(_bytes(value), OPSET_DOMAIN)
            elif number in (MODEL_TRAINING, MODEL_FUNCTIONS):
                raise ReleaseError("the graph defines functions or training of its own")
        if graphs != 1:
            raise ReleaseError(f"not an ONNX model: {graphs} graphs")

    def _graph(self, data: memoryview) -> None:
        for number, value in self._fields(data):
            if number == GRAPH_NODE:
                self._node(_bytes(value))
            elif number == GRAPH_INITIALIZER:
                self._tensor(_bytes(value))
            elif number == GRAPH_SPARSE:
                raise ReleaseError("the graph has sparse tensors")

    def _node(self, data: memoryview) -> None:
        self._domain(data, NODE_DOMAIN)
        for number, value in self._fields(data):
            if number == NODE_ATTRIBUTE:
                self._attribute(_bytes(value))

    def _attribute(self, data: memoryview) -> None:
        for number, value in self._fields(data):
            if number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                raise ReleaseError("the graph has control flow")
            if number in ATTRIBUTE_SPARSE:
                raise ReleaseError("the graph has sparse tensors")
            if number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                self._tensor(_bytes(value))

    def _tensor(self, data: memoryview) -> None:
        for number, value in self._fields(data):
            if number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0):
                raise ReleaseError("the graph has tensors in other files")

    def _domain(self, data: memoryview, field: int) -> None:
        for number, value in self._fields(data):
            if number == field and bytes(_bytes(value)[:100]) not in DOMAINS:
                shown = bytes(_bytes(value)[:40]).decode(errors="replace")
                raise ReleaseError(f"the graph has operators of the domain {shown!r}")

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(number, value) of each field of a message."""
        at = 0
        while at < len(data):
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise ReleaseError(f"the graph has more than {MOST_FIELDS} fields")
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                value, at = _varint(data, at)
                yield number, value
                continue
            if kind == BYTES:
                size, at = _varint(data, at)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise ReleaseError(f"not an ONNX model: a field of kind {kind}")
            if size > len(data) - at:
                raise ReleaseError("not an ONNX model: it ends within a field")
            yield number, data[at : at + size]
            at += size


def check_graph(data: bytes) -> None:
    """Raises ReleaseError where an ONNX model has what an encoder has not."""
    Walk().model(memoryview(data))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ReleaseError("not an ONNX model: a number in the place of a message")
    return value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ReleaseError("not an ONNX model: a number without an end")
