"""Conversion to exactly the requested opset: the exporter's floor is 18, TensorRT users ask for 17,
FP16 Q/DQ needs 19.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import defs, helper, numpy_helper

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.edit import copy_model, drop_unused_initializers
from hvt_deploy.graph.queries import map_producers

SUPPORTED_OPSETS = range(17, 23)
NATIVE_OPSET = 18

_REDUCTIONS = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSumSquare",
    }
)
# Operators whose meaning changed in an opset, so that raising across it would change the result.
_CHANGED_MEANING = {"GridSample": 20, "GroupNormalization": 21}
# Additions of opset 18 to operators of 17: the number of inputs in 17, and new attributes with
# those of their values that keep 17's meaning. Otherwise both are the same.
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
    """The version of the default domain recorded in the file; 0 if there is none."""
    return next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0
    )


def check_opset(opset: int) -> None:
    """Raise BadInput unless hvt-deploy can write this opset."""
    if opset not in SUPPORTED_OPSETS:
        raise BadInput(
            f"Opset {opset} is not supported.",
            f"Choose one of {', '.join(map(str, SUPPORTED_OPSETS))}; "
            "17 works with every TensorRT from 8.6 on.",
        )


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph at exactly `opset`, names kept.

    Raises BadInput for an unsupported opset, ToolFailure naming a node without an equivalent.
    """
    check_opset(opset)
    converted = copy_model(model)
    current = read_opset(model)
    for node in list(converted.graph.node):
        if opset < NATIVE_OPSET <= current:
            _lower_node(converted.graph, node, opset)
        elif opset > current:
            _raise_node(converted.graph, node, current, opset)
    del converted.opset_import[:]
    converted.opset_import.append(helper.make_opsetid("", opset))
    drop_unused_initializers(converted.graph)
    return converted


def _lower_node(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> None:
    if node.op_type in _REDUCTIONS:
        if len(node.input) > 1 and node.input[1]:
            axes = _constant_axes(graph, node)
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))
        _drop_attribute(node, "noop_with_empty_axes")
    elif node.op_type == "Split":
        _drop_attribute(node, "num_outputs")
    elif _means_the_same(node, opset):
        known = defs.get_schema(node.op_type, opset, node.domain).attributes
        for name in [a.name for a in node.attribute if a.name not in known]:
            _drop_attribute(node, name)
    else:
        raise ToolFailure(
            f"Node {node.name} ({node.op_type}) has no equivalent in opset {opset}.",
            "Export with --opset 18 or higher.",
        )


def _means_the_same(node: onnx.NodeProto, opset: int) -> bool:
    """Whether `opset`, which is below 18, has an operator that does what `node` does in 18."""
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


def _raise_node(graph: onnx.GraphProto, node: onnx.NodeProto, current: int, opset: int) -> None:
    changed = _CHANGED_MEANING.get(node.op_type, 0)
    if current < changed <= opset:
        raise ToolFailure(
            f"Node {node.name} ({node.op_type}) changes its meaning in opset {changed}.",
            f"Export with an --opset below {changed}.",
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


def _constant_axes(graph: onnx.GraphProto, node: onnx.NodeProto) -> NDArray[np.int64]:
    """The axes input of a reduction, from an initializer or a Constant node."""
    name = node.input[1]
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor).astype(np.int64)
    producer = map_producers(graph).get(name)
    if producer is not None and producer.op_type == "Constant":
        return numpy_helper.to_array(producer.attribute[0].t).astype(np.int64)
    raise ToolFailure(
        f"The axes of node {node.name} ({node.op_type}) are not constant, as opset 17 requires.",
        "Export with --opset 18 or higher.",
    )


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
