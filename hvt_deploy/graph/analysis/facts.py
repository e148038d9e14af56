"""What a graph asks of an engine, node by node: to be held against the layers that were built."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from hvt_deploy.graph.analysis.audit_types import NodeFacts
from hvt_deploy.graph.analysis.macs import node_macs
from hvt_deploy.graph.analysis.roles import role_of, stage_of

# What may stand between a product and the Q/DQ of its factors, and between a softmax and the
# product of its result.
_TRANSPARENT = ("Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")

_Nodes = Mapping[str, onnx.NodeProto]


def read_facts(model: onnx.ModelProto) -> tuple[NodeFacts, ...]:
    """The facts of every node, in the order of the graph; weights need not be loaded.

    Raises ToolFailure naming a Conv, MatMul or Gemm whose shapes cannot be inferred.
    """
    graph, macs = model.graph, node_macs(model)
    made_by = {output: node for node in graph.node for output in node.output}
    elements = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    attention = {
        origin.name
        for node in graph.node
        if node.op_type == "MatMul"
        for origin in (_origin(name, made_by, (*_TRANSPARENT, *_QUANTIZERS)) for name in node.input)
        if isinstance(origin, onnx.NodeProto) and origin.op_type == "Softmax"
    }
    return tuple(
        NodeFacts(
            name=node.name,
            stage=stage_of(node.name),
            role=role_of(node, elements),
            macs=macs.get(node.name, 0),
            weights=_weights(node, made_by, elements) if node.name in macs else 0,
            quantized=node.name in macs
            and all(_is_dequantized(name, made_by) for name in node.input[:2]),
            attention=node.name in attention,
        )
        for node in graph.node
    )


def _origin(tensor: str, made_by: _Nodes, passed: tuple[str, ...]) -> onnx.NodeProto | str:
    """The node that makes a tensor, or the graph's input or initializer, seen through nodes that
    are `passed`.
    """
    while tensor in made_by:
        node = made_by[tensor]
        if node.op_type not in passed:
            return node
        tensor = node.input[0]
    return tensor


def _is_dequantized(tensor: str, made_by: _Nodes) -> bool:
    origin = _origin(tensor, made_by, _TRANSPARENT)
    return isinstance(origin, onnx.NodeProto) and origin.op_type == "DequantizeLinear"


def _weights(node: onnx.NodeProto, made_by: _Nodes, elements: Mapping[str, int]) -> int:
    """Elements of the constant factor of a product: that of a MatMul may be either."""
    origins = [_origin(name, made_by, (*_TRANSPARENT, *_QUANTIZERS)) for name in node.input[:2]]
    return sum(elements.get(origin, 0) for origin in origins if isinstance(origin, str))
