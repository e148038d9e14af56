"""Queries on a graph: the producer and the readers of a tensor, the layout of a weight."""

from __future__ import annotations

import onnx

PRODUCT_OPS = ("Conv", "MatMul", "Gemm")
QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")


def map_producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor; inputs and initializers have none."""
    return {name: node for node in graph.node for name in node.output if name}


def map_readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in the order of the graph; a tensor that none reads is
    missing.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers


def find_used(graph: onnx.GraphProto) -> set[str]:
    """The tensors that a node or the caller of the graph reads."""
    return {name for node in graph.node for name in node.input} | {v.name for v in graph.output}


def weight_is_transposed(product: onnx.NodeProto) -> bool:
    """Whether a weight is (output channels, input channels); only that of a Gemm can be."""
    return any(attribute.name == "transB" and attribute.i for attribute in product.attribute)


def find_output_channel_axis(product: onnx.NodeProto) -> int:
    """The axis of the output channels in the weight of a Conv, MatMul or Gemm."""
    return 0 if product.op_type == "Conv" or weight_is_transposed(product) else 1
