"""Shapes that a graph computes from its tensors, as constants: engines and INT8 attention need them
to be known.
"""

from __future__ import annotations

import numpy as np
import onnx

from hvt_deploy.graph.analysis.macs import infer_shapes
from hvt_deploy.graph.edit import GraphEdit


def fix_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a constant for each shape of a Reshape that is computed; the one size in it
    that the batch size changes is -1.

    A shape with several such sizes, or of unknown sizes, stays as it is.
    """
    edit = GraphEdit(model)
    one, two = infer_shapes(model, 1), infer_shapes(model, 2)
    for node in edit.nodes("Reshape"):
        if edit.constant(node.input[1]) is not None or node.output[0] not in one.keys() & two:
            continue
        pairs = zip(one[node.output[0]], two[node.output[0]], strict=True)
        sizes = [size if size == other else -1 for size, other in pairs]
        if sizes.count(-1) < 2 and 0 not in sizes:
            name = f"{node.output[0]}/shape"
            node.input[1] = edit.add_constant(name, np.array(sizes, np.int64))
    return edit.done()
