"""An Einsum that is one matrix product becomes it, the same function; others stay."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from running import run

from hvt_deploy.graph.foreign.einsum_products import write_products


def write_einsum(equation, shape, other, constant):
    """`images` and a tensor that is a constant or made of the images."""
    values = np.random.default_rng(1).standard_normal(other).astype(np.float32)
    weight = numpy_helper.from_array(values, "w")
    scaled = helper.make_node("Mul", ["w", "one"], ["v"])
    one = helper.make_node("ReduceMax", ["images"], ["one"], keepdims=0)
    name = "w" if constant else "v"
    product = helper.make_node(
        "Einsum", ["images", name], ["y"], "blocks.3.attn/Einsum", equation=equation
    )
    nodes = [product] if constant else [one, scaled, product]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("equation", "shape", "other", "constant", "ops"),
    [
        ("bnhd,bmhd->bhnm", (2, 5, 3, 4), (2, 6, 3, 4), False, "Transpose Transpose MatMul"),
        ("bhnm,bmhd->bnhd", (2, 3, 5, 6), (2, 6, 3, 4), False, "Transpose MatMul Transpose"),
        ("bhid, bhjd -> bhij", (2, 3, 5, 4), (2, 3, 6, 4), False, "Transpose MatMul"),
        ("bik,bkj->bij", (2, 5, 4), (2, 4, 6), False, "MatMul"),
        ("bnc,kc->bnk", (2, 5, 4), (6, 4), True, "MatMul"),
        ("bchw,kc->bkhw", (2, 4, 5, 3), (6, 4), True, "Transpose MatMul Transpose"),
        ("cn,bck->bkn", (4, 5), (2, 4, 6), True, "MatMul"),
    ],
)
def test_a_product_is_a_matmul(equation, shape, other, constant, ops):
    model = write_einsum(equation, shape, other, constant)
    written = write_products(model)
    made = [node for node in written.graph.node if node.op_type not in ("Mul", "ReduceMax")]
    assert " ".join(sorted(node.op_type for node in made)) == " ".join(sorted(ops.split()))
    assert {node.name.rpartition("/")[0] for node in made} == {"blocks.3.attn"}
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected, found = run(model, images), run(written, images)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shape", "other"),
    [
        ("bnhd,bmhd->bnm", (2, 5, 3, 4), (2, 6, 3, 4)),  # two axes are summed
        ("bnd,bmd->bn", (2, 5, 4), (2, 6, 4)),  # an axis of one input is summed
        ("bnd,bd->bn", (2, 5, 4), (2, 4)),  # no axis of the second input is left
        ("bnd,bnd->bnd", (2, 5, 4), (2, 5, 4)),  # none is summed
        ("b...d,b...d->b...", (2, 5, 4), (2, 5, 4)),
        ("bii,bij->bij", (2, 5, 5), (2, 5, 6)),  # a diagonal
        ("bnd,bmd", (2, 5, 4), (2, 6, 4)),  # the result is implied
    ],
)
def test_another_einsum_stays(equation, shape, other):
    model = write_einsum(equation, shape, other, constant=False)
    assert "Einsum" in {node.op_type for node in write_products(model).graph.node}
