"""Just enough protobuf to poison a model: walks an ONNX file to its tensors and overwrites one."""

from collections.abc import Iterator

import numpy as np

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
BYTES, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5


def with_nan(model: bytes) -> bytes:
    """The same ONNX file with NaN all over its largest tensor."""
    spans = [
        (raw_start, raw_end)
        for graph_start, graph_end in fields(model, 0, len(model), GRAPH)
        for start, end in fields(model, graph_start, graph_end, INITIALIZER)
        for raw_start, raw_end in fields(model, start, end, RAW_DATA)
    ]
    start, end = max(spans, key=lambda span: span[1] - span[0])
    return model[:start] + np.full((end - start) // 4, np.nan, np.float32).tobytes() + model[end:]


def fields(data: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the length-delimited fields of this number lie in a message."""
    while start < end:
        key, start = varint(data, start)
        number, kind = key >> 3, key & 7
        if kind == BYTES:
            size, start = varint(data, start)
            if number == wanted:
                yield start, start + size
            start += size
        elif kind == VARINT:
            _, start = varint(data, start)
        else:
            start += {FIXED64: 8, FIXED32: 4}[kind]


def varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start
