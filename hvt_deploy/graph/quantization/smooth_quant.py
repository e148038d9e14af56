"""SmoothQuant: outlier channels of a LayerNormalization move into the weights of the Linears that
read it.

Xiao et al., "SmoothQuant", 2023, equations 3 and 4: the normalization's result is divided by s_j in
channel j, the Linear's weights of that channel are multiplied by it, with s_j = max|X_j|^a /
max|W_j|^(1-a). Exact in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from hvt_deploy.graph.analysis.macs import infer_shapes
from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import find_output_channel_axis, map_readers, weight_is_transposed

# The exponent a, the share of the outliers that moves into the weights: the paper's value.
_MIGRATION = 0.5
# Operators that keep the channels, the last axis, if its size stays the same.
_LAYOUT_OPS = ("Reshape", "Transpose")
_LINEARS = ("MatMul", "Gemm")


def choose_smoothing(
    model: onnx.ModelProto, ranges: Ranges, quantized: Collection[str]
) -> Mapping[str, NDArray[np.float32]]:
    """The scales s_C (C,) of each LayerNormalization (by node name) that only Linears among the
    `quantized` nodes read, from the measured ranges of its channels.
    """
    edit, outputs = GraphEdit(model), {node.name: node.output[0] for node in model.graph.node}
    scales: dict[str, NDArray[np.float32]] = {}
    for name, linears in _smoothable(model, ranges, quantized).items():
        extremes = np.array(ranges.channels[outputs[name]], np.float32)
        weights = [
            np.abs(weight).max(axis=find_output_channel_axis(linear))
            for linear in linears
            if (weight := edit.constant(linear.input[1])) is not None
        ]
        scales[name] = _scales(np.abs(extremes).max(axis=1), weights)
    return scales


def smooth(model: onnx.ModelProto, scales: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """`model` with the scales of `choose_smoothing` moved from normalizations into Linears.

    In exact arithmetic it is the same function.
    """
    edit, readers, shapes = GraphEdit(model), map_readers(model.graph), infer_shapes(model)
    nodes = {node.name: node for node in edit.nodes("LayerNormalization", *_LINEARS)}

    def multiply(node: onnx.NodeProto, i: int, factor: NDArray[Any]) -> None:
        """Let `node` read a multiple of its constant; other readers keep the original."""
        values = edit.constant(node.input[i])
        if values is not None:
            scaled = (values.astype(np.float64) * factor).astype(np.float32)
            node.input[i] = edit.add_constant(f"{node.input[i]}/{node.name}", scaled)

    for name, s_C in scales.items():
        for i in range(1, len(nodes[name].input)):
            multiply(nodes[name], i, 1 / s_C)
        for linear in _find_linears(nodes[name].output[0], readers, shapes) or ():
            multiply(nodes[linear.name], 1, s_C if weight_is_transposed(linear) else s_C[:, None])
    return edit.done()


def smooth_ranges(
    model: onnx.ModelProto, ranges: Ranges, scales: Mapping[str, NDArray[np.float32]]
) -> Ranges:
    """The ranges of `smooth(model, scales)`, from those of `model`: only those of normalizations,
    also in another layout, are different.
    """
    tensors, outputs = dict(ranges.tensors), {n.name: n.output[0] for n in model.graph.node}
    for tensor, name in find_smoothed(model, scales).items():
        extremes = np.array(ranges.channels[outputs[name]]) / scales[name][:, None]
        tensors[tensor] = (float(extremes[:, 0].min()), float(extremes[:, 1].max()))
    return Ranges(tensors)


def find_smoothed(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """The tensors whose channels, the last axis, `smooth` divides, each with the name of its
    normalization, one of `names`.
    """
    readers, smoothed = map_readers(model.graph), dict[str, str]()
    for node in [node for node in model.graph.node if node.name in names]:
        changed = [node.output[0]]
        while changed:
            tensor = changed.pop()
            smoothed[tensor] = node.name
            changed += [r.output[0] for r in readers.get(tensor, []) if r.op_type in _LAYOUT_OPS]
    return smoothed


def _smoothable(
    model: onnx.ModelProto, ranges: Ranges, quantized: Collection[str]
) -> dict[str, list[onnx.NodeProto]]:
    """The normalizations (by node name) whose result only quantized Linears read, and these."""
    readers, shapes = map_readers(model.graph), infer_shapes(model)
    constants = {t.name for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.output[0] in ranges.channels and set(node.input[1:]) <= constants:
            linears = _find_linears(node.output[0], readers, shapes)
            if linears and all(n.name in quantized and n.input[1] in constants for n in linears):
                found[node.name] = linears
    return found


def _find_linears(
    tensor: str, readers: Mapping[str, list[onnx.NodeProto]], shapes: Mapping[str, tuple[int, ...]]
) -> list[onnx.NodeProto] | None:
    """The Linears that read a tensor, directly or in another layout; None if another node does."""
    found: list[onnx.NodeProto] = []
    for node in readers.get(tensor, []):
        if node.op_type in _LINEARS and node.input[0] == tensor:
            found.append(node)
        elif node.op_type in _LAYOUT_OPS and _keeps_channels(node, shapes):
            further = _find_linears(node.output[0], readers, shapes)
            if further is None:
                return None
            found.extend(further)
        else:
            return None
    return found


def _keeps_channels(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if before is None or after is None or before[-1] != after[-1]:
        return False
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
    return node.op_type == "Reshape" or (order is not None and order[-1] == len(order) - 1)


def _scales(
    largest_C: NDArray[np.float32], weights: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """s_C from max|X_C| and the max|W_C| of each Linear, divided by its geometric mean."""
    weight_C = np.maximum(np.max(np.stack(weights), axis=0), 1e-5)
    s_C = np.maximum(largest_C, 1e-5) ** _MIGRATION / weight_C ** (1 - _MIGRATION)
    relative_C = s_C / np.exp(np.log(s_C).mean())
    return np.minimum(np.maximum(relative_C, 1e-3), 1e3).astype(np.float32)
