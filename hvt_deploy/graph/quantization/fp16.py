"""FP16: the whole graph in half precision, except the nodes whose measured ranges come near its
limit.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.order import sort_nodes
from hvt_deploy.graph.quantization.ranges import Ranges

FP16_MAX = 65504.0
# Images of a calibration set do not show the largest value there is.
SAFE_LIMIT = FP16_MAX / 4
# Below this opset onnx.checker refuses FP16 scales of QuantizeLinear.
QDQ_OPSET = 19
_QDQ = ("QuantizeLinear", "DequantizeLinear")
# Engines compute a LayerNormalization as squares and their mean, so that its input is squared
# before it is summed.
_SQUARING_OPS = frozenset({"LayerNormalization", "ReduceSumSquare", "ReduceL2"})


@dataclass(frozen=True)
class KeptNode:
    """A node that stays FP32, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Fp16Result:
    """The FP16 graph (inputs and outputs stay FP32) and what stayed FP32 in it."""

    model: onnx.ModelProto
    kept_fp32: tuple[KeptNode, ...]


def to_fp16(model: onnx.ModelProto, ranges: Ranges | None) -> Fp16Result:
    """Convert to FP16. Without ranges nothing is kept FP32: a large activation then becomes inf.

    Raises ToolFailure for a graph with Q/DQ below opset 19.
    """
    require("onnxruntime", extra="cpu")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if read_opset(model) < QDQ_OPSET and any(
        n.op_type == "QuantizeLinear" for n in model.graph.node
    ):
        raise ToolFailure(
            f"FP16 Q/DQ exists from opset {QDQ_OPSET} on; the graph has {read_opset(model)}."
        )
    kept = kept_in_fp32(model, ranges) if ranges else ()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # The first input is the images; others stand for weights and become FP16 like any weight.
    interface = [model.graph.input[0].name, *(value.name for value in model.graph.output)]
    with contextlib.redirect_stdout(io.StringIO()):
        converted = convert_float_to_float16(
            copy,
            keep_io_types=interface,  # pyright: ignore[reportArgumentType] - its documentation takes names, too
            node_block_list=[k.node for k in kept],
        )
    _drop_repetitions(converted.graph)
    _drop_round_trips(converted.graph, own={node.name for node in model.graph.node})
    sort_nodes(converted.graph)
    return Fp16Result(converted, kept)


def kept_in_fp32(model: onnx.ModelProto, ranges: Ranges) -> tuple[KeptNode, ...]:
    """The nodes with an input or output beyond a quarter of FP16's largest value, and what squares
    such inputs.
    """
    measured = _before_quantization(model)
    scales = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if not tensor.dims[1:]
    }
    kept: list[KeptNode] = []
    for node in model.graph.node:
        tensors = {measured.get(name, name) for name in (*node.input, *node.output)}
        largest, name = max(((ranges.largest(t), t) for t in tensors), default=(0.0, ""))
        limit = math.sqrt(SAFE_LIMIT) if node.op_type in _SQUARING_OPS else SAFE_LIMIT
        if largest > limit:
            kept.append(
                KeptNode(node.name, f"|{name}| reaches {largest:.4g}, the limit is {limit:.4g}")
            )
        elif node.op_type in _QDQ and _is_lost(scales.get(node.input[1])):
            kept.append(KeptNode(node.name, f"its scale {node.input[1]} is too small for FP16"))
    return (*kept, *_with_their_operands(model, {k.node for k in kept}))


def _with_their_operands(model: onnx.ModelProto, kept: Collection[str]) -> list[KeptNode]:
    """What has to follow kept nodes: a product and all its Q/DQ have one type, or engines cannot be
    built.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    names, followers = set(kept), list[KeptNode]()
    products: list[list[onnx.NodeProto]] = []
    for node in model.graph.node:
        dequantizers = [
            m
            for m in map(makers.get, node.input)
            if m is not None and m.op_type == "DequantizeLinear"
        ]
        quantizers = [makers[d.input[0]] for d in dequantizers if d.input[0] in makers]
        if dequantizers:
            products.append([node, *dequantizers, *quantizers])
    while True:
        mixed = [
            p for p in products if {n.name for n in p} & names and not {n.name for n in p} <= names
        ]
        if not mixed:
            return followers
        for member in mixed[0]:
            if member.name not in names:
                names.add(member.name)
                followers.append(
                    KeptNode(member.name, f"it belongs to {mixed[0][0].name}, which has FP32 Q/DQ")
                )


def _before_quantization(model: onnx.ModelProto) -> dict[str, str]:
    """Quantized and dequantized tensors with the tensor they were made from, whose range was
    measured.
    """
    source: dict[str, str] = {}
    for op in _QDQ:  # every Quantize before any Dequantize
        for node in model.graph.node:
            if node.op_type == op:
                source[node.output[0]] = source.get(node.input[0], node.input[0])
    return source


def _is_lost(scale: NDArray[Any] | None) -> bool:
    """Whether rounding to FP16 changes a scale by more than a percent."""
    return scale is not None and bool(
        (np.abs(scale.astype(np.float16) - scale) > 0.01 * np.abs(scale)).any()
    )


def _drop_repetitions(graph: onnx.GraphProto) -> None:
    """Let what stays FP32 share one Cast of a tensor: the converter writes the same one again for
    each reader.
    """
    for entries, names in (
        (graph.node, [node.output[0] for node in graph.node]),
        (graph.value_info, [value.name for value in graph.value_info]),
    ):
        for i in reversed(range(len(names))):
            if names[i] in names[:i]:
                del entries[i]


def _drop_round_trips(graph: onnx.GraphProto, own: Collection[str]) -> None:
    """Let neighbours that both stay FP32 hand over FP32: the converter casts to FP16 and back
    between them.

    A Cast that the graph had before, one of its `own` nodes, may make FP16 of something else than
    FP32.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}

    def is_to(node: onnx.NodeProto, data_type: int) -> bool:
        return any(a.name == "to" and a.i == data_type for a in node.attribute)

    halved = {
        name: node.input[0]
        for name, node in casts.items()
        if is_to(node, onnx.TensorProto.FLOAT16) and node.name not in own
    }
    source = {
        name: halved[node.input[0]]
        for name, node in casts.items()
        if is_to(node, onnx.TensorProto.FLOAT) and node.input[0] in halved
    }
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
    used = {name for node in graph.node for name in node.input} | outputs
    for name in [name for name in source if name not in used]:
        graph.node.remove(casts[name])
    used = {name for node in graph.node for name in node.input} | outputs
    for name, node in casts.items():
        if name not in used and name not in source:
            graph.node.remove(node)
