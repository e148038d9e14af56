"""The tensors in an engine's list of layers: names, data types, sizes in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

# The data type of a tensor that the inspector does not report ("N/A due to dynamic shapes").
UNKNOWN = "unknown"
# TensorRT up to 10 writes formats in prose ("Row major linear FP16 format"), later ones type names.
# By our name: the words for it, and the bits of an element.
_DTYPES = {
    "Int8": ("int8", 8),
    "FP8": ("fp8", 8),
    "Half": ("fp16|half", 16),
    "BFloat16": ("bf16|bfloat16", 16),
    "Float": ("fp32|float", 32),
    "Int4": ("int4", 4),
    "FP4": ("fp4", 4),
    "E8M0": ("e8m0", 8),
    "UInt8": ("uint8", 8),
    "Bool": ("bool", 8),
    "Int32": ("int32", 32),
    "Int64": ("int64", 64),
}
_WORDS = {name: re.compile(rf"\b({words})\b", re.I) for name, (words, _) in _DTYPES.items()}
# Those that a kernel can compute in, the lowest first.
PRECISIONS = ("Int8", "FP8", "Half", "BFloat16", "Float")


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        name: TensorRT's name of the tensor.
        dtype: its data type: Int8, Half, Float, Int64 …; UNKNOWN where it is not reported.
        dims: its dimensions, -1 for one that is not fixed; None where they are not reported.
    """

    name: str
    dtype: str
    dims: tuple[int, ...] | None = None

    @property
    def size_bytes(self) -> int | None:
        """Elements × bytes of an element; None where dimensions or data type are not known."""
        if self.dims is None or min(self.dims, default=0) < 0 or self.dtype not in _DTYPES:
            return None
        return math.ceil(math.prod(self.dims) * _DTYPES[self.dtype][1] / 8)


def name_dtype(text: str) -> str:
    """The data type in a format ("Row major linear FP16 format"), the text itself if it is none."""
    if text.startswith("N/A"):
        return UNKNOWN
    return next((name for name, words in _WORDS.items() if words.search(text)), text)


def parse_tensors(text: str) -> tuple[LayerTensor, ...]:
    """The tensors in a part of a line: `[ { Name: x, Dimensions: [1,3], …, Datatype: Half }]`."""
    tensors: list[LayerTensor] = []
    for entry in text.split("{ Name: ")[1:]:
        dims = re.search(r", Dimensions: \[([-\d,\s]*)\]", entry)
        dtype = re.search(r", Datatype: (\w+)", entry)
        name = entry.partition(dims[0] if dims else ", ")[0]
        sizes = tuple(map(int, re.findall(r"-?\d+", dims[1]))) if dims else None
        tensors.append(LayerTensor(name, name_dtype(dtype[1]) if dtype else UNKNOWN, sizes))
    return tuple(tensors)


def read_json_tensors(tensors: object) -> tuple[LayerTensor, ...]:
    """The tensors of a layer in an inspector's JSON."""
    return tuple(
        LayerTensor(
            name=str(tensor.get("Name", "")),
            dtype=name_dtype(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "N/A")),
            dims=_read_dims(tensor.get("Dimensions")),
        )
        for tensor in cast("list[Mapping[str, object]]", tensors or [])
    )


def read_json_constants(layer: Mapping[str, object]) -> tuple[LayerTensor, ...] | None:
    """The constants of a layer in JSON: a list `"Constants"`, or `"Weights": {"Type": "Int8",
    "Count": 131072}` and `"Bias"`; None where it has neither.
    """
    constants = list(read_json_tensors(layer.get("Constants")))
    for key, value in layer.items():
        if isinstance(value, dict) and "Type" in value and "Count" in value:
            facts = cast("Mapping[str, object]", value)
            dims = _read_dims([facts["Count"]])
            constants.append(LayerTensor(key, name_dtype(str(facts["Type"])), dims))
    return tuple(constants) if constants or "Constants" in layer else None


def _read_dims(dims: object) -> tuple[int, ...] | None:
    if not isinstance(dims, list):
        return None
    sizes = cast("list[object]", dims)
    whole = tuple(size for size in sizes if isinstance(size, int))
    return whole if len(whole) == len(sizes) else None
