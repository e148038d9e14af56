"""Linears whose result is written in INT8, so that the next kernel reads half the bytes.

An engine's INT8 product writes INT8 itself if its weight has one scale and a QuantizeLinear follows
it directly. A weight with a scale s_c for each output channel c becomes one with a scale g for all
and the same integers: x · W = (x · W g/s) · s/g. The product is quantized in between, where all
channels are in units of their weight's scale, and the multiplication by s/g becomes a part of the
kernel that adds the bias (`benchmarks/int8_placement.py` counts kernels and bytes).
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.fp16 import FP16_EXPONENTS
from hvt_deploy.graph.quantization.ranges import Ranges

_LEVELS_LOG2 = 7


def quantize_results(
    model: onnx.ModelProto, ranges: Ranges, names: Collection[str]
) -> onnx.ModelProto:
    """`model`, a graph by `insert_qdq`, whose MatMul nodes in `names` write INT8.

    Names of other nodes are left as they are. Raises ToolFailure for a result that was not
    calibrated by channel.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for node in [node for node in edit.nodes("MatMul") if node.name in names]:
        dequantize = producers.get(node.input[1])
        scales_C = edit.constant(dequantize.input[1]) if dequantize is not None else None
        if dequantize is None or scales_C is None or scales_C.ndim != 1:
            continue
        output = node.output[0]
        levels = _find_levels(ranges, output, scales_C)
        common = _choose_common_scale(levels)
        zero = edit.add_constant(f"{output}_product_zero_point", np.array(0, np.int8))
        weight_scale = edit.add_constant(f"{output}_weight_scale", np.array(common, np.float32))
        weight = [dequantize.input[0], weight_scale, zero]
        node.input[1] = edit.add_node("DequantizeLinear", weight, f"{output}_weight")
        node.output[0] = f"{output}_product"
        scale = np.array(max(levels * common, common) / 127, np.float32)
        result = edit.add_qdq(
            node.output[0],
            edit.add_constant(f"{output}_product_scale", scale),
            zero,
            f"{output}_product_quantized",
            f"{output}_product_dequantized",
        )
        by_channel = (scales_C / np.float32(common)).astype(np.float32)
        factors = edit.add_constant(f"{output}_by_channel", by_channel)
        # Its name is in the same module: `diagnose` looks for the module's result there.
        edit.add_node("Mul", [result, factors], output, name=f"{node.name}_by_channel")
    return edit.done()


def _find_levels(ranges: Ranges, output: str, scales_C: NDArray[np.float32]) -> float:
    """The largest magnitude of a result, each channel in units of its weight's scale."""
    if output not in ranges.channels:
        raise ToolFailure(
            f"The channels of tensor {output} have no calibrated range.",
            "Calibrate again with --calib DIR.",
        )
    largest_C = np.abs(np.array(ranges.channels[output], np.float64)).max(axis=1)
    return float((largest_C / scales_C).max())


def _choose_common_scale(levels: float) -> float:
    """The power of two that a weight of one scale gets, so that its product of `levels` stays below
    128: FP16 holds that.
    """
    exponent = _LEVELS_LOG2 - math.ceil(math.log2(max(levels, 1e-30)))
    return 2.0 ** min(max(exponent, FP16_EXPONENTS[0]), FP16_EXPONENTS[1])
