"""Masks that mask nothing are dropped, with the guard behind their softmax; others stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from running import run

from hvt_deploy.graph.foreign.empty_masks import drop_empty_masks

ATTENTION = """shape = Shape (images) seen = Expand (all, shape)
    mask = Where (seen, nothing, lowest) product = MatMul (images, images)
    scores = Add (product, mask) soft = Softmax <axis = -1> (scores) bad = IsNaN (soft)
    safe = Where (bad, nothing, soft) logits = MatMul (safe, images)"""
KEPT = "Shape Expand Where MatMul Add Softmax IsNaN Where MatMul"


def graph_of(nodes: str) -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 4, 4] images) => (float[N, 4, 4] logits)
        <bool[1, 1, 4] all = {{1, 1, 1, 1}}, bool[1, 1, 4] some = {{1, 1, 1, 0}},
        float nothing = {{0}}, float one = {{1}}, float lowest = {{-3e38}}> {{ {nodes} }}"""
    )


def list_ops(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(("old", "new"), [("", ""), ("(product, mask)", "(mask, product)")])
def test_a_mask_that_masks_nothing_is_dropped(old, new):
    graph = graph_of(ATTENTION.replace(old, new))
    dropped = drop_empty_masks(graph)
    assert list_ops(dropped) == ["MatMul", "Softmax", "MatMul"]
    images = np.random.default_rng(0).standard_normal((2, 4, 4), dtype=np.float32)
    assert np.array_equal(run(dropped, images), run(graph, images))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(all, shape)", "(some, shape)"),
        ("(seen, nothing, lowest)", "(seen, one, lowest)"),
    ],
)
def test_a_mask_that_hides_or_adds_something_stays(old, new):
    assert " ".join(list_ops(drop_empty_masks(graph_of(ATTENTION.replace(old, new))))) == KEPT


def read_masked(rows: list[str], scale: str = "") -> onnx.ModelProto:
    """Attention with a constant mask, and the guard that torch's exporter writes with it."""
    product = "raw" if scale else "product"
    graph = graph_of(
        f"""{product} = MatMul (images, images) {scale} scores = Add (product, mask)
        soft = Softmax <axis = -1> (scores) bad = IsNaN (soft)
        safe = Where (bad, nothing, soft) logits = MatMul (safe, images)"""
    )
    mask = np.array([[float(value) for value in row.split(",")] for row in rows], np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    return graph


ROW, HIDDEN = "0, -inf, -inf, 2", "-inf, -inf, -inf, -inf"


@pytest.mark.parametrize("scale", ["", "product = Mul (raw, one)"])
def test_a_mask_that_leaves_something_in_every_row_needs_no_guard(scale):
    graph = read_masked([ROW] * 4, scale)
    dropped = drop_empty_masks(graph)
    scaled = ["Mul"] if scale else []
    assert list_ops(dropped) == ["MatMul", *scaled, "Add", "Softmax", "MatMul"]
    images = np.random.default_rng(0).standard_normal((2, 4, 4), dtype=np.float32)
    assert np.array_equal(run(dropped, images), run(graph, images))


def test_a_constant_of_zeros_before_a_softmax_is_a_mask_that_masks_nothing():
    assert list_ops(drop_empty_masks(read_masked(["0, 0, 0, 0"] * 4))) == [
        "MatMul",
        "Softmax",
        "MatMul",
    ]


def test_a_mask_that_hides_a_whole_row_keeps_its_guard():
    graph = read_masked([ROW, ROW, HIDDEN, ROW])
    assert list_ops(drop_empty_masks(graph)) == list_ops(graph)
    images = np.ones((1, 4, 4), np.float32)
    assert np.array_equal(run(drop_empty_masks(graph), images)[0, 2], np.zeros(4))


def test_a_bias_of_zeros_stays():
    nodes = "product = MatMul (images, images) logits = Add (product, nothing)"
    assert list_ops(drop_empty_masks(graph_of(nodes))) == ["MatMul", "Add"]


def test_a_sum_that_makes_a_tensor_larger_stays():
    nodes = """shape = Shape (images) zeros = Expand (nothing, shape)
        small = ReduceMean <axes = [0]> (images) logits = Add (small, zeros)"""
    assert "Add" in list_ops(drop_empty_masks(graph_of(nodes)))
