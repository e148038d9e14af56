"""Small weight scales raised by a power of two: the same function in FP32, kept by FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from running import run, sqnr

from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import INT8, Placement, insert_qdq, quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges
from hvt_deploy.graph.quantization.scale_raising import raise_scales
from hvt_deploy.graph.storage import load_onnx

NODES = ("conv", "linear", "gemm")


def quantize_small(factor, bias=1e-4):
    """A Conv, a Linear and a Gemm with INT8 weights of about `factor`, one channel of them zeros,
    and images; the sum of their results is about 1.
    """
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 19]>
        g (float[N, 4, 2, 2] images) => (float[N, 4] logits) <float big = {{{1 / factor}}}> {{
        [conv] maps = Conv <kernel_shape = [1, 1]> (images, v, b)
        [mean] pooled = ReduceMean <keepdims = 0> (images, axes)
        [linear] sums = MatMul (pooled, w) [gemm] values = Gemm <transB = 1> (pooled, w, b)
        [first] mapped = ReduceMean <keepdims = 0> (maps, axes)
        [second] both = Add (sums, values) [third] all = Add (both, mapped)
        [last] logits = Mul (all, big) }}"""
    )
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((4, 4)) * factor).astype(np.float32)
    weight[1], weight[:, 1] = 0, 0
    for name, values in (
        ("w", weight),
        ("v", weight.reshape(4, 4, 1, 1)),
        ("b", np.full(4, bias, np.float32)),
        ("axes", np.array([-2, -1])),
    ):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    images = rng.standard_normal((8, 4, 2, 2)).astype(np.float32)
    outputs = ("maps", "pooled", "sums", "values")
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    found = dict(
        zip(outputs, ReferenceEvaluator(probe).run(None, {"images": images})[1:], strict=True)
    )
    extremes = {"images": images, **found}
    ranges = Ranges({k: (float(v.min()), float(v.max())) for k, v in extremes.items()})
    return model, insert_qdq(model, ranges, Placement(NODES), INT8), ranges, images


def test_a_small_weight_is_the_same_in_fp32_and_stays_int8_in_fp16():
    model, quantized, ranges, images = quantize_small(2e-5)
    raised = raise_scales(quantized, ranges)
    onnx.checker.check_model(raised, full_check=True)
    expected = run(quantized, images, optimize=False)
    np.testing.assert_array_equal(run(raised, images, optimize=False), expected)
    assert len(to_fp16(quantized, ranges).kept_fp32) >= 3 * len(NODES)
    half = to_fp16(raised, ranges)
    assert half.kept_fp32 == ()
    weights = {t.name: numpy_helper.to_array(t) for t in half.model.graph.initializer}
    assert {weights[n.input[0]].dtype for n in half.model.graph.node if "weight" in n.name} == {
        np.dtype(np.int8)
    }
    scales = [v for name, v in weights.items() if name.endswith("raised_scale")]
    assert len(scales) == len(NODES)
    assert all((v >= 2.0**-14).all() and (v * 127 < 65504).all() for v in scales)
    found = ReferenceEvaluator(half.model).run(None, {"images": images})[0]
    assert sqnr(run(model, images), found) > 30


def test_weights_that_fp16_holds_are_left_alone():
    _, quantized, ranges, _ = quantize_small(0.1)
    assert raise_scales(quantized, ranges) == quantized


def test_a_product_whose_result_has_no_room_stays_as_it_is():
    _, quantized, ranges, _ = quantize_small(2e-5, bias=9000.0)
    raised = raise_scales(quantized, ranges)
    products = {node.output[0]: node.name for node in raised.graph.node if node.name in NODES}
    assert products == {"maps": "conv", "sums_raised": "linear", "values": "gemm"}
    assert {"gemm", "conv"} <= {kept.node for kept in to_fp16(raised, ranges).kept_fp32}


def test_a_product_without_a_range_stays_as_it_is():
    _, quantized, ranges, _ = quantize_small(2e-5)
    known = Ranges({name: ends for name, ends in ranges.tensors.items() if name != "sums"})
    raised = raise_scales(quantized, known)
    assert "sums" in {name for node in raised.graph.node for name in node.output}
    assert "values_raised" in {name for node in raised.graph.node for name in node.output}


def test_folded_layer_scales_of_a_faster_vit_keep_no_product_in_fp32(exported_graph):
    """Its layer scales leave scales of 1e-6 and less in the weights of proj and fc2."""
    path = exported_graph("faster_vit_demo")
    images = np.random.default_rng(0).standard_normal((8, 3, 64, 64), np.float32)
    ranges = collect_ranges(path, [images], threads=1)
    model = convert_opset(load_onnx(path), 19)
    quantized = quantize_int8(model, ranges, PRODUCT_ROLES)
    raised = raise_scales(quantized, ranges)
    expected = run(quantized, images, optimize=False)
    np.testing.assert_array_equal(run(raised, images, optimize=False), expected)
    before, after = to_fp16(quantized, ranges), to_fp16(raised, ranges)
    assert (len(before.kept_fp32), len(after.kept_fp32)) == (36, 0)
    assert (
        sqnr(expected, run(after.model, images, optimize=False))
        >= sqnr(expected, run(before.model, images, optimize=False)) - 0.5
    )


@pytest.mark.parametrize("factor", [1e-9, 1e-12])
def test_scales_beyond_two_to_the_14_stay_fp32(factor):
    """FP16 could not hold 2^-k."""
    _, quantized, ranges, _ = quantize_small(factor, bias=0.0)
    raised = raise_scales(quantized, ranges)
    assert not any(node.op_type == "Mul" and node.name != "last" for node in raised.graph.node)
