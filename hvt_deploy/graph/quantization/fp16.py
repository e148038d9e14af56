"""FP16: the whole graph in half precision, except nodes whose ranges come near its limit."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import QDQ_OPS, find_used, map_producers
from hvt_deploy.graph.split_products import split_products
from hvt_deploy.graph.topological_order import sort_nodes

FP16_MAX = 65504.0
# The exponents of the powers of two that FP16 holds with all its bits.
FP16_EXPONENTS = (-14, 15)
# Other images have larger activations than those of the calibration set.
SAFE_LIMIT = FP16_MAX / 4
# Below this opset onnx.checker rejects FP16 scales of QuantizeLinear.
QDQ_OPSET = 19
# Engines compute a LayerNormalization from the mean of squares, so its input is squared as well.
_SQUARING_OPS = frozenset({"LayerNormalization", "ReduceSumSquare", "ReduceL2"})


@dataclass(frozen=True)
class KeptNode:
    """A node that stays FP32."""

    node: str
    """The name of the node."""
    reason: str
    """The reason, as a clause for reports."""


@dataclass(frozen=True)
class Fp16Result:
    """An FP16 graph."""

    model: onnx.ModelProto
    """The graph; its images and logits stay FP32."""
    kept_fp32: tuple[KeptNode, ...]
    """The nodes that stay FP32."""


def to_fp16(model: onnx.ModelProto, ranges: Ranges | None) -> Fp16Result:
    """Convert to FP16; without `ranges` no node stays FP32 and a large activation becomes inf.

    Raises ToolFailure for a graph with Q/DQ below opset 19.
    """
    require("onnxruntime", extra="cpu")
    from onnxruntime.transformers.float16 import (
        convert_float_to_float16,  # pyright: ignore[reportUnknownVariableType]
    )

    if read_opset(model) < QDQ_OPSET and any(
        n.op_type == "QuantizeLinear" for n in model.graph.node
    ):
        raise ToolFailure(
            f"FP16 Q/DQ requires opset {QDQ_OPSET} or higher; the graph has {read_opset(model)}.",
            f"Export with --opset {QDQ_OPSET} or higher.",
        )
    kept = find_fp32_nodes(model, ranges) if ranges else ()
    # The first input is the images; others are placeholders of weights and become FP16 like these.
    interface = [model.graph.input[0].name, *(value.name for value in model.graph.output)]
    with contextlib.redirect_stdout(io.StringIO()):
        result = convert_float_to_float16(  # pyright: ignore[reportUnknownVariableType]
            split_products(model, {k.node for k in kept}),
            keep_io_types=interface,  # pyright: ignore[reportArgumentType] - it takes names, too
            node_block_list=[k.node for k in kept],
        )
    converted = cast("onnx.ModelProto", result)
    _drop_repetitions(converted.graph)
    _drop_round_trips(converted.graph, own={node.name for node in model.graph.node})
    sort_nodes(converted.graph)
    return Fp16Result(converted, kept)


def find_fp32_nodes(model: onnx.ModelProto, ranges: Ranges) -> tuple[KeptNode, ...]:
    """The nodes that must stay FP32.

    These have an input or output beyond a quarter of FP16's largest value (or of its square root
    for operators that square their input), a Q/DQ scale that FP16 rounds, or belong to the Q/DQ of
    such a node.
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
        elif node.op_type in QDQ_OPS and is_lost(scales.get(node.input[1])):
            kept.append(KeptNode(node.name, f"its scale {node.input[1]} is too small for FP16"))
    return (*kept, *_find_followers(model, {k.node for k in kept}))


def _find_followers(model: onnx.ModelProto, kept: Collection[str]) -> list[KeptNode]:
    """The nodes that must stay FP32 with the kept ones: a product and all its Q/DQ need one type,
    or engines cannot be built.
    """
    producers = map_producers(model.graph)
    names, followers = set(kept), list[KeptNode]()
    products: list[list[onnx.NodeProto]] = []
    for node in model.graph.node:
        dequantizers = [
            p
            for p in map(producers.get, node.input)
            if p is not None and p.op_type == "DequantizeLinear"
        ]
        quantizers = [producers[d.input[0]] for d in dequantizers if d.input[0] in producers]
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
    """Maps quantized and dequantized tensors to the measured tensor that they were made from."""
    source: dict[str, str] = {}
    for op in QDQ_OPS:  # every Quantize before any Dequantize
        for node in model.graph.node:
            if node.op_type == op:
                source[node.output[0]] = source.get(node.input[0], node.input[0])
    return source


def is_lost(scale: NDArray[Any] | None) -> bool:
    """Whether rounding to FP16 changes a scale by more than a percent."""
    return scale is not None and bool(
        (np.abs(scale.astype(np.float16) - scale) > 0.01 * np.abs(scale)).any()
    )


def _drop_repetitions(graph: onnx.GraphProto) -> None:
    """Remove repeated Casts of a tensor: the converter writes one for each FP32 reader."""
    for entries, names in (
        (graph.node, [node.output[0] for node in graph.node]),
        (graph.value_info, [value.name for value in graph.value_info]),
    ):
        for i in reversed(range(len(names))):
            if names[i] in names[:i]:
                del entries[i]


def _drop_round_trips(graph: onnx.GraphProto, own: Collection[str]) -> None:
    """Remove the Casts to FP16 and back that the converter puts between two nodes that stay FP32.

    Casts among the graph's `own` nodes are kept: they may make FP16 of something else than FP32.
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
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
    used = find_used(graph)
    for name in [name for name in source if name not in used]:
        graph.node.remove(casts[name])
    used = find_used(graph)
    for name, node in casts.items():
        if name not in used and name not in source:
            graph.node.remove(node)
