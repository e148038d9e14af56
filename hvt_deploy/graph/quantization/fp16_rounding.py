"""The FP32 graph with every tensor rounded as FP16 rounds it: the noise that no FP16 graph is
without, whatever else is right or wrong in it.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.graph.edit import GraphEdit, replace_input
from hvt_deploy.graph.quantization.ranges import LAYOUT_OPS, find_float_tensors

# 2^13 + 1 splits the 24 bits of a float32 into 11, which an FP16 has, and 13.
_SPLITTER, _SPLITTER_NAME = 2.0**13 + 1, "fp16_rounding/splitter"


def round_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with images, weights and the results of its nodes rounded to the 11 bits of FP16,
    within the range of FP32. External weights stay as they are.

    With c = 8193 · x, c - (c - x) is x in 11 bits, rounded to nearest. Source: Dekker, "A
    floating-point technique for extending the available precision", Numerische Mathematik 18
    (1971), who calls it Veltkamp's.
    """
    edit = GraphEdit(model)
    for tensor in model.graph.initializer:
        value = edit.constant(tensor.name)
        if value is not None and value.dtype == np.float32:
            edit.add_constant(tensor.name, _round(value))
    edit.add_constant(_SPLITTER_NAME, np.array(_SPLITTER, np.float32))
    *results, images = find_float_tensors(model)
    producers, readers = edit.producers(), edit.readers(images)
    for name in results:
        made = producers[name]
        if made.op_type not in LAYOUT_OPS:
            exact = f"{name}/exact"
            made.output[list(made.output).index(name)] = exact
            _add_rounding(edit, exact, name)
    rounded = _add_rounding(edit, images, f"{images}/rounded")
    for reader in readers:
        replace_input(reader, images, rounded)
    return edit.done()


def _round(values: NDArray[np.float32]) -> NDArray[np.float32]:
    high = values * np.float32(_SPLITTER)
    return np.asarray(high - (high - values), np.float32)


def _add_rounding(edit: GraphEdit, exact: str, rounded: str) -> str:
    high = edit.add_node("Mul", [exact, _SPLITTER_NAME], f"{exact}/high")
    low = edit.add_node("Sub", [high, exact], f"{exact}/low")
    return edit.add_node("Sub", [high, low], rounded, name=f"{exact}/rounded")
