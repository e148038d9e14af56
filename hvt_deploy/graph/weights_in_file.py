"""An ONNX file read without its weights, which stay in it.

An ONNX file can be its own file of external weights, since the bytes of a tensor are in it as they
are in memory. ONNX Runtime maps such a file instead of copying it four times. The fields are found
by the wire format of protocol buffers (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hvt_deploy.graph.storage import refusing_broken

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
# Shapes, axes, norms and biases, which passes read, are smaller than most weights.
_LARGE_BYTES = 2**14
# Wire types.
_VARINT, _LENGTH, _FIXED_BYTES = 0, 2, {1: 8, 5: 4}


def load_without_weights(path: Path) -> onnx.ModelProto:
    """The graph of an ONNX file, in which large weights are references into that file.

    Raises BadInput if it is missing or not ONNX.
    """
    with (
        refusing_broken(path, IndexError, ValueError),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _read_model(data, path.name)


def read_weight(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """The numbers of an initializer, in memory or in a file of `folder`.

    onnx refuses a file of weights that has hard links, which an artifact in a workspace may have.
    """
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    path = folder / location
    if not location or location != path.name or path.is_symlink():
        return numpy_helper.to_array(tensor, str(folder))
    with path.open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        values = file.read(int(place.get("length", -1)))
    return numpy_helper.to_array(
        onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=values)
    )


def _read_model(data: mmap.mmap, name: str) -> onnx.ModelProto:
    rest, graphs = _take_out(_GRAPH, data, (0, len(data)))
    model = onnx.ModelProto.FromString(rest)
    for graph in graphs:
        rest, tensors = _take_out(_INITIALIZER, data, graph)
        model.graph.MergeFromString(rest)
        for span in tensors:
            tensor = model.graph.initializer.add()
            rest, values = _take_out(_RAW_DATA, data, span)
            tensor.MergeFromString(rest)
            for start, end in values:
                if end - start < _LARGE_BYTES:
                    tensor.raw_data = data[start:end]
                else:
                    place = {"location": name, "offset": str(start), "length": str(end - start)}
                    tensor.data_location = onnx.TensorProto.EXTERNAL
                    tensor.external_data.extend(
                        onnx.StringStringEntryProto(key=key, value=value)
                        for key, value in place.items()
                    )
    return model


def _take_out(
    number: int, data: mmap.mmap, span: tuple[int, int]
) -> tuple[bytes, list[tuple[int, int]]]:
    """The message in `span` without its fields of this number, and where their values are."""
    rest: list[bytes] = []
    values: list[tuple[int, int]] = []
    for found, start, value, end in _walk_fields(data, *span):
        if found == number:
            values.append((value, end))
        else:
            rest.append(data[start:end])
    return b"".join(rest), values


def _walk_fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The number of each field of a message, where it starts, where its value does, and its end."""
    while start < end:
        key, value = _read_varint(data, start)
        wire = key & 7
        if wire == _VARINT:
            _, stop = _read_varint(data, value)
        elif wire == _LENGTH:
            length, value = _read_varint(data, value)
            stop = value + length
        elif wire in _FIXED_BYTES:
            stop = value + _FIXED_BYTES[wire]
        else:
            raise ValueError(f"there is no wire type {wire}")
        if stop > end:
            raise ValueError("a field ends behind its message")
        yield key >> 3, start, value, stop
        start = stop


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1
