"""The value of one node, computed by ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper


def evaluate_node(
    node: onnx.NodeProto,
    inputs: Mapping[str, NDArray[Any]],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> NDArray[Any]:
    """The first output of `node`; `inputs` maps the names that it reads to arrays."""
    from onnx.reference import ReferenceEvaluator  # its import costs 50 ms

    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape
        )
        for name, values in inputs.items()
    ]
    output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)
    model = helper.make_model(
        helper.make_graph([node], "node", given, [output]), opset_imports=opsets
    )
    outputs = ReferenceEvaluator(model).run(  # pyright: ignore[reportUnknownMemberType]
        None, dict(inputs)
    )
    return np.asarray(cast("list[object]", outputs)[0])
