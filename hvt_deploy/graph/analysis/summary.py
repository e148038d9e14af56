"""A summary of a graph: nodes, parameters, MACs and their precision by stage and role."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.queries import QDQ_OPS, map_producers

_HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class GroupFacts:
    """The nodes of one stage and role."""

    stage: str
    """The stage, as `roles.stage_of` gives it; "–" for nodes without a module path."""
    role: str
    """The role, as `roles.role_of` gives it."""
    nodes: int
    """Number of nodes, without Q/DQ."""
    parameters: int
    """Number of elements in the initializers that they read."""
    macs: Mapping[str, int]
    """Multiply-accumulates for one image by precision: int8, fp16, fp32."""


@dataclass(frozen=True)
class GraphSummary:
    """A graph by stage and role."""

    opset: int
    """The version of the default operator set."""
    groups: tuple[GroupFacts, ...]
    """The stages and roles, in the order of the graph."""

    @property
    def macs(self) -> Mapping[str, int]:
        """The MACs of all groups by precision: int8, fp16, fp32."""
        total: Counter[str] = Counter()
        for group in self.groups:
            total.update(group.macs)
        return total


@dataclass
class _GroupTally:
    nodes: int = 0
    """Number of nodes."""
    parameters: int = 0
    """Number of weights."""
    macs: Counter[str] = field(default_factory=Counter[str])
    """Multiply-accumulates of one image, by data type."""


def summarize_graph(model: onnx.ModelProto) -> GraphSummary:
    """The facts of a graph; weights need not be loaded.

    Raises ToolFailure naming a product whose shapes cannot be inferred.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = map_producers(model.graph)
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    counted = set[str]()
    tallies: dict[tuple[str, str], _GroupTally] = {}
    for node, facts in zip(model.graph.node, read_facts(model), strict=True):
        if node.op_type in QDQ_OPS:
            continue
        stage = facts.stage if "/" in node.name else "–"
        tally = tallies.setdefault((stage, facts.role), _GroupTally())
        tally.nodes += 1
        sources = [_weight_of(name, producers) for name in node.input]
        weights = [constants[name] for name in sources if name in constants and name not in counted]
        tally.parameters += sum(
            math.prod(tensor.dims) for tensor in weights if tensor.data_type != TensorProto.INT64
        )
        counted.update(tensor.name for tensor in weights)
        if facts.macs:
            tally.macs["int8" if facts.quantized else _float_type(node, types, constants)] += (
                facts.macs
            )
    groups = tuple(
        GroupFacts(*key, t.nodes, t.parameters, dict(t.macs)) for key, t in tallies.items()
    )
    return GraphSummary(read_opset(model), groups)


def _weight_of(name: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    """The initializer that a weight is dequantized from, or the tensor itself."""
    node = producers.get(name)
    return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else name


def _float_type(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, onnx.TensorProto]
) -> str:
    """The type of a product's result, or of its weight if shape inference left no type."""
    weight = constants.get(node.input[1])
    kind = types.get(node.output[0]) or (
        weight.data_type if weight is not None else TensorProto.FLOAT
    )
    return "fp16" if kind in _HALF_TYPES else "fp32"
