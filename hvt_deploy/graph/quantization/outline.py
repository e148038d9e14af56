"""Precision passes work on an outline of the graph: what they copy and convert is small, and the
weights may be in an external file.

In an outline a weight to quantize has one number per output channel, the largest magnitude, so that
the Q/DQ writer finds the same scales as from the whole weight. Other large weights are
inputs. `Outline.fill` inserts the real weights, one at a time, in the type that the passes chose.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.graph.large_weights import count_bytes, is_large
from hvt_deploy.graph.quantization.fp16 import FP16_MAX
from hvt_deploy.graph.quantization.qdq import (
    INT8,
    QUANTIZED_SUFFIX,
    find_scales,
    quantize_weight,
)
from hvt_deploy.graph.queries import find_output_channel_axis
from hvt_deploy.graph.split_products import name_parts
from hvt_deploy.graph.weights_in_file import read_weight

_FP16_SMALLEST = np.finfo(np.float16).smallest_subnormal


@dataclass(frozen=True)
class Outline:
    """A model without its large weights."""

    model: onnx.ModelProto
    """The graph with placeholders."""
    folder: Path
    """The folder of external files."""
    weights: Mapping[str, onnx.TensorProto]
    """The large weights by name, in memory or as references into the external files."""
    channel_axes: Mapping[str, int]
    """The axis of the output channels in each weight to quantize, by name."""

    @property
    def int8_bytes(self) -> int:
        """Size of the large weights where those to quantize are INT8 and the others as they are."""
        return sum(
            math.prod(tensor.dims) if name in self.channel_axes else count_bytes(tensor)
            for name, tensor in self.weights.items()
        )

    def fill(self, made: onnx.ModelProto) -> onnx.ModelProto:
        """`made`, which passes made from `model`, changed in place to hold the real weights.

        Their integers are those of the scales that the Q/DQ writer found in `model`, before FP16
        rounded them.
        """
        graph = made.graph
        outlined = {tensor.name: tensor for tensor in self.model.graph.initializer}
        types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        holders = {
            name: [holder for holder in (name, *name_parts(name)) if holder in types]
            for name in self.weights
        }
        filled = {holder for found in holders.values() for holder in found}
        for value in [value for value in graph.input if value.name in filled]:
            graph.input.remove(value)
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        for name, tensor in self.weights.items():
            for holder, values in self._read_parts(tensor, holders[name]):
                half = types[holder] == onnx.TensorProto.FLOAT16
                graph.initializer.append(
                    numpy_helper.from_array(_to_half(values) if half else values, holder)
                )
            placeholder = initializers.get(f"{name}{QUANTIZED_SUFFIX}")
            if placeholder is not None:
                scale = find_scales(numpy_helper.to_array(outlined[name]).ravel(), INT8)
                real = quantize_weight(self._read(tensor), scale, self.channel_axes[name])
                placeholder.CopyFrom(numpy_helper.from_array(real, placeholder.name))
        if self.weights:
            del graph.value_info[:]  # shapes that were inferred from placeholders
        return made

    def _read_parts(
        self, tensor: onnx.TensorProto, holders: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """The weight for its one holder, or an equal part of its columns for each of several."""
        if len(holders) == 1:
            yield holders[0], self._read(tensor)
        elif holders:
            parts = np.split(self._read(tensor), len(holders), axis=-1)
            yield from zip(holders, map(np.ascontiguousarray, parts), strict=True)

    def _read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        return read_weight(tensor, self.folder)


def make_outline(model: onnx.ModelProto, folder: Path, quantized: Collection[str]) -> Outline:
    """The outline of `model`, which becomes it: its large weights are taken out, not copied.

    External weights are in `folder`. `quantized` holds the names of the nodes to quantize.
    """
    graph = model.graph
    axes = {n.input[1]: find_output_channel_axis(n) for n in graph.node if n.name in quantized}
    weights: dict[str, onnx.TensorProto] = {}
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        if is_large(tensor):
            weights[tensor.name] = tensor
            if tensor.name in axes:
                weight = read_weight(tensor, folder)
                largest = _largest_by_channel(weight, axes[tensor.name])
                graph.initializer.append(numpy_helper.from_array(largest, tensor.name))
            else:
                graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            graph.initializer.append(
                numpy_helper.from_array(read_weight(tensor, folder), tensor.name)
            )
        else:
            graph.initializer.append(tensor)
    return Outline(
        model, folder, weights, {name: axis for name, axis in axes.items() if name in weights}
    )


def _largest_by_channel(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """The largest magnitude of each channel, with the weight's number of dimensions."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.abs(weight).max(axis=others, keepdims=True)


def _to_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """In FP16 as ONNX Runtime's converter converts the other weights, in fewer passes.

    Too small a number becomes the smallest, too large a one the largest.
    """
    half = np.minimum(np.maximum(values, -FP16_MAX), FP16_MAX).astype(np.float16)
    lost = (half == 0) & (values != 0)
    half[lost] = np.copysign(_FP16_SMALLEST, values[lost])
    return half
