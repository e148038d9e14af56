"""INT8 by Q/DQ, placed by role.

`quantize_int8` makes the form for TensorRT: signed, symmetric, weights per channel, float biases,
no Q/DQ on outputs. `cpu_int8.py` makes the variant for ONNX Runtime's CPU kernels.

The scales are those of ONNX Runtime's quantizer (`quantize_static`: QDQ, QInt8, symmetric, per
channel), which is the oracle of the tests: the largest magnitude is level 127.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.analysis.roles import find_group, find_role
from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import PRODUCT_OPS, find_output_channel_axis

QUANTIZED_SUFFIX, SCALE_SUFFIX = "_quantized", "_scale"
_INT8_MAX = 127


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
        if node.op_type in PRODUCT_OPS
        and node.input[1] in weights
        and find_role(node, weights) in roles
        and find_group(node, weights) not in excluded
    ]


def quantize_int8(
    model: onnx.ModelProto, ranges: Ranges, roles: Collection[str], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with Q/DQ for TensorRT at the nodes of `select_nodes`, FP32 in the rest.

    Only these nodes read the quantized values: a residual sum that reads the same tensor is neither
    rounded nor clipped. Raises BadInput if no node is selected, ToolFailure for a tensor that was
    not calibrated or whose range is not finite.
    """
    chosen = set(select_nodes(model, roles, excluded))
    if not chosen:
        raise BadInput(
            "No node is left to quantize.",
            "Correct quantization.int8_roles or excluded in the recipe.",
        )
    edit, dequantized = GraphEdit(model), dict[str, str]()
    for node in [node for node in edit.nodes(*PRODUCT_OPS) if node.name in chosen]:
        activation, weight = node.input[0], node.input[1]
        if activation not in dequantized:
            dequantized[activation] = _add_activation(edit, activation, ranges)
        if weight not in dequantized:
            axis = find_output_channel_axis(node)
            dequantized[weight] = _add_weight(edit, weight, axis)
        node.input[0], node.input[1] = dequantized[activation], dequantized[weight]
    return edit.done()


def quantize_weight(
    weight: NDArray[Any], scales: NDArray[np.float32], axis: int
) -> NDArray[np.int8]:
    """Symmetric INT8 per channel, rounded half to even, as ONNX's QuantizeLinear does.

    `weight` of any shape, `scales` (C,) for its channels along `axis`.
    """
    others = [i for i in range(weight.ndim) if i != axis]
    levels = np.rint(weight / np.expand_dims(np.atleast_1d(scales), others))
    return np.minimum(np.maximum(levels, -_INT8_MAX), _INT8_MAX).astype(np.int8)


def _add_activation(edit: GraphEdit, name: str, ranges: Ranges) -> str:
    """Q/DQ of an activation with one scale; returns the dequantized tensor."""
    if name not in ranges.tensors:
        raise ToolFailure(
            f"Tensor {name} has no calibrated range.", "Calibrate again with --calib DIR."
        )
    scale = edit.add_constant(
        f"{name}{SCALE_SUFFIX}", _find_scales(np.array(ranges.largest(name), np.float32), name)
    )
    zero_point = edit.add_constant(f"{name}_zero_point", np.array(0, np.int8))
    quantized = edit.add_node(
        "QuantizeLinear", [name, scale, zero_point], f"{name}_QuantizeLinear_Output"
    )
    return edit.add_node(
        "DequantizeLinear", [quantized, scale, zero_point], f"{name}_DequantizeLinear_Output"
    )


def _add_weight(edit: GraphEdit, name: str, axis: int) -> str:
    """The INT8 weight and its DQ with a scale for each output channel."""
    weight = edit.constant(name)
    if weight is None:
        raise ToolFailure(
            f"Weight {name} is in an external file.", "Report this with the model's name."
        )
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = _find_scales(np.abs(weight).max(axis=others), name)
    quantized = edit.add_constant(
        f"{name}{QUANTIZED_SUFFIX}", quantize_weight(weight, scales, axis)
    )
    scale = edit.add_constant(f"{name}{SCALE_SUFFIX}", scales)
    zero_point = edit.add_constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8))
    return edit.add_node(
        "DequantizeLinear", [quantized, scale, zero_point], f"{name}_DequantizeLinear_Output", axis
    )


def _find_scales(largest: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Largest magnitude / 127; 1 where it is 0 (a channel of zeros), as ONNX Runtime has it."""
    if not np.isfinite(largest).all():
        raise ToolFailure(
            f"The range of tensor {name} is not finite.", "Check the weights and calibrate again."
        )
    scales = (largest.astype(np.float64) / _INT8_MAX).astype(np.float32)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
