"""Biases as additions of their own, where ONNX Runtime would make wrong integers of them.

Its optimizer WeightBiasQuantization turns the bias b of a Conv or Gemm whose factors have Q/DQ into
an int32 one, round(b / (s_x · s_w)), computed in the type of the scales. Where that is more than
the type or int32 holds, or the product of the scales is 0, the logits are wrong (EfficientNet-Lite0
with FP16 in the rest: -10 dB instead of 24). It does not look at an addition. For an engine that is
the same: it adds a bias in the kernel behind the product, as many kernels as before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.cpu_int8 import find_quantized
from hvt_deploy.graph.quantization.fp16 import SAFE_LIMIT
from hvt_deploy.graph.quantization.ranges import Ranges


@dataclass(frozen=True)
class BiasLimits:
    """The biases that ONNX Runtime can make integers of."""

    largest_level: float
    """The largest |bias|, in products of the two scales."""
    smallest_unit: float
    """The smallest product of the two scales."""
    largest_value: float
    """Where the result or its bias is larger, the node is not of this type anyhow."""


FP16_BIASES = BiasLimits(2.0**15, 2.0**-23, SAFE_LIMIT)
INT32_BIASES = BiasLimits(2.0**30, 2.0**-100, math.inf)


def separate_biases(model: onnx.ModelProto, ranges: Ranges, limits: BiasLimits) -> onnx.ModelProto:
    """`model` with an Add in place of the bias of each Conv and Gemm with dequantized factors whose
    bias is beyond `limits`.
    """
    edit, names = GraphEdit(model), {node.name for node in find_quantized(model, "Conv", "Gemm")}
    producers = edit.producers()
    for node in [node for node in edit.nodes("Conv", "Gemm") if node.name in names]:
        output = node.output[0]
        bias = edit.constant(node.input[2]) if len(node.input) > 2 else None
        scale, scales = (edit.constant(producers[name].input[1]) for name in node.input[:2])
        if bias is None or scale is None or scales is None:
            continue
        units = scale.astype(np.float64) * scales
        fits = (np.abs(bias) <= limits.largest_level * units) & (units >= limits.smallest_unit)
        largest = ranges.largest(output) + float(np.abs(bias).max())
        if fits.all() or largest > limits.largest_value:
            continue
        node.output[0] = f"{output}_without_bias"
        added = np.expand_dims(bias, (1, 2)) if node.op_type == "Conv" else bias
        name = edit.add_constant(f"{output}_added_bias", added)
        # Its name is in the same module: `diagnose` looks for the module's result there.
        edit.add_node("Add", [node.output[0], name], output, name=f"{node.name}_bias")
        del node.input[2]
    return edit.done()
