"""The CPU variant's passes on small models of two families and on planted graphs, through real ONNX
Runtime.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import running
from onnx import numpy_helper, parser
from running import sqnr

from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.quantization.cpu_int8 import (
    find_quantized,
    gather_gelu,
    make_cpu_variant,
    quantize_biases,
    quantize_outputs,
    to_unsigned,
)
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.registry import get_spec


def run(model, images):
    """Logits as the graph says, without ONNX Runtime's optimizer."""
    return running.run(model, images, optimize=False)


def kernels(model, tmp_path):
    """How many of each operator ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = (
        str(tmp_path / "optimized.onnx"),
        3,
    )
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def values(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized(model, op_type):
    """The nodes of this operator with a dequantized weight."""
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    return [
        node
        for node in model.graph.node
        if node.op_type == op_type and node.input[1] in dequantized
    ]


@pytest.fixture(scope="module", params=["fdvit_demo", "faster_vit_demo"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def images(name):
    return np.random.default_rng(0).standard_normal(
        (8, 3, *get_spec(name).image_size), dtype=np.float32
    )


@pytest.fixture(scope="module")
def calibrated(name, images, exported_graph):
    """The FP32 graph of a small model, its INT8 graph for engines and the ranges of both."""
    path = exported_graph(name)
    fp32, ranges = load_onnx(path), collect_ranges(path, [images], threads=1)
    return fp32, quantize_int8(fp32, ranges, PRODUCT_ROLES), ranges


def test_unsigned_activations_are_exactly_the_same_numbers(calibrated, images):
    _, signed, _ = calibrated
    unsigned = to_unsigned(signed)
    onnx.checker.check_model(unsigned, full_check=True)
    found = values(unsigned)
    points = [found[n.input[2]] for n in unsigned.graph.node if n.op_type == "QuantizeLinear"]
    assert len(points) > 10
    assert all(point.dtype == np.uint8 and point == 128 for point in points)
    # Saturated on both sides too: these images are far outside the calibrated ranges.
    for some in (images, 5 * images):
        np.testing.assert_array_equal(run(unsigned, some), run(signed, some))


def test_an_int32_bias_moves_by_half_a_unit_of_the_sum_at_most(calibrated, images):
    _, signed, _ = calibrated
    variant = quantize_biases(to_unsigned(signed))
    onnx.checker.check_model(variant, full_check=True)
    before, after = values(signed), values(variant)
    floats = {node.name: node.input[2] for node in signed.graph.node if len(node.input) == 3}
    producers = {node.output[0]: node for node in variant.graph.node}
    nodes = [
        node
        for node in (*quantized(variant, "Conv"), *quantized(variant, "Gemm"))
        if len(node.input) == 3
    ]
    assert nodes
    for node in nodes:
        levels, scale = (after[name] for name in producers[node.input[2]].input[:2])
        activation, weight = (after[producers[name].input[1]] for name in node.input[:2])
        np.testing.assert_allclose(scale, activation * weight, rtol=1e-6)
        assert levels.dtype == np.int32
        moved = np.abs(levels * scale.astype(np.float64) - before[floats[node.name]])
        assert (moved <= 0.5 * scale * (1 + 1e-6)).all()


def planted_conv(tmp_path, after="logits = Mul (sum, two)"):
    """A convolution of 4 channels, its ranges on two images and these images."""
    rng = np.random.default_rng(3)
    weight, second = (", ".join(str(w) for w in rng.uniform(-1, 1, 4 * n).round(3)) for n in (3, 4))
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g
        (float[N, 3, 8, 8] images) => (float[N, 4, 8, 8] logits)
        <float[4, 3, 1, 1] w = {{{weight}}}, float[4, 4, 1, 1] v = {{{second}}},
         float[4] b = {{1, 0.5, -0.5, 0}}, float two = {{2}}, float none = {{0}},
         float some = {{0.6}}> {{
        sum = Conv (images, w, b) {after} }}"""
    )
    for i, node in enumerate(model.graph.node):
        node.name = f"blocks.0.conv{i}/{node.op_type}"
    path = tmp_path / "m.onnx"
    save_onnx(model, path)
    x = rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    return model, collect_ranges(path, [x], threads=1), x


def test_a_bias_that_int32_cannot_hold_stays_float(tmp_path):
    model, ranges, x = planted_conv(tmp_path)
    signed = quantize_int8(model, ranges, ("conv",))
    bias = next(tensor for tensor in signed.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.array([1e9, 0, 0, 0], np.float32), "b"))
    np.testing.assert_array_equal(run(quantize_biases(signed), x), run(signed, x))


def test_every_quantized_layer_gets_an_integer_kernel(calibrated, tmp_path):
    _, signed, ranges = calibrated
    made = kernels(make_cpu_variant(signed, ranges), tmp_path)
    all_convs = sum(node.op_type == "Conv" for node in signed.graph.node)
    convs, linears = len(quantized(signed, "Conv")), len(quantized(signed, "MatMul"))
    assert made["QLinearConv"] == convs > 0
    assert made["Conv"] + made["FusedConv"] == all_convs - convs
    assert made["MatMulIntegerToFloat"] == linears > 0
    assert made["QGemm"] == len(quantized(signed, "Gemm")) == 1


def test_outputs_add_at_most_twice_the_noise_of_int8_and_those_of_linears_stay_float(
    calibrated, images
):
    fp32, signed, ranges = calibrated
    before = quantize_biases(to_unsigned(signed))
    after = quantize_outputs(before, ranges)
    onnx.checker.check_model(after, full_check=True)
    int8 = run(before, images)
    twice_db = 10 * np.log10(2)
    assert sqnr(int8, run(after, images)) > sqnr(run(fp32, images), int8) - twice_db
    makers = {node.output[0]: node for node in after.graph.node}
    sources = {
        makers[n.input[0]].op_type
        for n in after.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] in makers
    }
    assert "Conv" in sources
    assert not {"MatMul", "Gemm"} & sources


def test_a_relu_between_convolutions_is_the_kernels_saturation(tmp_path):
    model, ranges, x = planted_conv(
        tmp_path, after="zero = Relu (sum) c = Conv (zero, v) logits = Mul (c, two)"
    )
    signed = quantize_int8(model, ranges, ("conv",))
    variant = make_cpu_variant(signed, ranges)
    made = kernels(variant, tmp_path)
    assert (made["Relu"], made["QLinearConv"]) == (0, 2)
    assert sqnr(run(model, x), run(variant, x)) > sqnr(run(model, x), run(signed, x)) - 3


ACTIVATIONS = {"relu": "Relu (sum)", "relu6": "Clip (sum, none, some)"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_variant_clips_exactly_where_the_engine_does(activation, tmp_path):
    after = f"a = {ACTIVATIONS[activation]} c = Conv (a, v) logits = Mul (c, two)"
    model, ranges, x = planted_conv(tmp_path, after)
    ranges = Ranges({**ranges.tensors, "c": (-4.0, 4.0)})  # its own output is not to be clipped
    signed = quantize_int8(model, ranges, ("conv",))
    variant = make_cpu_variant(signed, ranges)
    # Far outside of the calibrated range, where everything is clipped or nothing is positive.
    assert sqnr(run(signed, 20 * x), run(variant, 20 * x)) > 30
    made = kernels(variant, tmp_path)
    assert (made["Relu"], made["Clip"], made["QLinearConv"]) == (0, 0, 2)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), "HardSwish (sum)"])
def test_levels_lie_where_the_activation_lets_values_through(activation, tmp_path):
    """Values that a residual sum reads too; 50 times as large before the activation, downwards."""
    after = f"a = {activation} c = Conv (a, v) logits = Add (a, c)"
    model, ranges, x = planted_conv(tmp_path, after)
    low, high = ranges.tensors["sum"]
    wide = Ranges({**ranges.tensors, "sum": (50 * low, high)})
    signed = quantize_int8(model, ranges, ("conv",))
    variant = make_cpu_variant(signed, wide)
    assert kernels(variant, tmp_path)["QLinearConv"] == 2
    assert sqnr(run(model, x), run(variant, x)) > sqnr(run(model, x), run(signed, x)) - 6


def test_a_clip_below_what_its_reader_reaches_stays_a_clip(tmp_path):
    after = "a = Clip (sum, none, some) c = Conv (a, v) logits = Mul (c, two)"
    model, ranges, x = planted_conv(tmp_path, after)
    other = Ranges({**ranges.tensors, "a": (0.0, 4.0), "c": (-4.0, 4.0)})
    signed = quantize_int8(model, other, ("conv",))
    variant = make_cpu_variant(signed, other)
    assert sqnr(run(signed, 20 * x), run(variant, 20 * x)) > 30


def test_nodes_that_are_left_out_compute_as_in_the_engine(calibrated, images):
    fp32, signed, ranges = calibrated
    names = [node.name for node in find_quantized(signed, "Conv", "Gemm")]
    variant = make_cpu_variant(signed, ranges, names)
    biases = {node.input[2] for node in quantized(variant, "Conv") if len(node.input) == 3}
    assert biases <= values(variant).keys()
    expected = run(fp32, images)
    assert sqnr(expected, run(variant, images)) > sqnr(expected, run(signed, images)) - 1


def test_gelus_are_one_kernel_each(calibrated, tmp_path):
    _, signed, ranges = calibrated
    gelus = sum(node.op_type == "Erf" for node in signed.graph.node)
    made = kernels(make_cpu_variant(signed, ranges), tmp_path)
    assert made["Erf"] == 0
    assert made["Gelu"] + made["BiasGelu"] == gelus > 0


def five_nodes(product, half=0.5):
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] images) => (float[N, 4] logits)
        <float root = {{1.4142135}}, float one = {{1}}, float half = {{{half}}}> {{
        a = Div (images, root) b = Erf (a) c = Add (b, one) {product} }}"""
    )


@pytest.mark.parametrize(
    "product",
    ["d = Mul (half, c) logits = Mul (images, d)", "d = Mul (images, c) logits = Mul (d, half)"],
)
def test_gelu_is_gathered_from_either_order(product):
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    gathered = gather_gelu(five_nodes(product))
    onnx.checker.check_model(gathered, full_check=True)
    assert [node.op_type for node in gathered.graph.node] == ["Gelu"]
    np.testing.assert_allclose(run(gathered, x), run(five_nodes(product), x), atol=1e-6)


@pytest.mark.parametrize(
    "product",
    [
        "d = Mul (half, c) logits = Mul (c, d)",
        "d = Mul (images, c) logits = Add (d, half)",
        "logits = Mul (images, c)",
    ],
)
def test_what_is_no_gelu_is_left_alone(product):
    assert gather_gelu(five_nodes(product)) == five_nodes(product)
    quarter = five_nodes("d = Mul (half, c) logits = Mul (images, d)", half=0.25)
    assert gather_gelu(quarter) == quarter


def test_passes_leave_their_argument_as_it_was(calibrated):
    _, signed, ranges = calibrated
    before = signed.SerializeToString()
    make_cpu_variant(signed, ranges)
    assert signed.SerializeToString() == before


def test_a_convolution_without_a_range_stays_as_it_was(tmp_path):
    model, ranges, x = planted_conv(tmp_path)
    signed = quantize_int8(model, ranges, ("conv",))
    without = Ranges({name: ends for name, ends in ranges.tensors.items() if name != "sum"})
    np.testing.assert_array_equal(run(quantize_outputs(signed, without), x), run(signed, x))
