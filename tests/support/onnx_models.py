"""Small ONNX models, written by hand: `scores = values x weights`, and a canary in the producer's name.

Source: onnx.proto (IR version 10, opset 21); protocol buffers' wire format.
"""

from __future__ import annotations

import numpy as np


def linear_model(
    weights: np.ndarray, *, rows: int | str = "rows", canary: str = "", is_relative: bool = False
) -> bytes:
    """A model that takes `values` float32 [rows, n] and gives `scores` float32 [rows, k]; weights are [n, k].

    A relative one gives the softmax over the rows of a batch.
    """
    inner, outer = weights.shape
    product = "product" if is_relative else "scores"
    nodes = _bytes(1, _text(1, "values") + _text(1, "weights") + _text(2, product) + _text(4, "MatMul"))
    if is_relative:
        axis = _text(1, "axis") + _number(3, 0) + _number(20, _INT)
        nodes += _bytes(1, _text(1, product) + _text(2, "scores") + _text(4, "Softmax") + _bytes(5, axis))
    dims = b"".join(_number(1, size) for size in weights.shape)
    tensor = dims + _number(2, _FLOAT) + _text(8, "weights") + _bytes(9, weights.astype("<f4").tobytes())
    graph = (
        nodes
        + _text(2, "linear")
        + _bytes(5, tensor)
        + _bytes(11, _value("values", rows, inner))
        + _bytes(12, _value("scores", rows, outer))
    )
    return _number(1, 10) + _text(2, canary) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 21))


_FLOAT = 1
"""Of `TensorProto.DataType`."""
_INT = 2
"""Of `AttributeProto.AttributeType`."""


def _value(name: str, *shape: int | str) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size) if isinstance(size, int) else _text(2, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, dims)))


def _varint(value: int) -> bytes:
    coded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        coded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(coded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
