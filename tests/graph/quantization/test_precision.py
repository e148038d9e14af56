"""Ranges, FP16 and INT8 on the demo's FDViT and on small graphs, through real ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from running import run, sqnr

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES, find_role
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.cpu_int8 import make_cpu_variant
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges, read_ranges
from hvt_deploy.graph.storage import save_onnx


def test_ranges_are_those_of_all_batches(fp32, ranges, images):
    assert ranges.tensors["images"] == pytest.approx((images.min(), images.max()))
    logits = run(fp32, images)
    assert ranges.tensors["logits"] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    assert len(ranges.tensors) > len(fp32.graph.node) * 0.9


def test_ranges_of_every_tensor_and_channel_are_those_of_its_values(fp32, ranges, images):
    probe, names = copy_model(fp32), [name for name in ranges.tensors if name != "images"]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    values = dict(zip(names, session.run(names, {"images": images}), strict=True))
    softmax = {node.output[0] for node in fp32.graph.node if node.op_type == "Softmax"}
    for name, found in values.items():
        expected = (0 if name in softmax else found.min(), found.max())
        assert ranges.tensors[name] == pytest.approx(expected, rel=1e-4, abs=1e-5), name
    weights = {tensor.name for tensor in fp32.graph.initializer if len(tensor.dims) == 2}
    with_channels = [
        n.output[0]
        for n in fp32.graph.node
        if n.op_type == "LayerNormalization" or (n.op_type == "MatMul" and n.input[1] in weights)
    ]
    assert list(ranges.channels) == with_channels
    for name in with_channels:
        by_channel = values[name].reshape(-1, values[name].shape[-1])
        expected = np.stack([by_channel.min(axis=0), by_channel.max(axis=0)], axis=1)
        np.testing.assert_allclose(ranges.channels[name], expected, rtol=1e-4, atol=1e-5)


def test_ranges_come_back_from_their_file(ranges, tmp_path):
    ranges.write(tmp_path / "r.json")
    assert read_ranges(tmp_path / "r.json") == ranges
    (tmp_path / "r.json").write_text("[1]")
    with pytest.raises(BadInput):
        read_ranges(tmp_path / "r.json")


def test_no_image_is_bad_input(fp32, tmp_path):
    save_onnx(fp32, tmp_path / "m.onnx")
    with pytest.raises(BadInput, match="no image"):
        collect_ranges(tmp_path / "m.onnx", [], threads=1)


def test_a_tensor_that_is_not_finite_is_named(tmp_path):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 2] images) => (float[N, 2] logits) {
        bad = Log (images) logits = Identity (bad) }"""
    )
    save_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(ToolFailure, match="bad"):
        collect_ranges(tmp_path / "m.onnx", [np.full((1, 2), -1, np.float32)], threads=1)


def test_fp16_keeps_40_db(fp32, ranges, images):
    result = to_fp16(fp32, ranges)
    assert result.kept_fp32 == ()
    assert sqnr(run(fp32, images), run(result.model, images)) >= 40
    halves = [t for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert sum(t.name.endswith("weight") or "weight" in t.name for t in halves) > 10


def test_a_planted_residual_sum_stays_fp32(tmp_path):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float[1] big = {50000.0}, float[1] small = {0.00001}> {
        [a] one = Add (images, big) [b] sum = Add (one, big) [c] scaled = Mul (sum, small)
        [d] logits = Mul (scaled, scaled) }"""
    )
    save_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((2, 4), dtype=np.float32)
    ranges = collect_ranges(tmp_path / "m.onnx", [x], threads=1)
    audited = to_fp16(model, ranges)
    assert {"a", "b", "c"} <= {kept.node for kept in audited.kept_fp32}
    assert "d" not in {kept.node for kept in audited.kept_fp32}
    np.testing.assert_allclose(run(audited.model, x), run(model, x), rtol=1e-2)

    # ONNX Runtime's CPU kernels compute FP16 in FP32; onnx's reference evaluator rounds every
    # tensor as an engine does.
    def in_half(graph):
        return ReferenceEvaluator(graph).run(None, {"images": x})[0]

    assert np.isfinite(in_half(audited.model)).all()
    assert not np.isfinite(in_half(to_fp16(model, None).model)).all()


def test_several_nodes_that_stay_fp32_share_their_inputs(tmp_path):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float[1] big = {50000.0}, float[1] small = {0.00001}> {
        [half] x = Neg (images) [a] one = Add (x, big) [b] two = Sub (x, big)
        [c] three = Mul (one, small) [d] four = Mul (one, two) [e] five = Mul (four, small)
        [f] six = Mul (five, small)
        [g] sum = Add (three, six) [h] logits = Add (sum, x) }"""
    )
    save_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((2, 4), dtype=np.float32)
    audited = to_fp16(model, collect_ranges(tmp_path / "m.onnx", [x], threads=1))
    assert {"a", "b", "c", "d"} <= {kept.node for kept in audited.kept_fp32}
    onnx.checker.check_model(audited.model, full_check=True)
    np.testing.assert_allclose(run(audited.model, x), run(model, x), rtol=1e-2)


def test_a_cast_of_something_else_than_fp32_stays_before_what_fp16_cannot_do():
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float[1] zero = {0.0}, int64 axis = {1}> {
        [positive] mask = Greater (images, zero) [cast] ones = Cast <to = 1> (mask)
        [sum] places = CumSum (ones, axis) [mul] logits = Mul (places, images) }"""
    )
    x = np.random.default_rng(1).standard_normal((2, 4), dtype=np.float32)
    half = to_fp16(model, None).model
    onnx.checker.check_model(half, full_check=True)
    np.testing.assert_allclose(run(half, x), run(model, x), rtol=1e-2)


def planted_linear(value, tmp_path):
    """A quantized Linear whose input reaches `value`, its ranges and an input."""
    weight = ", ".join(str(w) for w in np.linspace(-1, 1, 16).round(3))
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 19]> g (float[N, 4] images) => (float[N, 4] logits)
        <float[1] big = {{{value}}}, float[1] small = {{{1 / value}}},
         float[4, 4] weight = {{{weight}}}> {{
        [scale] large = Mul (images, big) [linear] sum = MatMul (large, weight)
        [down] logits = Mul (sum, small) }}"""
    )
    model.graph.node[1].name = "blocks.0.mlp.fc1/MatMul"
    save_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(1).uniform(-1, 1, (8, 4)).astype(np.float32)
    return model, collect_ranges(tmp_path / "m.onnx", [x], threads=1), x


def test_a_planted_large_input_of_a_quantized_linear_stays_fp32_with_its_qdq(tmp_path):
    model, ranges, x = planted_linear(100_000.0, tmp_path)
    audited = to_fp16(quantize_int8(model, ranges, PRODUCT_ROLES), ranges)
    kinds = {
        node.op_type
        for node in audited.model.graph.node
        if node.name in {k.node for k in audited.kept_fp32}
    }
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= kinds
    expected = run(model, x)
    half = ReferenceEvaluator(audited.model).run(None, {"images": x})[0]
    assert np.isfinite(half).all()
    assert np.abs(half - expected).max() <= 0.03 * np.abs(expected).max()
    without = to_fp16(quantize_int8(model, ranges, PRODUCT_ROLES), None)
    assert not np.isfinite(ReferenceEvaluator(without.model).run(None, {"images": x})[0]).all()


def test_scales_too_small_for_fp16_stay_fp32(tmp_path):
    model, ranges, _ = planted_linear(0.00001, tmp_path)
    audited = to_fp16(quantize_int8(model, ranges, PRODUCT_ROLES), ranges)
    assert any("too small for FP16" in kept.reason for kept in audited.kept_fp32)
    # Engines refuse a product whose operands are dequantized to different types.
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= {
        node.op_type
        for node in audited.model.graph.node
        if node.name in {k.node for k in audited.kept_fp32}
    }
    dequantized = [n.output[0] for n in audited.model.graph.node if n.op_type == "DequantizeLinear"]
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(audited.model).graph.value_info
    }
    assert len({types[name] for name in dequantized}) == 1
    scales = [t for t in audited.model.graph.initializer if t.name.endswith("_scale")]
    assert all((numpy_helper.to_array(t) > 0).all() for t in scales)


def test_quantized_nodes_are_signed_symmetric_and_per_channel(fp32, ranges):
    quantized = quantize_int8(fp32, ranges, PRODUCT_ROLES)
    chosen = set(select_nodes(fp32, PRODUCT_ROLES))
    producers = {out: node for node in quantized.graph.node for out in node.output}
    weights = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    assert len(chosen) > 20
    for node in quantized.graph.node:
        if node.name not in chosen:
            assert all(
                getattr(producers.get(i), "op_type", "") != "DequantizeLinear" for i in node.input
            ) or (node.op_type in {"QuantizeLinear", "DequantizeLinear"})
            continue
        activation, weight = (producers[name] for name in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert weights[weight.input[0]].dtype == np.int8
        assert weights[weight.input[1]].size > 1
        assert weights[activation.input[2]].dtype == np.int8
        assert weights[activation.input[2]] == 0
        if len(node.input) > 2:
            assert weights[node.input[2]].dtype == np.float32


def test_a_residual_sum_does_not_read_what_its_neighbour_quantizes():
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> {
        stream = Relu (images) [linear] branch = MatMul (stream, w)
        [sum] logits = Add (stream, branch) }"""
    )
    model.graph.node[1].name = "blocks.0.mlp.fc1/MatMul"
    quantized = quantize_int8(model, Ranges({"stream": (0.0, 1.0)}), ("fc1",))
    (residual,) = (node for node in quantized.graph.node if node.name == "sum")
    assert list(residual.input) == ["stream", "branch"]
    clipped, images = (
        run(quantized, np.full((1, 4), 10, np.float32), optimize=False),
        np.ones((1, 4), np.float32),
    )
    np.testing.assert_allclose(clipped - 10, run(quantized, images, optimize=False) - 1, rtol=1e-5)


def test_only_the_roles_asked_for_are_quantized(fp32, ranges):
    quantized = quantize_int8(fp32, ranges, ("fc1",))
    scales = [n for n in quantized.graph.node if n.op_type == "QuantizeLinear"]
    fc1 = [n for n in fp32.graph.node if n.op_type == "MatMul" and find_role(n, ()) == "fc1"]
    assert len(scales) == len(fc1) > 0
    with pytest.raises(BadInput, match="No node is left"):
        quantize_int8(fp32, ranges, ("carrier token",))


def test_int8_and_its_cpu_variant_stay_near_fp32(fp32, ranges, images):
    signed = quantize_int8(fp32, ranges, PRODUCT_ROLES)
    reference, engine = run(fp32, images), run(signed, images, optimize=False)
    variant = run(make_cpu_variant(signed, ranges), images, optimize=False)
    assert sqnr(reference, engine) > 20
    assert sqnr(reference, variant) > 20
    assert sqnr(engine, variant) > 25


def test_int8_with_fp16_needs_opset_19(fp32, ranges, images):
    with pytest.raises(ToolFailure, match="19"):
        to_fp16(quantize_int8(fp32, ranges, PRODUCT_ROLES), ranges)
    raised = convert_opset(fp32, 19)
    mixed = to_fp16(quantize_int8(raised, ranges, PRODUCT_ROLES), ranges).model
    onnx.checker.check_model(mixed, full_check=True)
    scales = {n.input[1] for n in mixed.graph.node if n.op_type == "QuantizeLinear"}
    types = {t.data_type for t in mixed.graph.initializer if t.name in scales}
    assert types == {onnx.TensorProto.FLOAT16}


def test_ranges_need_little_more_memory_than_an_inference(tmp_path):
    # A chain of 60 layers of 4 MB each: kept until the end they would be 240 MB.
    layers = "\n".join(
        f"x{i + 1} = Exp(x{i})" if i % 2 else f"x{i + 1} = Neg(x{i})" for i in range(60)
    )
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        "chain (float[N, 3, 32, 32] x0) => (float[N, 3, 32, 32] x60) {\n" + layers + "\n}"
    )
    save_onnx(parser.parse_model(text), tmp_path / "chain.onnx")
    code = (
        "import resource, sys, numpy as np; from pathlib import Path;"
        "from hvt_deploy.graph.quantization.ranges import collect_ranges;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "images = np.zeros((340, 3, 32, 32), np.float32);"
        "collect_ranges(Path(sys.argv[1]), [images], 1);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "chain.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) / 1024 < 120, "MB"
