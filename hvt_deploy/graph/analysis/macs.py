"""Multiply-accumulates of each node of a graph, for one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.evaluate import evaluate_node
from hvt_deploy.graph.queries import weight_is_transposed

COUNTED_OPS = ("Conv", "MatMul", "Gemm")
# Initializers of up to this many elements may be shapes or indices, whose values decide shapes; of
# larger ones only the shape is needed.
_SMALL_ELEMENTS = 1024


def count_macs(model: onnx.ModelProto) -> dict[str, int]:
    """The MACs of each Conv, MatMul and Gemm node (by name) at batch size 1; weights need not be
    loaded.

    Conv: elements of the output × elements of one filter. MatMul and Gemm: elements of the output ×
    length of the summed axis. Raises ToolFailure naming a node whose shapes cannot be inferred.
    """
    shapes = infer_shapes(model)
    return {
        node.name: _macs(node, shapes) for node in model.graph.node if node.op_type in COUNTED_OPS
    }


def infer_shapes(model: onnx.ModelProto, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """The shape, at a batch size, of each tensor for which ONNX can infer it."""
    asked = {node.input[0] for node in model.graph.node if node.op_type == "Shape"}
    known = {
        value.name: tuple(d.dim_value or batch for d in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    while True:  # what a graph computes from a shape may decide the next
        shapes = _infer_from(model, batch, known)
        if not asked & shapes.keys() - known.keys():
            return shapes
        known |= shapes


def _infer_from(
    model: onnx.ModelProto, batch: int, known: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shapes that ONNX infers where operators that read only known shapes are computed."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    computed = _evaluate_shape_nodes(model, known)
    nodes = [node for node in model.graph.node if node.output[0] not in computed]
    graph = onnx.GraphProto(name="shapes", node=nodes)
    graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in computed.items()
    )
    for tensor in tensors.values():
        if _is_small(tensor):
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for value in model.graph.input:
        if value.name not in tensors:
            dims = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
            graph.input.append(
                helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims)
            )
    for value in model.graph.output:  # their recorded shapes name the batch, the first dimension
        first, *rest = [d.dim_value for d in value.type.tensor_type.shape.dim] or [0]
        dims = [first or batch, *rest] if rest and all(rest) else None
        graph.output.append(
            helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims)
        )
    skeleton = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def _evaluate_shape_nodes(
    model: onnx.ModelProto, known: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """The tensors that depend only on known shapes.

    ONNX's shape inference cannot evaluate some of these. They occur where something is repeated for
    each image, such as a class token.
    """
    shapes = dict(known)
    small = {tensor.name: tensor for tensor in model.graph.initializer if _is_small(tensor)}
    found: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        if node.op_type == "Shape" and node.input[0] in shapes:
            inputs = {node.input[0]: np.empty(shapes[node.input[0]], np.float32)}
        elif any(name in found for name in node.input) and all(
            name in found or name in small for name in node.input
        ):
            inputs = {
                n: found[n] if n in found else numpy_helper.to_array(small[n]) for n in node.input
            }
        else:
            continue
        values = evaluate_node(node, inputs, model.opset_import)
        if values.size <= _SMALL_ELEMENTS:
            found[node.output[0]] = values
    return found


def _is_small(tensor: onnx.TensorProto) -> bool:
    return (
        math.prod(tensor.dims) <= _SMALL_ELEMENTS
        and tensor.data_location != onnx.TensorProto.EXTERNAL
    )


def _macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    needed = [node.output[0], node.input[1]]
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise ToolFailure(
            f"The shape of '{missing[0]}' at node {node.name} ({node.op_type}) cannot be inferred.",
            "Simplify the graph: hvt-deploy export --simplifier onnxslim",
        )
    output, factor = (shapes[name] for name in needed)
    if node.op_type == "Conv":
        # The weight is (output channels, input channels / group, height, width).
        return math.prod(output) * math.prod(factor[1:])
    summed = -1 if weight_is_transposed(node) or len(factor) == 1 else -2
    return math.prod(output) * factor[summed]
