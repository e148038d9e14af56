"""INT8 by Q/DQ: ONNX Runtime's quantizer inserts them, which tensors get them is decided here, by role.

`quantize_int8` makes what TensorRT wants: signed and symmetric, weights per channel, float bias, no Q/DQ on outputs.
`quantize_cpu_twin` makes the same numbers in the form ONNX Runtime's CPU kernels are fast on: unsigned with zero point
128, int32 bias, outputs of convolutions quantized.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hvt_deploy.environment import require
from hvt_deploy.errors import BadInput, ToolFailure
from hvt_deploy.graph.calibrate import Ranges
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.order import sort_nodes
from hvt_deploy.graph.roles import group_of, role_of

QUANTIZED_OPS = ("Conv", "MatMul", "Gemm")
_LEVELS = 127


def nodes_to_quantize(model: onnx.ModelProto, roles: Collection[str], excluded: Collection[str] = ()) -> list[str]:
    """Conv, MatMul and Gemm nodes with a constant weight whose role is among `roles`, but not their group
    (`stage/role`) among `excluded`.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in QUANTIZED_OPS and node.input[1] in weights
        and role_of(node, weights) in roles and group_of(node, weights) not in excluded
    ]  # fmt: skip


def quantize_int8(
    model: onnx.ModelProto, ranges: Ranges, roles: Collection[str], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with Q/DQ for TensorRT, FP32 in the rest.

    Raises BadInput if no node has one of the roles, ToolFailure for a tensor that was not calibrated.
    """
    return _quantize(model, ranges, nodes_to_quantize(model, roles, excluded), signed=True)


def quantize_cpu_twin(
    model: onnx.ModelProto, ranges: Ranges, roles: Collection[str], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph of the same recipe and ranges for ONNX Runtime's CPU kernels. Raises as `quantize_int8` does."""
    return _quantize(model, ranges, nodes_to_quantize(model, roles, excluded), signed=False)


def _quantize(model: onnx.ModelProto, ranges: Ranges, nodes: list[str], *, signed: bool) -> onnx.ModelProto:
    require("onnxruntime", extra="cpu")
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if not nodes:
        raise BadInput("No node is left to quantize.", "Correct quantization.int8_roles or excluded in the recipe.")
    extremes: dict[str, TensorData | tuple[Any, ...]] = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.tensors.items()
    }
    options: dict[str, Any] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": False,
        "QuantizeBias": not signed,
        # On CPUs a convolution with quantized output has a kernel of its own. The same on Linears is slower and less
        # accurate: fdvit_b 2.03 times FP32 against 2.18, faster_vit_0_224 1.55 against 1.66.
        "OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPS) if signed else ["MatMul", "Gemm"],
    }
    if not signed:
        options["TensorQuantOverrides"] = _unsigned_overrides(model, nodes, ranges, QuantType.QUInt8)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy, True, False, QuantType.QInt8, QuantType.QInt8 if signed else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, extremes), nodes, [], list(QUANTIZED_OPS), options,
    )  # fmt: skip
    try:
        quantizer.quantize_model()
    except (ValueError, KeyError) as error:
        raise ToolFailure(f"ONNX Runtime's quantizer failed: {error}", "Calibrate again with --calib DIR.") from error
    quantized = quantizer.model.model
    sort_nodes(quantized.graph)
    opset = read_opset(model)
    del quantized.opset_import[:]
    quantized.opset_import.append(helper.make_opsetid("", opset))
    return quantized


def _unsigned_overrides(
    model: onnx.ModelProto, nodes: Collection[str], ranges: Ranges, quant_type: object
) -> dict[str, list[dict[str, Any]]]:
    """Scale and zero point that make an unsigned activation the same numbers as the signed one."""
    chosen = set(nodes)
    tensors = {t for node in model.graph.node if node.name in chosen for t in (node.input[0], *node.output)}
    return {
        name: [{
            "quant_type": quant_type,
            "scale": np.array(max(ranges.largest(name), 1e-10) / _LEVELS, np.float32),
            "zero_point": np.array(128, np.uint8),
        }]
        for name in tensors
    }  # fmt: skip
