"""GELU in the order of factors that ONNX Runtime runs as one kernel, with the bias before it."""

from __future__ import annotations

import onnx

from hvt_deploy.graph.edit import GraphEdit


def order_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with x · (½ · (1 + erf …)), as PyTorch exports GELU, as (x · (1 + erf …)) · ½."""
    edit = GraphEdit(model)
    producers = edit.producers()
    for last in edit.nodes("Mul"):
        source, name = last.input
        half = producers.get(name)
        if half is None or half.op_type != "Mul" or len(edit.readers(name)) > 1:
            continue
        constant, name = half.input
        plus = producers.get(name)
        erf = producers.get(plus.input[0]) if plus and plus.op_type == "Add" else None
        if erf is not None and erf.op_type == "Erf" and edit.constant(constant) is not None:
            half.input[:] = [source, name]
            last.input[:] = [half.output[0], constant]
    return edit.done()
