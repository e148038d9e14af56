"""The INT8 graph for an engine: Q/DQ on Linears and convolutions by role, Linears that write INT8,
8-bit attention.

What pays differs from library to library (`benchmarks/int8_placement.py` counts kernels and bytes):
TensorRT-RTX writes FP32 from INT8 convolutions, so there they stay FP16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.types import Int8Target
from hvt_deploy.graph.analysis.macs import infer_shapes
from hvt_deploy.graph.quantization.int8_results import quantize_results
from hvt_deploy.graph.quantization.qdq import (
    INT8,
    Placement,
    find_scales,
    insert_qdq,
    select_nodes,
)
from hvt_deploy.graph.quantization.ranges import LAYOUT_OPS, Ranges
from hvt_deploy.graph.queries import map_producers, map_readers

# TensorRT has one INT8 kernel for a whole attention block of these head sizes, up to 512 keys.
_HEAD_DIMS = (16, 32, 64)
_MOST_KEYS = 512
# Between the scores and their softmax: scale, position bias, mask.
_SCORE_OPS = ("Add", "Sub", "Mul", "Div", "Where", "Reshape")


@dataclass(frozen=True)
class EnginePlacement:
    """What an engine computes in INT8."""

    roles: tuple[str, ...]
    """Roles of the Conv and Linear nodes."""
    outputs: tuple[str, ...] = ()
    """Those of these roles whose Linears write INT8."""
    attention: tuple[str, ...] = ()
    """Attention that is one INT8 kernel, by the name of its product with v."""
    excluded: tuple[str, ...] = ()
    """Groups (`stage/role`) of Conv and Linear nodes that stay as they are."""


@dataclass(frozen=True)
class AttentionBlock:
    """softmax(q · k) · v of a graph."""

    score: onnx.NodeProto
    """The product of q and k."""
    value: onnx.NodeProto
    """The product of the softmax and v."""


def find_engine_placement(
    model: onnx.ModelProto,
    quantization: QuantizationConfig,
    target: Int8Target,
    *,
    attention: bool = False,
) -> EnginePlacement:
    """What an engine of the library `target` computes in INT8."""
    roles, excluded = getattr(quantization.int8_roles, target), quantization.excluded
    if target == "rtx" and not select_nodes(model, roles):
        roles = quantization.int8_roles.tensorrt
    blocks = find_int8_attention(model) if attention else ()
    return EnginePlacement(roles, quantization.int8_outputs, blocks, excluded)


def quantize_for_engine(
    model: onnx.ModelProto, ranges: Ranges, placement: EnginePlacement
) -> onnx.ModelProto:
    """The graph with INT8 Q/DQ at `placement`, FP32 in the rest.

    Raises BadInput if no node is selected, and as `insert_qdq` and `quantize_results` do.
    """
    chosen = select_nodes(model, placement.roles, placement.excluded)
    blocks = [b for b in find_attention(model) if b.value.name in placement.attention and chosen]
    products = [node.name for block in blocks for node in (block.score, block.value)]
    results = [block.value.output[0] for block in blocks]
    readers = map_readers(model.graph)
    scales = {name: _find_scale(ranges, _follow_layout(name, readers)) for name in results}
    quantized = insert_qdq(
        model,
        ranges,
        Placement(
            nodes={*chosen, *products},
            outputs={block.value.name for block in blocks},
            scales=scales,
        ),
        INT8,
    )
    written = {*select_nodes(model, placement.outputs, placement.excluded)} & {*chosen}
    return quantize_results(quantized, ranges, written)


def _follow_layout(tensor: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """The tensor behind the layout operators that alone read `tensor`. With its scale for both, an
    engine quantizes once; a calibrator may have clipped the tensor that a Linear reads.
    """
    while len(found := readers.get(tensor, ())) == 1 and found[0].op_type in LAYOUT_OPS:
        tensor = found[0].output[0]
    return tensor


def _find_scale(ranges: Ranges, tensor: str) -> float:
    return float(find_scales(np.array(ranges.largest(tensor), np.float32), INT8))


def find_int8_attention(model: onnx.ModelProto) -> tuple[str, ...]:
    """The attention that TensorRT has an INT8 kernel for, as in `EnginePlacement`: heads of 16, 32
    or 64 channels, at most 512 keys and more than one query.
    """
    shapes = infer_shapes(model)

    def fits(block: AttentionBlock) -> bool:
        query, scores = (
            shapes.get(name, ()) for name in (block.score.input[0], *block.score.output)
        )
        value = shapes.get(block.value.output[0], ())
        return (
            bool(query and scores and value)
            and query[-1] in _HEAD_DIMS
            and value[-1] in _HEAD_DIMS
            and scores[-1] <= _MOST_KEYS
            and scores[-2] > 1  # a class token's own attention is no fused kernel
        )

    return tuple(block.value.name for block in find_attention(model) if fits(block))


def find_attention(model: onnx.ModelProto) -> tuple[AttentionBlock, ...]:
    """Every product of a softmax, which nothing else reads, whose scores are a product too."""
    producers, readers = map_producers(model.graph), map_readers(model.graph)
    blocks: list[AttentionBlock] = []
    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        reading = readers.get(softmax.output[0], [])
        score = _find_score(softmax, producers)
        if (
            score
            and len(reading) == 1
            and _is_product(reading[0], producers)
            and reading[0].input[0] == softmax.output[0]
        ):
            blocks.append(AttentionBlock(score, reading[0]))
    return tuple(blocks)


def _find_score(
    softmax: onnx.NodeProto, producers: dict[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    waiting = [softmax]
    while waiting:
        for name in waiting.pop().input:
            node = producers.get(name)
            if node is not None and _is_product(node, producers):
                return node
            if node is not None and node.op_type in _SCORE_OPS:
                waiting.append(node)
    return None


def _is_product(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether it multiplies two computed tensors."""
    return node.op_type == "MatMul" and all(name in producers for name in node.input)
