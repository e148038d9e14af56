"""What FP16 rounding alone does to a graph, and the check that is made with it, through real ONNX
Runtime.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser
from running import run, sqnr

from hvt_deploy.commands.fp16_check import check_fp16, infer_rounded
from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.fp16_rounding import round_as_fp16
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx


def planted(tmp_path, nodes, weights=""):
    """The file of a graph of 16 numbers, and 16 rows of them between -1 and 1."""
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g
        (float[N, 16] images) => (float[N, 16] logits) <{weights}> {{ {nodes} }}"""
    )
    for node in model.graph.node:
        node.name = node.output[0]
    save_onnx(model, tmp_path / "m.onnx")
    images = np.random.default_rng(0).uniform(-1, 1, (16, 16)).astype(np.float32)
    return tmp_path / "m.onnx", images


def check(path, images, half=None):
    """The check of the FP16 graph `half`, else of the file's own without ranges."""
    half = half or to_fp16(load_onnx(path), None).model
    reference, found = run(load_onnx(path), images), run(half, images)
    rounding = check_fp16("m", reference, found, lambda: infer_rounded(path, images))
    return rounding, sqnr(reference, found)


def test_images_weights_and_results_are_rounded_as_float16_rounds(tmp_path):
    path, images = planted(
        tmp_path, "sum = Add (images, w) logits = Mul (sum, w)", "float w = {1.2345678}"
    )
    w = np.float16(1.2345678)
    expected = (images.astype(np.float16) + w) * w
    found = run(round_as_fp16(load_onnx(path)), images)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_what_fp16_cannot_reach_is_rounded_all_the_same(tmp_path):
    path, images = planted(tmp_path, "logits = Mul (images, w)", "float w = {1e9}")
    found = infer_rounded(path, images)
    assert 60 < sqnr(run(load_onnx(path), images), found) < 80


@pytest.fixture(scope="module")
def demo(exported_graph):
    """A trained model's file, and noise of the scale of images."""
    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32), dtype=np.float32)
    return exported_graph("fdvit_demo"), images


def test_a_sound_fp16_graph_of_a_trained_model_passes(demo):
    path, images = demo
    rounding, found_db = check(path, images)
    assert rounding is None
    assert found_db > 50


def test_a_graph_that_loses_much_by_rounding_alone_passes(tmp_path):
    """Cancellation: what is left has few bits in any FP16 graph."""
    path, images = planted(tmp_path, "a = Add (images, w) logits = Sub (a, w)", "float w = {40}")
    reference, rounded = run(load_onnx(path), images), infer_rounded(path, images)
    assert sqnr(reference, rounded) < 40
    assert check_fp16("m", reference, rounded, lambda: rounded).sqnr_db < 40


def test_one_overflow_fails(tmp_path):
    nodes = "a = Mul (images, w) b = Mul (a, v) logits = Add (b, images)"
    path, images = planted(tmp_path, nodes, "float w = {70000}, float v = {0.00001}")
    with pytest.raises(CheckFailed, match="loses more than rounding to FP16 does"):
        check(path, images)
    kept = to_fp16(load_onnx(path), collect_ranges(path, [images], threads=1))
    assert kept.kept_fp32
    check(path, images, kept.model)


def test_a_block_that_was_converted_wrongly_fails(demo):
    path, images = demo
    half = copy_model(to_fp16(load_onnx(path), None).model)
    norm = next(node for node in half.graph.node if node.op_type == "LayerNormalization")
    (weight,) = (t for t in half.graph.initializer if t.name == norm.input[1])
    changed = numpy_helper.to_array(weight) * np.float16(1.02)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    with pytest.raises(CheckFailed, match="loses more than"):
        check(path, images, half)


def test_fewer_images_of_the_same_class_fail_whatever_the_noise_is():
    """Small changes of small margins: the SQNR is as good as that of rounding."""
    reference = np.zeros((64, 4), np.float32)
    reference[:, 0], reference[:, 1] = 10, 9.999
    rounded, found = reference.copy(), reference.copy()
    rounded[:, 2], found[:, 1] = 0.01, 10.001
    with pytest.raises(CheckFailed, match="the class of 0 instead of 64 of 64 images"):
        check_fp16("m", reference, found, lambda: rounded)
    found[8:] = reference[8:]
    with pytest.raises(CheckFailed, match="56 instead of 64"):
        check_fp16("m", reference, found, lambda: rounded)
    found[2:] = reference[2:]  # two images prove nothing
    check_fp16("m", reference, found, lambda: rounded)


def test_logits_that_are_not_finite_fail():
    reference = np.ones((4, 4), np.float32)
    with pytest.raises(CheckFailed):
        check_fp16("m", reference, np.full_like(reference, np.nan), lambda: reference)
