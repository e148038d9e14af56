"""Large weights stay where they are: nothing that rewrites a graph needs their values.

A simplifier copies every initializer several times over and cannot take more than 2 GiB, so it
works on a graph in which large initializers are inputs. What it would have computed from them,
`fold` computes before.
"""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math

import onnx
from onnx import helper

# From here on an initializer is large. Shapes, axes, norms and biases, which simplifiers look into,
# are far smaller.
LARGE_BYTES = 2**20


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether a simplifier has no business with its values. They may be in the message or in a file
    beside it.
    """
    return (
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        >= LARGE_BYTES
    )


def _large(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Large initializers by name, but for the weights of convolutions: simplifiers fold norms and
    scales into them, and fail where they are inputs. They are a small part of any large
    transformer.
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


def without_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same name, type and shape."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
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


def with_large(skeleton: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """`skeleton`, changed in place, with those large initializers of `original` that it still uses."""
    large, graph = _large(original), skeleton.graph
    for value in [value for value in graph.input if value.name in large]:
        graph.input.remove(value)
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(tensor for name, tensor in large.items() if name in used)
    return skeleton
