"""INT8 by Q/DQ: placed here by role, written by ONNX Runtime's quantizer.

`quantize_int8` makes the form for TensorRT: signed, symmetric, weights per channel, float biases,
no Q/DQ on outputs. `cpu_int8.py` makes the variant for ONNX Runtime's CPU kernels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.analysis.roles import find_group, find_role
from hvt_deploy.graph.edit import GraphEdit, copy_model, replace_input
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.topological_order import sort_nodes

QUANTIZED_OPS = ("Conv", "MatMul", "Gemm")


def select_nodes(
    model: onnx.ModelProto, roles: Collection[str], excluded: Collection[str] = ()
) -> list[str]:
    """The names of the Conv, MatMul and Gemm nodes that get Q/DQ.

    These have a constant weight and one of the `roles`; their group (`stage/role`) is not
    `excluded`.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in QUANTIZED_OPS
        and node.input[1] in weights
        and find_role(node, weights) in roles
        and find_group(node, weights) not in excluded
    ]


def quantize_int8(
    model: onnx.ModelProto, ranges: Ranges, roles: Collection[str], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with Q/DQ for TensorRT at the nodes of `select_nodes`, FP32 in the rest.

    Raises BadInput if no node is selected, ToolFailure for a tensor that was not calibrated.
    """
    require("onnxruntime", extra="cpu")
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    nodes = select_nodes(model, roles, excluded)
    if not nodes:
        raise BadInput(
            "No node is left to quantize.",
            "Correct quantization.int8_roles or excluded in the recipe.",
        )
    extremes: dict[str, TensorData | tuple[Any, ...]] = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.tensors.items()
    }
    options: dict[str, Any] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": False,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPS),
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
        list(QUANTIZED_OPS),
        options,
    )
    try:
        quantizer.quantize_model()
    except (ValueError, KeyError) as error:
        raise ToolFailure(
            f"ONNX Runtime's quantizer failed: {error}", "Calibrate again with --calib DIR."
        ) from error
    quantized = quantizer.model.model
    sort_nodes(quantized.graph)
    opset = read_opset(model)
    del quantized.opset_import[:]
    quantized.opset_import.append(helper.make_opsetid("", opset))
    return _leave_others_float(quantized, nodes)


def _leave_others_float(model: onnx.ModelProto, chosen: Collection[str]) -> onnx.ModelProto:
    """Let only the `chosen` nodes read quantized values.

    The quantizer gives these to every reader of a tensor: a residual sum that reads the input of a
    quantized convolution would be rounded and clipped as well.
    """
    edit = GraphEdit(model)
    for quantize in edit.nodes("QuantizeLinear"):
        for dequantize in edit.readers(quantize.output[0]):
            for reader in edit.readers(dequantize.output[0]):
                if reader.name not in chosen:
                    replace_input(reader, dequantize.output[0], quantize.input[0])
    return edit.done()
