"""The Q/DQ writer against ONNX Runtime's quantizer, the oracle for the default placement."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.analysis.roles import DEFAULT_INT8_ROLES
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
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
    ours = read_parameters(quantize_int8(model, ranges, roles), nodes)
    oracle = read_parameters(quantize_by_ort(model, ranges, nodes), nodes)
    assert list(ours) == list(oracle)
    assert len(ours) == len(nodes) > 0
    for name in ours:
        for value, expected in zip(ours[name], oracle[name], strict=True):
            assert np.asarray(value).dtype == np.asarray(expected).dtype
            np.testing.assert_array_equal(value, expected, err_msg=name)


def test_the_default_placement_is_that_of_the_oracle(fp32, ranges):
    assert_equal_to_ort(fp32, ranges, DEFAULT_INT8_ROLES)


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
