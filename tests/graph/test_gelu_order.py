"""GELU as ONNX Runtime fuses it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser
from running import run

from hvt_deploy.graph.gelu_order import order_gelu
from hvt_deploy.graph.storage import load_onnx

EXPORTED = "scaled = Mul (half, sum) logits = Mul (images, scaled)"


def five_nodes(product: str) -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float root = {{1.4142135}}, float one = {{1}}, float half = {{0.5}}> {{
        x = Div (images, root) e = Erf (x) sum = Add (e, one) {product} }}"""
    )


def test_every_gelu_of_an_exported_model_is_one_kernel(exported_graph, tmp_path) -> None:
    path = exported_graph("hvt_demo")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    gelus = sum(node.op_type == "Erf" for node in load_onnx(path).graph.node)
    assert made["BiasGelu"] == gelus > 0
    assert made["Erf"] == 0


def test_the_order_changes_nothing_else() -> None:
    images = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    before = five_nodes(EXPORTED)
    after = order_gelu(before)
    assert [n.output[0] for n in after.graph.node] == [n.output[0] for n in before.graph.node]
    assert list(after.graph.node[3].input) == ["images", "sum"]
    assert np.allclose(run(after, images), run(before, images), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "product",
    [
        "scaled = Mul (images, sum) logits = Mul (scaled, half)",
        "scaled = Mul (half, sum) again = Mul (images, scaled) logits = Add (again, scaled)",
    ],
)
def test_other_products_are_left_alone(product) -> None:
    assert order_gelu(five_nodes(product)) == five_nodes(product)
