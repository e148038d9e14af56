"""Small ONNX graphs of the kinds a build meets, made here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

node = helper.make_node


def make_model(
    nodes: Sequence[NodeProto],
    images: Sequence[int | str],
    logits: Sequence[int | str],
    arrays: dict[str, np.ndarray],
    *,
    opset: int = 17,
    elem_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model `images` -> `logits`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", elem_type, images)],
        [helper.make_tensor_value_info("logits", elem_type, logits)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def classifier(batch: int | str = "N", hidden: int = 8) -> ModelProto:
    """Conv, ReLU, average pool, fully connected layer; images (batch, 3, 16, 16) -> logits (batch,
    10).
    """
    random = np.random.default_rng(0)
    nodes = [
        node("Conv", ["images", "kernel"], ["features"], "stem/Conv", pads=[1, 1, 1, 1]),
        node("Relu", ["features"], ["active"], "stem/Relu"),
        node("GlobalAveragePool", ["active"], ["pooled"], "pool/GlobalAveragePool"),
        node("Flatten", ["pooled"], ["flat"], "pool/Flatten"),
        node("MatMul", ["flat", "weight"], ["logits"], "head/MatMul"),
    ]
    arrays = {
        "kernel": random.standard_normal((hidden, 3, 3, 3)).astype(np.float32),
        "weight": random.standard_normal((hidden, 10)).astype(np.float32),
    }
    return make_model(nodes, [batch, 3, 16, 16], [batch, 10], arrays)


def quantized_classifier() -> ModelProto:
    """Conv and fully connected layer with Q/DQ as an engine wants it: signed, symmetric, per
    channel.
    """
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.integers(-90, 90, shape).astype(np.int8)

    def quantize(name: str, source: str) -> list[NodeProto]:
        return [
            node("QuantizeLinear", [source, "scale", "zero"], [f"{name}.q"], f"{name}/Q"),
            node("DequantizeLinear", [f"{name}.q", "scale", "zero"], [f"{name}.x"], f"{name}/DQ"),
        ]

    def dequantize_weight(name: str, axis: int) -> NodeProto:
        inputs = [f"{name}.w", f"{name}.scale", f"{name}.zero"]
        return node("DequantizeLinear", inputs, [f"{name}.weight"], f"{name}/W", axis=axis)

    nodes = [
        *quantize("stem", "images"),
        dequantize_weight("stem", 0),
        node("Conv", ["stem.x", "stem.weight"], ["features"], "stem/Conv", pads=[1, 1, 1, 1]),
        node("Relu", ["features"], ["active"], "stem/Relu"),
        node("GlobalAveragePool", ["active"], ["pooled"], "pool/GlobalAveragePool"),
        node("Flatten", ["pooled"], ["flat"], "pool/Flatten"),
        *quantize("head", "flat"),
        dequantize_weight("head", 1),
        node("MatMul", ["head.x", "head.weight"], ["logits"], "head/MatMul"),
    ]
    arrays = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(0, np.int8),
        "stem.w": weights(32, 3, 3, 3),
        "stem.scale": np.full(32, 0.01, np.float32),
        "stem.zero": np.zeros(32, np.int8),
        "head.w": weights(32, 64),
        "head.scale": np.full(64, 0.01, np.float32),
        "head.zero": np.zeros(64, np.int8),
    }
    return make_model(nodes, ["N", 3, 16, 16], ["N", 64], arrays, opset=19)


def half_attention(heads: int = 4, tokens: int = 49, head_dim: int = 32) -> ModelProto:
    """Multi-head self-attention in float16; images and logits are tokens (N, tokens, heads *
    head_dim).
    """
    random, width = np.random.default_rng(0), heads * head_dim
    nodes: list[NodeProto] = []
    arrays: dict[str, np.ndarray] = {
        "split": np.array([0, tokens, heads, head_dim]),
        "merged": np.array([0, tokens, width]),
        "scale": np.array(head_dim**-0.5, np.float16),
    }
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        arrays[f"{name}.w"] = (0.1 * random.standard_normal((width, width))).astype(np.float16)
        nodes += [
            node("MatMul", ["images", f"{name}.w"], [f"{name}.flat"], f"{name}/MatMul"),
            node("Reshape", [f"{name}.flat", "split"], [f"{name}.heads"], f"{name}/Reshape"),
            node("Transpose", [f"{name}.heads"], [name], f"{name}/Transpose", perm=perm),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"], "attn/score/MatMul"),
        node("Mul", ["scores", "scale"], ["scaled"], "attn/scale/Mul"),
        node("Softmax", ["scaled"], ["weights"], "attn/Softmax", axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"], "attn/value/MatMul"),
        node("Transpose", ["mixed"], ["back"], "attn/Transpose", perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merged"], ["logits"], "attn/Reshape"),
    ]
    return make_model(
        nodes, ["N", tokens, width], ["N", tokens, width], arrays, elem_type=TensorProto.FLOAT16
    )


def one_node(
    op_type: str, opset: int = 17, inputs: Sequence[str] = ("images",), **attributes: object
) -> ModelProto:
    """A single node, named `block/<op_type>`."""
    nodes = [node(op_type, inputs, ["logits"], f"block/{op_type}", **attributes)]
    return make_model(nodes, ["N", 3, 16, 16], ["N", 3, 16, 16], {}, opset=opset)


def crashing_attention() -> ModelProto:
    """An `Attention` node of opset 23 whose q, k and v are one tensor: TensorRT-RTX 1.7 crashes on
    it.
    """
    return one_node("Attention", 23, ["images"] * 3)


def mixed_types() -> ModelProto:
    """A product of float32 and float16."""
    model = classifier()
    (weight,) = (w for w in model.graph.initializer if w.name == "weight")
    weight.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "weight")
    )
    return model


def asymmetric_int8() -> ModelProto:
    """Q/DQ with a zero point of 128, as ONNX Runtime's CPU kernels like it."""
    nodes = [
        node("QuantizeLinear", ["images", "scale", "zero"], ["q"], "block/Q"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["logits"], "block/DQ"),
    ]
    arrays = {"scale": np.array(0.02, np.float32), "zero": np.array(128, np.uint8)}
    return make_model(nodes, ["N", 3, 16, 16], ["N", 3, 16, 16], arrays)
