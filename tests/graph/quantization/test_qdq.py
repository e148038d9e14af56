"""The Q/DQ writer against ONNX Runtime's quantizer, the oracle for the default placement."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.qdq import (
    FP8,
    INT8,
    Placement,
    insert_qdq,
    quantize_int8,
    select_nodes,
)
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import PRODUCT_OPS, map_producers


def quantize_by_ort(model: onnx.ModelProto, ranges: Ranges, nodes: list[str]) -> onnx.ModelProto:
    extremes: dict[str, Any] = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.tensors.items()
    }
    quantizer = QDQQuantizer(
        copy_model(model),
        True,
        False,
        QuantType.QInt8,
        QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, extremes),
        nodes,
        [],
        list(PRODUCT_OPS),
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": False,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(PRODUCT_OPS),
        },
    )
    quantizer.quantize_model()
    return quantizer.model.model


def read_parameters(model: onnx.ModelProto, nodes: list[str]) -> dict[str, tuple[Any, ...]]:
    """Of each product: source, scale and zero point of its activation; integers, scales, zero
    points and axis of its weight.
    """
    producers = map_producers(model.graph)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found: dict[str, tuple[Any, ...]] = {}
    for node in (node for node in model.graph.node if node.name in nodes):
        dequantize, weight = producers[node.input[0]], producers[node.input[1]]
        quantize = producers[dequantize.input[0]]
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        axes = [a.i for a in weight.attribute if a.name == "axis"]
        found[node.name] = (
            quantize.input[0],
            *(constants[name] for name in quantize.input[1:]),
            *(constants[name] for name in weight.input),
            axes,
        )
    return found


def assert_equal_to_ort(model: onnx.ModelProto, ranges: Ranges, roles: tuple[str, ...]) -> None:
    nodes = select_nodes(model, roles)
    assert_same_parameters(quantize_int8(model, ranges, roles), model, ranges, nodes)


def assert_same_parameters(
    made: onnx.ModelProto, model: onnx.ModelProto, ranges: Ranges, nodes: list[str]
) -> None:
    ours = read_parameters(made, nodes)
    oracle = read_parameters(quantize_by_ort(model, ranges, nodes), nodes)
    assert list(ours) == list(oracle)
    assert len(ours) == len(nodes) > 0
    for name in ours:
        for value, expected in zip(ours[name], oracle[name], strict=True):
            assert np.asarray(value).dtype == np.asarray(expected).dtype
            np.testing.assert_array_equal(value, expected, err_msg=name)


def test_the_default_placement_is_that_of_the_oracle(fp32, ranges):
    assert_equal_to_ort(fp32, ranges, PRODUCT_ROLES)


def test_convolutions_shared_weights_and_channels_of_zeros_are_those_of_the_oracle():
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 2, 3, 3] images) => (float[N, 2, 3, 3] sum) {
        x = Conv <kernel_shape = [1, 1]> (images, w, b)
        y = Conv <kernel_shape = [1, 1]> (x, w, b)
        z = Conv <kernel_shape = [1, 1]> (x, v, b)
        sum = Add (y, z) }"""
    )
    weights = {
        "w": [[3.0, -1.27], [0.0, 0.0]],  # a channel of zeros
        "v": [[1e-20, 0.005], [2.5, 1.5]],
        "b": [1.0, 2.0],
    }
    for name, values in weights.items():
        array = np.array(values, np.float32)
        shaped = array.reshape(2, 2, 1, 1) if array.ndim == 2 else array
        model.graph.initializer.append(numpy_helper.from_array(shaped, name))
    for node in model.graph.node[:3]:
        node.name = f"{node.output[0]}/Conv"
    ranges = Ranges({"images": (-0.3, 7.1), "x": (0.0, 0.0)})  # a tensor that is always 0
    assert_equal_to_ort(model, ranges, ("conv",))


@pytest.mark.parametrize("ranges", [{}, {"images": (-1.0, math.inf)}])
def test_a_tensor_without_a_finite_range_is_named(ranges):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 2] images) => (float[N, 2] logits)
        <float[2, 2] w = {1, 2, 3, 4}> { logits = MatMul (images, w) }"""
    )
    model.graph.node[0].name = "blocks.0.mlp.fc1/MatMul"
    with pytest.raises(ToolFailure, match="images"):
        quantize_int8(model, Ranges(ranges), ("fc1",))


ATTENTION = """<ir_version: 9, opset_import: ["" : 19]>
    g (float[N, 4, 8] images) => (float[N, 4, 8] logits) {
    [turn] k = Transpose <perm = [0, 2, 1]> (images)
    [score] scores = MatMul (images, k) [softmax] p = Softmax (scores)
    [value] mixed = MatMul (p, images) [act] positive = Relu (mixed)
    [proj] sum = MatMul (mixed, w) [last] logits = Add (sum, positive) }"""


@pytest.fixture
def attention():
    """An attention block, its ranges on eight inputs, and these."""
    model, rng = parser.parse_model(ATTENTION), np.random.default_rng(0)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    images = rng.standard_normal((8, 4, 8)).astype(np.float32)
    largest = float(np.abs(images).max())
    limits = {"images": largest, "k": largest, "p": 1.0, "mixed": largest}
    return model, Ranges({name: (-limit, limit) for name, limit in limits.items()}), images


def test_products_of_two_activations_are_those_of_the_oracle(attention):
    model, ranges, _ = attention
    nodes = ["score", "value", "proj"]
    made = insert_qdq(model, ranges, Placement(nodes), INT8)
    producers = map_producers(made.graph)
    for node in made.graph.node:
        sources = {producers[name].op_type for name in node.input if name in producers}
        assert node.name not in nodes or sources == {"DequantizeLinear"}
    oracle = quantize_by_ort(model, ranges, nodes)
    assert scales_of(made) == scales_of(oracle)
    assert scales_of(made)["p"] == pytest.approx(1 / 127)


def scales_of(model: onnx.ModelProto) -> dict[str, float]:
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        node.input[0]: float(constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_a_result_with_qdq_is_quantized_once_for_all_its_readers_with_the_scale_given(attention):
    model, ranges, _ = attention
    placement = Placement(["proj"], outputs=["value"], scales={"mixed": 0.25})
    made = insert_qdq(model, ranges, placement, INT8)
    onnx.checker.check_model(made, full_check=True)
    assert scales_of(made) == {"mixed": 0.25}
    readers = [node.input[0] for node in made.graph.node if node.name in ("act", "proj")]
    assert readers == ["mixed_DequantizeLinear_Output"] * 2


def test_a_result_that_the_graph_returns_is_returned_as_it_was(attention):
    model, ranges, _ = attention
    made = insert_qdq(
        model, ranges, Placement(["proj"], outputs=["last"], scales={"logits": 1}), INT8
    )
    assert [value.name for value in made.graph.output] == ["logits"]
    assert scales_of(made).keys() == {"mixed"}


def test_fp8_rounds_to_the_nearest_of_its_numbers_per_channel(attention):
    """ONNX's own reference implementation is the oracle: it knows every number of E4M3."""
    model, ranges, images = attention
    made = insert_qdq(model, ranges, Placement(["score", "proj"]), FP8)
    onnx.checker.check_model(made, full_check=True)
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert weights["w_quantized"].dtype == FP8.element
    largest = np.abs(weights["w_quantized"].astype(np.float32)).max(axis=0)
    np.testing.assert_array_equal(largest, 448)
    original = numpy_helper.to_array(model.graph.initializer[0])
    restored = weights["w_quantized"].astype(np.float32) * weights["w_scale"]
    # Three bits of mantissa: at most a sixteenth, but for numbers below the smallest normal one.
    assert (np.abs(restored - original) <= np.abs(original) / 16 + weights["w_scale"] / 2**9).all()
    expected = ReferenceEvaluator(model).run(None, {"images": images})[0]
    noise = ReferenceEvaluator(made).run(None, {"images": images})[0] - expected
    assert 0 < np.square(noise).mean() < 0.01 * np.square(expected).mean()


def test_fp8_needs_an_opset_that_knows_it(attention):
    model, ranges, _ = attention
    model.opset_import[0].version = 18
    with pytest.raises(BadInput, match="FP8 Q/DQ requires opset 19"):
        insert_qdq(model, ranges, Placement(["proj"]), FP8)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement([]), "No node is left"),
        (Placement(["blocks.0.attn.proj"]), "names blocks.0.attn.proj"),
        (Placement(["act"]), "names act"),
        (Placement(["proj"], outputs=["values"]), "names values"),
        (Placement(["proj"], scales={"mixed": 0.0}), "scale of tensor mixed is 0"),
        (Placement(["proj"], scales={"mixed": math.nan}), "scale of tensor mixed is nan"),
    ],
)
def test_a_placement_that_fits_nothing_is_refused_with_the_name(attention, placement, message):
    model, ranges, _ = attention
    with pytest.raises(BadInput, match=message):
        insert_qdq(model, ranges, placement, INT8)


@pytest.mark.parametrize(
    ("roles", "excluded", "message", "known"),
    [
        (("qvk", "proj"), (), "no role 'qvk'", "qkv"),
        (("proj",), ("9/qkv",), "no group '9/qkv'", "0/qkv"),
    ],
)
def test_a_role_or_group_that_does_not_exist_is_refused_with_those_that_do(
    fp32, roles, excluded, message, known
):
    with pytest.raises(BadInput, match=message) as caught:
        select_nodes(fp32, roles, excluded)
    assert known in caught.value.hint
