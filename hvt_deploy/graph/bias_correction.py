"""Bias correction: what INT8 adds to a product's result on average is taken from its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2, with the mean
measured on images. It costs nothing at run time.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def correct_biases(model: onnx.ModelProto, shifts: Mapping[str, NDArray[np.float64]]) -> onnx.ModelProto:
    """`model` with `shifts` (a mean per output channel, by the name of a product) subtracted from the biases.

    A product without a bias keeps its result as it is.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in corrected.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in corrected.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(corrected.graph.node):
        place = _bias_of(node, readers) if node.name in shifts else None
        tensor = constants.get(place[0].input[place[1]]) if place else None
        if place is None or tensor is None or list(tensor.dims) != list(shifts[node.name].shape):
            continue
        name = f"{tensor.name}/{node.name}"
        values = (numpy_helper.to_array(tensor) - shifts[node.name]).astype(np.float32)
        corrected.graph.initializer.append(numpy_helper.from_array(values, name))
        place[0].input[place[1]] = name
    used = {name for node in corrected.graph.node for name in node.input}
    kept = [tensor for tensor in corrected.graph.initializer if tensor.name in used]
    del corrected.graph.initializer[:]
    corrected.graph.initializer.extend(kept)
    return corrected


def _bias_of(node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds the bias of a product, and at which of its inputs."""
    if node.op_type in ("Conv", "Gemm"):
        return (node, 2) if len(node.input) > 2 else None
    behind = readers.get(node.output[0], [])
    if len(behind) != 1 or behind[0].op_type != "Add":
        return None
    return behind[0], 0 if behind[0].input[1] == node.output[0] else 1
