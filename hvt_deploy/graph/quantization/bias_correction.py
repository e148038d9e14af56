"""Bias correction: what INT8 adds to a product's result on average is taken from its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
section 4.2, with the mean measured on images. It costs nothing at run time.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.qdq import QUANTIZED_OPS


def correct_biases(
    model: onnx.ModelProto, shifts: Mapping[str, NDArray[np.float64]]
) -> onnx.ModelProto:
    """`model` with `shifts` (a mean per output channel, by the name of a product) subtracted from
    the biases.

    A product without a bias keeps its result as it is.
    """
    edit = GraphEdit(model)
    for node in edit.nodes(*QUANTIZED_OPS):
        place = _bias_of(node, edit) if node.name in shifts else None
        bias = edit.constant(place[0].input[place[1]]) if place else None
        if place is None or bias is None or bias.shape != shifts[node.name].shape:
            continue
        adder, i = place
        adder.input[i] = edit.add_constant(
            f"{adder.input[i]}/{node.name}", (bias - shifts[node.name]).astype(np.float32)
        )
    return edit.done()


def _bias_of(node: onnx.NodeProto, edit: GraphEdit) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds the bias of a product, and at which of its inputs."""
    if node.op_type in ("Conv", "Gemm"):
        return (node, 2) if len(node.input) > 2 else None
    behind = edit.readers(node.output[0])
    if len(behind) != 1 or behind[0].op_type != "Add":
        return None
    return behind[0], 0 if behind[0].input[1] == node.output[0] else 1
