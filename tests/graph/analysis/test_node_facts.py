"""Facts of a graph's nodes: Q/DQ, weights and attention are found through what stands
between.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from hvt_deploy.graph.analysis.node_facts import read_facts


def facts(text, **arrays):
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return {node.name: node for node in read_facts(model)}


QUANTIZED = """g (float[N,4] x) => (float[N,6] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    %s
    ["levels.2.blocks.0.mlp.fc1/MatMul"] y = MatMul(%s, %s)
}"""


@pytest.mark.parametrize(
    ("between", "left", "right", "quantized"),
    [
        ("dw = DequantizeLinear(w, s, z)", "d", "dw", True),
        ("f = DequantizeLinear(w, s, z)  dw = Identity(f)", "d", "dw", True),
        ("dw = DequantizeLinear(w, s, z)", "x", "dw", False),  # only its weight is stored in INT8
        ("dw = Cast<to = 1>(w)", "d", "dw", False),
    ],
)
def test_product_is_quantized_where_both_factors_are(between, left, right, quantized):
    found = facts(
        QUANTIZED % (between, left, right),
        s=np.float32(0.1),
        z=np.int8(0),
        w=np.zeros((4, 6), np.int8),
    )
    node = found["levels.2.blocks.0.mlp.fc1/MatMul"]
    assert node.quantized == quantized
    assert (node.macs, node.weights, node.stage, node.role) == (24, 24, "2", "fc1")


def test_attention_is_a_softmax_whose_result_weighs_values():
    found = facts(
        """g (float[N,9,8] x) => (float[N,9,9] y) {
            t = Transpose<perm = [0, 2, 1]>(x)
            ["attn/MatMul"] s = MatMul(x, t)
            ["attn/Softmax"] p = Softmax(s)
            h = Cast<to = 1>(p)
            ["attn/MatMul_1"] v = MatMul(h, x)
            ["gate/MatMul"] g = MatMul(v, t)
            ["gate/Softmax"] y = Softmax(g)
        }"""
    )
    assert {name for name, node in found.items() if node.attention} == {"attn/Softmax"}
    assert found["attn/MatMul"].macs == 9 * 9 * 8
    assert found["attn/MatMul"].weights == 0
