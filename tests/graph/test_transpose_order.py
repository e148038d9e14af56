"""Transposes before Linears that make ONNX Runtime crash on FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser
from running import run

from hvt_deploy.graph.transpose_order import move_transposes

LINEAR = "m = MatMul (t, weight) logits = Add (m, bias)"


def graph_of(nodes: str, order: str = "[1, 0, 2]") -> onnx.ModelProto:
    weights = ", ".join(str(number / 8) for number in range(12))
    graph = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 5, 4] images) => (float[A, B, C] logits)
        <float[4, 3] weight = {{ {weights} }}, float[3] bias = {{1, 2, -3}}> {{
        relu = Relu (images) t = Transpose <perm = {order}> (relu) {nodes} }}"""
    )
    for i, node in enumerate(graph.graph.node):
        node.name = f"attn/{node.op_type}_{i}"
    return graph


def list_ops(graph: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in graph.graph.node)


@pytest.mark.parametrize(
    ("nodes", "ops"),
    [
        (LINEAR, "Relu MatMul Add Transpose"),
        ("m = MatMul (t, weight) logits = Add (bias, m)", "Relu MatMul Add Transpose"),
        ("logits = MatMul (t, weight)", "Relu MatMul Transpose"),
        (
            "m = MatMul (t, weight) b = Add (m, bias) logits = Add (b, m)",
            "Relu MatMul Transpose Add Add",
        ),
    ],
)
def test_they_are_behind_the_linear_and_the_function_is_the_same(nodes, ops):
    graph = graph_of(nodes)
    moved = move_transposes(graph)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(moved, strict_mode=True))
    assert list_ops(moved) == ops
    assert {node.name.rpartition("/")[0] for node in moved.graph.node} == {"attn"}
    images = np.random.default_rng(0).standard_normal((2, 5, 4), dtype=np.float32)
    assert np.array_equal(run(moved, images), run(graph, images))


@pytest.mark.parametrize(
    ("nodes", "order"),
    [
        (LINEAR, "[0, 1, 2]"),
        ("logits = MatMul (t, t)", "[1, 0, 2]"),
        (f"{LINEAR} s = Sigmoid (t) more = MatMul (s, weight)", "[1, 2, 0]"),
    ],
)
def test_others_stay(nodes, order):
    assert list_ops(move_transposes(graph_of(nodes, order))).startswith("Relu Transpose MatMul")
