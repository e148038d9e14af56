"""Large weights stay out of simplifiers, which do not need their values.

A simplifier copies every initializer several times and is limited to 2 GiB, so it works on a graph
in which large initializers are inputs. `fold.py` does the constant folding of these beforehand.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper

from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.queries import find_used

# An initializer of this size or more is large. Shapes, axes, norms and biases, whose values
# simplifiers use, are far smaller.
LARGE_BYTES = 2**20


def count_bytes(tensor: onnx.TensorProto) -> int:
    """Size of an initializer, in memory or external."""
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * itemsize


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether an initializer, in memory or external, has `LARGE_BYTES` or more."""
    return count_bytes(tensor) >= LARGE_BYTES


def _large(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Large initializers by name, without the weights of convolutions unless they are external.

    Simplifiers fold norms and scales into these and fail if they are inputs; they are a small part
    of any large transformer.
    """
    convolved = {
        node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")
    }
    taken = (t for t in model.graph.initializer if is_large(t))
    return {
        t.name: t
        for t in taken
        if t.name not in convolved or t.data_location == onnx.TensorProto.EXTERNAL
    }


def remove_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same name, type and shape."""
    skeleton = copy_model(model)
    graph, large = skeleton.graph, _large(model)
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        if tensor.name in large:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            graph.initializer.append(tensor)
    return skeleton


def restore_large_weights(skeleton: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """`skeleton`, changed in place, with the large initializers of `original` that it uses."""
    large, graph = _large(original), skeleton.graph
    for value in [value for value in graph.input if value.name in large]:
        graph.input.remove(value)
    used = find_used(graph)
    graph.initializer.extend(tensor for name, tensor in large.items() if name in used)
    return skeleton
