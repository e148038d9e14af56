"""Bias correction: the mean error that INT8 adds to a product's result is subtracted from its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
section 4.2, with the mean measured on images. It costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.queries import PRODUCT_OPS


def correct_biases(
    model: onnx.ModelProto, shifts: Mapping[str, NDArray[np.float64]]
) -> onnx.ModelProto:
    """`model` with `shifts` subtracted from its biases; a product without a bias is left unchanged.

    `shifts` maps the name of a product to the mean error (C,) of its output channels.
    """
    edit = GraphEdit(model)
    for node in edit.nodes(*PRODUCT_OPS):
        place = _bias_of(node, edit) if node.name in shifts else None
        bias = edit.constant(place[0].input[place[1]]) if place else None
        if place is None or bias is None or bias.shape != shifts[node.name].shape:
            continue
        adder, i = place
        adder.input[i] = edit.add_constant(
            f"{adder.input[i]}/{node.name}", (bias - shifts[node.name]).astype(np.float32)
        )
    return edit.done()


def find_biases(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """The initializer that is the bias of each product of `names` that has one."""
    edit, found = GraphEdit(model), dict[str, str]()
    for node in [node for node in edit.nodes(*PRODUCT_OPS) if node.name in names]:
        place = _bias_of(node, edit)
        if place and edit.constant(place[0].input[place[1]]) is not None:
            found[node.name] = place[0].input[place[1]]
    return found


def _bias_of(node: onnx.NodeProto, edit: GraphEdit) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds the bias of a product, and the position of the bias in its inputs."""
    if node.op_type in ("Conv", "Gemm"):
        return (node, 2) if len(node.input) > 2 else None
    readers = edit.readers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    return readers[0], 0 if readers[0].input[1] == node.output[0] else 1
