"""LayerNorms of files below opset 17 are one operator, the same function, with the file's ε."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from foreign_files import make_swin, make_vit, write_legacy
from onnx import helper, parser, version_converter
from running import run

from hvt_deploy.graph.foreign.interface import read_foreign
from hvt_deploy.graph.foreign.norm_fusion import fuse_layer_norms
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.simplify import simplify

NORM = """mean = ReduceMean <axes = [-1]> (images) centred = Sub (images, mean)
    square = Pow (centred, two) variance = ReduceMean <axes = [-1]> (square)
    added = Add (variance, epsilon) root = Sqrt (added) normal = Div (centred, root)"""
AFFINE = "scaled = Mul (normal, scale) logits = Add (scaled, shift)"


def norm_graph(nodes: str) -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 3, 4] images) => (float[N, 3, 4] logits)
        <float two = {{2}}, float three = {{3}}, float epsilon = {{0.125}},
        float[4] scale = {{1, 2, -3, 0.5}}, float[4] shift = {{0, 1, 2, 3}},
        float[3, 1] rows = {{1, 2, 3}}, int64[3] column = {{-1, 3, 1}}> {{ {nodes} }}"""
    )


def draw_images():
    return np.random.default_rng(0).standard_normal((2, 3, 4), dtype=np.float32)


@pytest.mark.parametrize(("make", "opset"), [(make_swin, 17), (make_vit, 18)])
def test_a_file_of_opset_14_gets_the_norms_of_one_of_17(tmp_path, make, opset):
    """With names and initializers as torch.onnx writes them, through the simplifier."""
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    given, graphs = {}, {}
    for exported in (14, 17):
        given[exported] = read_foreign(
            write_legacy(make(), tmp_path / f"{exported}.onnx", opset=exported)
        )
        simplified = simplify(version_converter.convert_version(given[exported], 17), "onnxslim")
        graphs[exported] = fuse_layer_norms(convert_opset(simplified, opset))
    counts = [Counter(node.op_type for node in graph.graph.node) for graph in graphs.values()]
    norms = ("LayerNormalization", "ReduceMean", "Sub", "Pow", "Sqrt")
    assert [counts[0][op] for op in norms] == [counts[1][op] for op in norms]
    assert counts[0]["LayerNormalization"] == (9 if make is make_swin else 5)
    expected, found = run(given[14], images, "input"), run(graphs[14], images, "input")
    assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()


WHOLE = "images scale shift"
RECIPROCAL = "one = Reciprocal (root) normal = Mul (centred, one)"
# Tensor.var as torch's exporter writes it: with a mean of its own, the axis dropped and put back.
VARIANCE = """mean = ReduceMean <axes = [-1]> (images) centred = Sub (images, mean)
    own_mean = ReduceMean <axes = [2]> (images) own = Sub (images, own_mean)
    square = Mul (own, own) flat = ReduceMean <axes = [2], keepdims = 0> (square)
    variance = Reshape (flat, column)
    added = Add (variance, epsilon) root = Sqrt (added) normal = Div (centred, root)"""


@pytest.mark.parametrize(
    ("old", "new", "inputs"),
    [
        ("two", "two", WHOLE),
        (AFFINE, "scaled = Mul (scale, normal) logits = Add (shift, scaled)", WHOLE),
        (AFFINE, "logits = Mul (normal, scale)", "images scale"),
        (AFFINE, "logits = Add (normal, shift)", "images logits_ones shift"),
        (AFFINE, "logits = Identity (normal)", "images normal_ones"),
        (AFFINE, "logits = Mul (normal, rows)", "images normal_ones"),
        ("Pow (centred, two)", "Mul (centred, centred)", WHOLE),
        ("square = Pow (centred,", "again = Sub (images, mean) square = Pow (again,", WHOLE),
        ("[-1]", "[2]", WHOLE),
        ("[-1]", "[-2, -1]", "images normal_ones"),
        ("normal = Div (centred, root)", RECIPROCAL, WHOLE),
        ("normal = Div (centred, root)", RECIPROCAL.replace("centred, one", "one, centred"), WHOLE),
        (NORM, VARIANCE, WHOLE),
    ],
)
def test_the_forms_that_exporters_write(old, new, inputs):
    graph = norm_graph(f"{NORM} {AFFINE}".replace(old, new))
    fused = fuse_layer_norms(graph)
    (norm,) = [node for node in fused.graph.node if node.op_type == "LayerNormalization"]
    assert norm.input == inputs.split()
    assert not {"ReduceMean", "Sqrt"} & {node.op_type for node in fused.graph.node}
    attributes = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
    assert attributes["epsilon"] == 0.125
    images = draw_images()
    assert np.allclose(run(fused, images), run(graph, images, optimize=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[-1]", "[1]"),
        ("two", "three"),
        ("Sub (images, mean)", "Sub (mean, images)"),
        ("ReduceMean <axes = [-1]> (square)", "ReduceMean <axes = [-2]> (square)"),
        ("ReduceMean <axes = [-1]> (square)", "ReduceMean <axes = [-1]> (images)"),
        ("Add (variance, epsilon)", "Add (variance, rows)"),
        ("Div (centred, root)", "Div (images, root)"),
        ("ReduceMean <axes = [-1]> (square)", "ReduceMean <axes = [-2]> (square)"),
        ("[-1]> (images) centred", "[-2]> (images) centred"),
        ("<axes = [-1]> (square)", "<axes = [-1], keepdims = 0> (square)"),
    ],
)
def test_what_is_no_layer_norm_is_left_alone(old, new):
    graph = fuse_layer_norms(norm_graph(f"{NORM} {AFFINE}".replace(old, new))).graph
    assert "LayerNormalization" not in {node.op_type for node in graph.node}
