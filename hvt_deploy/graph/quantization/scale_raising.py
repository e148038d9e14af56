"""Weight scales that FP16 cannot hold, raised by a power of two.

A layer scale folded into a weight makes scales of 1e-6 and less, which FP16 rounds. W · 2^k with a
multiplication by 2^-k behind the product is the same product: its integers do not change, and
engines make the multiplication a part of it. Without it the product and its Q/DQ stay FP32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.fp16 import FP16_EXPONENTS, SAFE_LIMIT, is_lost
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import PRODUCT_OPS

# 2^-k has to be exact, and a raised scale should be.
_SMALLEST_EXPONENT = FP16_EXPONENTS[0]


def raise_scales(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """`model`, a graph with Q/DQ in FP32, in which FP16 holds the scales of the weights.

    In FP32 it computes the same. A product stays as it is where its result, its bias or its weight
    would come near the largest number of FP16.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for node in edit.nodes(*PRODUCT_OPS):
        dequantize = producers.get(node.input[1])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        levels, scales = (edit.constant(name) for name in dequantize.input[:2])
        bias = edit.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
        output = node.output[0]
        if (
            levels is None
            or scales is None
            or bias is None
            or not scales.ndim
            or output not in ranges.tensors
        ):
            continue
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 0)
        used = levels.any(axis=tuple(i for i in range(levels.ndim) if i != axis))
        limits = (ranges.largest(output), float(np.abs(bias).max()), 127 * _largest(scales[used]))
        factor = _find_factor(scales[used], max(limits))
        if factor == 1:
            continue
        raised = np.where(used, scales * factor, scales).astype(np.float32)
        weight = [dequantize.input[0], edit.add_constant(f"{output}_raised_scale", raised)]
        node.input[1] = edit.add_node(
            "DequantizeLinear", [*weight, dequantize.input[2]], f"{output}_raised_weight", axis
        )
        if len(node.input) > 2:
            node.input[2] = edit.add_constant(f"{output}_raised_bias", bias * np.float32(factor))
        node.output[0] = f"{output}_raised"
        back = edit.add_constant(f"{output}_raised_by", np.array(1 / factor, np.float32))
        # Its name is in the same module: `diagnose` looks for the module's result there.
        edit.add_node("Mul", [node.output[0], back], output, name=f"{node.name}_back")
    return edit.done()


def _largest(values: NDArray[Any]) -> float:
    return float(values.max(initial=0.0))


def _find_factor(scales: NDArray[np.float32], largest: float) -> float:
    """The power of two that brings `scales` into FP16's range and leaves `largest` in it; 1 if none
    is needed or does it.
    """
    if not is_lost(scales):
        return 1.0
    wanted = _SMALLEST_EXPONENT - math.floor(math.log2(float(scales.min())))
    room = math.floor(math.log2(SAFE_LIMIT / max(largest, 1e-30)))
    factor = 2.0 ** min(wanted, room, -_SMALLEST_EXPONENT)
    return 1.0 if is_lost(scales * np.float32(factor)) or factor < 1 else factor
