"""SmoothQuant: outlier channels of a LayerNormalization go into the weights of the Linears behind
it.

Xiao et al., "SmoothQuant", 2023, equations 3 and 4: the normalization's result is divided by s_j in
channel j, the Linear's weights of that channel are multiplied by it, with s_j = max|X_j|^a /
max|W_j|^(1-a). Exact in FP32.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.graph.analysis.macs import infer_shapes_of_one
from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.ranges import open_graph
from hvt_deploy.graph.storage import load_onnx

# How much of the outliers goes into the weights; the paper's value.
_MIGRATION = 0.5
# Operators that leave the channels, the last axis, as they are where its size stays the same.
_LAYOUT_OPS = ("Reshape", "Transpose")
_LINEARS = ("MatMul", "Gemm")


def measure_smoothing(
    fp32: Path, quantized: Collection[str], batches: Iterable[ImagesNCHW], threads: int
) -> Mapping[str, NDArray[np.float32]]:
    """s_j for each LayerNormalization (by node name) that only Linears among `quantized` nodes
    read.
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
            found: NDArray[np.float32] = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest[name], found) if name in largest else found
    weights = _read(model, [linear.input[1] for nodes in linears.values() for linear in nodes])
    return {
        name: _scales(
            maxima,
            [
                np.abs(_rows_first(node, weights[node.input[1]])).max(axis=1)
                for node in linears[name]
            ],
        )
        for name, maxima in largest.items()
    }


def smooth(model: onnx.ModelProto, scales: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """`model` with the scales s_j of `measure_smoothing` moved from its normalizations into its
    Linears.
    """
    edit, readers, shapes = GraphEdit(model), _readers(model), infer_shapes_of_one(model)
    nodes = {node.name: node for node in edit.nodes("LayerNormalization", *_LINEARS)}

    def multiply(node: onnx.NodeProto, i: int, factor: NDArray[Any]) -> None:
        """Let `node` read a multiple of its constant; others may read the constant as it was."""
        values = edit.constant(node.input[i])
        if values is not None:
            scaled = (values.astype(np.float64) * factor).astype(np.float32)
            node.input[i] = edit.add_constant(f"{node.input[i]}/{node.name}", scaled)

    for name, s_C in scales.items():
        for i in range(1, len(nodes[name].input)):
            multiply(nodes[name], i, 1 / s_C)
        for linear in _linears_behind(nodes[name].output[0], readers, shapes) or ():
            multiply(nodes[linear.name], 1, s_C if _transposed(linear) else s_C[:, None])
    return edit.done()


def _smoothable(
    model: onnx.ModelProto, quantized: Collection[str]
) -> dict[str, list[onnx.NodeProto]]:
    """Normalizations with a scale whose result only quantized Linears read, and those."""
    readers, shapes = _readers(model), infer_shapes_of_one(model)
    constants = {t.name for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and set(node.input[1:]) <= constants:
            linears = _linears_behind(node.output[0], readers, shapes)
            if linears and all(n.name in quantized and n.input[1] in constants for n in linears):
                found[node.name] = linears
    return found


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _linears_behind(
    tensor: str, readers: Mapping[str, list[onnx.NodeProto]], shapes: Mapping[str, tuple[int, ...]]
) -> list[onnx.NodeProto] | None:
    """The Linears that read a tensor, directly or in another layout; None if something else reads
    it.
    """
    found: list[onnx.NodeProto] = []
    for node in readers.get(tensor, []):
        if node.op_type in _LINEARS and node.input[0] == tensor:
            found.append(node)
        elif node.op_type in _LAYOUT_OPS and _keeps_channels(node, shapes):
            behind = _linears_behind(node.output[0], readers, shapes)
            if behind is None:
                return None
            found.extend(behind)
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
    weight_C = np.maximum(np.maximum.reduce(weights), 1e-5)
    s_C = np.maximum(largest_C, 1e-5) ** _MIGRATION / weight_C ** (1 - _MIGRATION)
    return np.clip(s_C / np.exp(np.log(s_C).mean()), 1e-3, 1e3).astype(np.float32)


def _transposed(linear: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in linear.attribute)


def _rows_first(linear: onnx.NodeProto, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A Linear's weight as (input channels, output channels)."""
    return weight.T if _transposed(linear) else weight


def _read(model: onnx.ModelProto, names: Collection[str]) -> dict[str, NDArray[Any]]:
    return {
        t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in set(names)
    }
