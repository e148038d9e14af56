"""The facts of each node of a graph, to compare with the layers of the engine built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from hvt_deploy.graph.analysis.macs import count_macs
from hvt_deploy.graph.analysis.roles import find_role, stage_of
from hvt_deploy.graph.queries import QDQ_OPS, map_producers, map_readers

# Operators that may be between a product and the Q/DQ of its factors, or between a softmax and the
# product that reads it.
_PASSED_THROUGH = ("Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")

_Nodes = Mapping[str, onnx.NodeProto]


@dataclass(frozen=True)
class NodeFacts:
    """One node of a graph."""

    name: str
    """Its name, `<module path>/<op>`."""
    stage: str
    """Its stage, as `roles.stage_of` gives it."""
    role: str
    """Its role, as `roles.role_of` gives it."""
    macs: int = 0
    """Multiply-accumulates for one image; 0 for all but products (Conv, MatMul, Gemm)."""
    weights: int = 0
    """Number of elements of the constant factor; 0 if there is none."""
    quantized: bool = False
    """Whether both factors of the product come from Q/DQ."""
    attention: bool = False
    """Whether it is a softmax whose result is a factor of a MatMul."""
    is_qdq: bool = False
    """Whether it quantizes or dequantizes; it then has the stage and role of its first reader."""


def read_facts(model: onnx.ModelProto) -> tuple[NodeFacts, ...]:
    """The facts of every node, in the order of the graph; weights need not be loaded.

    Raises ToolFailure naming a Conv, MatMul or Gemm whose shapes cannot be inferred.
    """
    graph, macs = model.graph, count_macs(model)
    producers = map_producers(graph)
    elements = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    attention = {
        origin.name
        for node in graph.node
        if node.op_type == "MatMul"
        for origin in (_origin(n, producers, (*_PASSED_THROUGH, *QDQ_OPS)) for n in node.input)
        if isinstance(origin, onnx.NodeProto) and origin.op_type == "Softmax"
    }
    readers = map_readers(graph)
    return tuple(
        NodeFacts(
            name=node.name,
            stage=stage_of((owner := _find_reader(node, readers)).name),
            role=find_role(owner, elements),
            macs=macs.get(node.name, 0),
            weights=_weight_elements(node, producers, elements) if node.name in macs else 0,
            quantized=node.name in macs
            and all(_is_dequantized(name, producers) for name in node.input[:2]),
            attention=node.name in attention,
            is_qdq=node.op_type in QDQ_OPS,
        )
        for node in graph.node
    )


def _find_reader(
    node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> onnx.NodeProto:
    """The node itself, or the first one behind it that neither quantizes nor dequantizes."""
    while node.op_type in QDQ_OPS and readers.get(node.output[0]):
        node = readers[node.output[0]][0]
    return node


def _origin(tensor: str, producers: _Nodes, passed: tuple[str, ...]) -> onnx.NodeProto | str:
    """The node that makes a tensor, or the name of the graph input or initializer, seen through
    the operators in `passed`.
    """
    while tensor in producers:
        node = producers[tensor]
        if node.op_type not in passed:
            return node
        tensor = node.input[0]
    return tensor


def _is_dequantized(tensor: str, producers: _Nodes) -> bool:
    origin = _origin(tensor, producers, _PASSED_THROUGH)
    return isinstance(origin, onnx.NodeProto) and origin.op_type == "DequantizeLinear"


def _weight_elements(node: onnx.NodeProto, producers: _Nodes, elements: Mapping[str, int]) -> int:
    """Number of elements of a product's constant factor, which in a MatMul may be either one."""
    origins = [_origin(name, producers, (*_PASSED_THROUGH, *QDQ_OPS)) for name in node.input[:2]]
    return sum(elements.get(origin, 0) for origin in origins if isinstance(origin, str))
