"""Shapes that exporters compute at run time become constants, at every batch size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from running import run

from hvt_deploy.graph.foreign.constant_shapes import fix_shapes

WINDOWS = """half = Relu (images) shape = Shape (half) n = Gather (shape, zero)
    times = Mul (n, two) both = Unsqueeze (times, zeros) target = Concat <axis = 0> (both, rest)"""


def graph_of(nodes: str, batch: str = "N") -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[{batch}, 4, 6] images) => (float[A, B, C] logits)
        <int64 zero = {{0}}, int64 two = {{2}}, int64[1] zeros = {{0}},
        int64[2] rest = {{2, 6}}, int64[2] twelve = {{-1, 12}}, int64[1] one = {{1}}> {{
        {nodes} }}"""
    )


@pytest.mark.parametrize(("batch", "size"), [("N", -1), ("3", 6)])
def test_a_computed_shape_is_a_constant(batch, size):
    graph = graph_of(f"{WINDOWS} logits = Reshape (half, target)", batch)
    fixed = fix_shapes(graph)
    assert [node.op_type for node in fixed.graph.node] == ["Relu", "Reshape"]
    (shape,) = [t for t in fixed.graph.initializer if t.name in fixed.graph.node[1].input]
    assert numpy_helper.to_array(shape).tolist() == [size, 2, 6]
    images = np.random.default_rng(0).standard_normal((3, 4, 6), dtype=np.float32)
    assert np.array_equal(run(fixed, images), run(graph, images))


def test_a_shape_with_two_sizes_that_the_batch_decides_stays():
    """The Gram matrix of a batch, of which nothing else can be said."""
    nodes = f"""{WINDOWS} flat = Reshape (half, twelve) turned = Transpose <perm = [1, 0]> (flat)
        gram = MatMul (flat, turned) first = Concat <axis = 0> (one, both)
        square = Concat <axis = 0> (first, both) logits = Reshape (gram, square)"""
    assert "Shape" in [node.op_type for node in fix_shapes(graph_of(nodes)).graph.node]
