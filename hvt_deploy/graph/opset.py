"""Exactly the opset that was asked for: the exporter's floor is 18, TensorRT users ask for 17, FP16
Q/DQ needs 19.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from hvt_deploy.core.errors import BadInput, ToolFailure

SUPPORTED_OPSETS = range(17, 23)
NATIVE_OPSET = 18

_REDUCTIONS = frozenset(
    op
    for op in (
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSumSquare",
    )
)
# Operators that mean something else from the opset on, so that raising across it would change the
# result.
_CHANGED_MEANING = {"GridSample": 20, "GroupNormalization": 21}
# What opset 18 added to operators that 17 has: an input (by position), and attributes with those of
# their values that mean what 17 does. Otherwise both are the same.
_REDUCTIONS_OF_17 = frozenset({b"none", b"add", b"mul"})
_ADDED_IN_18: dict[str, tuple[int, dict[str, frozenset[object]]]] = {
    "Pad": (3, {}),
    "Resize": (
        4,
        {
            "antialias": frozenset({0}),
            "keep_aspect_ratio_policy": frozenset({b"stretch"}),
            "axes": frozenset(),
        },
    ),
    "ScatterElements": (3, {"reduction": _REDUCTIONS_OF_17}),
    "ScatterND": (3, {"reduction": _REDUCTIONS_OF_17}),
}


def read_opset(model: onnx.ModelProto) -> int:
    """The version of the default domain that the file really says."""
    return next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0
    )


def check_opset(opset: int) -> None:
    """Raise BadInput unless hvt-deploy can write this opset."""
    if opset not in SUPPORTED_OPSETS:
        raise BadInput(
            f"Opset {opset} is not supported.",
            f"Choose one of {', '.join(map(str, SUPPORTED_OPSETS))}; 17 suits every TensorRT from 8.6 on.",
        )


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph at exactly `opset`, names kept.

    Raises BadInput for an unsupported opset, ToolFailure naming a node that has no equal there.
    """
    check_opset(opset)
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    current = read_opset(model)
    for node in list(converted.graph.node):
        if opset < NATIVE_OPSET <= current:
            _lower(converted.graph, node, opset)
        elif opset > current:
            _raise(converted.graph, node, current, opset)
    del converted.opset_import[:]
    converted.opset_import.append(helper.make_opsetid("", opset))
    _drop_unused_initializers(converted.graph)
    return converted


def _lower(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> None:
    if node.op_type in _REDUCTIONS:
        if len(node.input) > 1 and node.input[1]:
            axes = _constant(graph, node)
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))
        _drop_attribute(node, "noop_with_empty_axes")
    elif node.op_type == "Split":
        _drop_attribute(node, "num_outputs")
    elif _same_before(node, opset):
        known = defs.get_schema(node.op_type, opset, node.domain).attributes
        for name in [a.name for a in node.attribute if a.name not in known]:
            _drop_attribute(node, name)
    else:
        raise ToolFailure(
            f"Node {node.name} ({node.op_type}) has no equal in opset {opset}.",
            "Export with --opset 18 or higher.",
        )


def _same_before(node: onnx.NodeProto, opset: int) -> bool:
    try:
        old = defs.get_schema(node.op_type, opset, node.domain).since_version
    except defs.SchemaError:
        return False
    if old == defs.get_schema(node.op_type, NATIVE_OPSET, node.domain).since_version:
        return True
    if node.op_type not in _ADDED_IN_18:
        return False
    inputs, added = _ADDED_IN_18[node.op_type]
    return len(node.input) <= inputs and all(
        helper.get_attribute_value(a) in added[a.name] for a in node.attribute if a.name in added
    )


def _raise(graph: onnx.GraphProto, node: onnx.NodeProto, current: int, opset: int) -> None:
    changed = _CHANGED_MEANING.get(node.op_type, 0)
    if current < changed <= opset:
        raise ToolFailure(
            f"Node {node.name} ({node.op_type}) means something else from opset {changed} on."
        )
    if current >= NATIVE_OPSET:
        return
    if node.op_type in _REDUCTIONS:
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        _drop_attribute(node, "axes")
        if axes is not None:
            name = f"{node.output[0]}_axes"
            graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
            node.input.append(name)
    elif node.op_type == "Split" and len(node.input) < 2:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))


def _constant(
    graph: onnx.GraphProto, node: onnx.NodeProto
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    name = node.input[1]
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor).astype(np.int64)
    for producer in graph.node:
        if producer.op_type == "Constant" and name in producer.output:
            return numpy_helper.to_array(producer.attribute[0].t).astype(np.int64)
    raise ToolFailure(
        f"The axes of node {node.name} ({node.op_type}) are not constant, as opset 17 needs them."
    )


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
