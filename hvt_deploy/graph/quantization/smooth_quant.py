"""SmoothQuant: outlier channels of a LayerNormalization move into the weights of the Linears that
read it.

Xiao et al., "SmoothQuant", 2023, equations 3 and 4: the normalization's result is divided by s_j in
channel j, the Linear's weights of that channel are multiplied by it, with s_j = max|X_j|^a /
max|W_j|^(1-a). Exact in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.graph.analysis.macs import infer_batch1_shapes
from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.queries import find_output_channel_axis, map_readers, weight_is_transposed
from hvt_deploy.graph.storage import load_onnx

# The exponent a, the share of the outliers that moves into the weights: the paper's value.
_MIGRATION = 0.5
# Operators that keep the channels, the last axis, if its size stays the same.
_LAYOUT_OPS = ("Reshape", "Transpose")
_LINEARS = ("MatMul", "Gemm")


def measure_smoothing(
    fp32: Path, quantized: Collection[str], batches: Iterable[ImagesNCHW], threads: int
) -> Mapping[str, NDArray[np.float32]]:
    """The scales s_C (C,) of each LayerNormalization (by node name) that only Linears among the
    `quantized` nodes read.

    Each batch is (N, 3, H, W); memory does not grow with their number.
    """
    model = load_onnx(fp32, weights=False)
    linears = _smoothable(model, quantized)
    outputs = {node.name: node.output[0] for node in model.graph.node if node.name in linears}
    if not outputs:
        return {}
    for output in outputs.values():
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    run = open_graph(model, fp32.parent, threads)
    largest: dict[str, NDArray[np.float32]] = {}
    for images_NCHW in batches:
        for name, values in zip(outputs, run(list(outputs.values()), images_NCHW), strict=True):
            found = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
            largest[name] = np.maximum(largest[name], found) if name in largest else found
    weights = _read_constants(
        model, [linear.input[1] for nodes in linears.values() for linear in nodes]
    )
    return {
        name: _scales(
            maxima,
            [
                np.abs(weights[node.input[1]]).max(axis=find_output_channel_axis(node))
                for node in linears[name]
            ],
        )
        for name, maxima in largest.items()
    }


def smooth(model: onnx.ModelProto, scales: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """`model` with the scales of `measure_smoothing` moved from normalizations into Linears.

    In exact arithmetic it is the same function.
    """
    edit, readers, shapes = GraphEdit(model), map_readers(model.graph), infer_batch1_shapes(model)
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


def _smoothable(
    model: onnx.ModelProto, quantized: Collection[str]
) -> dict[str, list[onnx.NodeProto]]:
    """The normalizations (by node name) whose result only quantized Linears read, and these."""
    readers, shapes = map_readers(model.graph), infer_batch1_shapes(model)
    constants = {t.name for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and set(node.input[1:]) <= constants:
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


def _read_constants(model: onnx.ModelProto, names: Collection[str]) -> dict[str, NDArray[Any]]:
    return {
        t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in set(names)
    }
