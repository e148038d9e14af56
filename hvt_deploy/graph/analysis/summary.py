"""What is in a graph: nodes, parameters, multiply-accumulates and precision by stage and role."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from hvt_deploy.graph.analysis.facts import read_facts
from hvt_deploy.graph.opset import read_opset

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class GroupFacts:
    """One stage and role: its nodes (without Q/DQ), parameters, and MACs for one image by
    precision.
    """

    stage: str
    role: str
    nodes: int
    parameters: int
    macs: Mapping[str, int]


@dataclass(frozen=True)
class GraphSummary:
    """A graph's groups in the order of its nodes."""

    opset: int
    groups: tuple[GroupFacts, ...]

    @property
    def macs(self) -> Mapping[str, int]:
        """All MACs by precision: int8, fp16, fp32."""
        total: Counter[str] = Counter()
        for group in self.groups:
            total.update(group.macs)
        return total


@dataclass
class _Tally:
    nodes: int = 0
    parameters: int = 0
    macs: Counter[str] = field(default_factory=Counter[str])


def inspect_graph(model: onnx.ModelProto) -> GraphSummary:
    """The facts of a graph; weights need not be loaded. Raises ToolFailure where shapes cannot be
    inferred.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    counted = set[str]()
    tallies: dict[tuple[str, str], _Tally] = {}
    for node, facts in zip(model.graph.node, read_facts(model), strict=True):
        if node.op_type in _QDQ:
            continue
        stage = facts.stage if "/" in node.name else "–"
        tally = tallies.setdefault((stage, facts.role), _Tally())
        tally.nodes += 1
        sources = [_weight_of(name, makers) for name in node.input]
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


def _weight_of(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The initializer behind a dequantized weight, or the tensor itself."""
    maker = makers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name


def _float_type(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, onnx.TensorProto]
) -> str:
    """The type of a product's result, or of its weight where shape inference left no type."""
    weight = constants.get(node.input[1])
    kind = types.get(node.output[0]) or (
        weight.data_type if weight is not None else TensorProto.FLOAT
    )
    return "fp16" if kind in _HALF else "fp32"
