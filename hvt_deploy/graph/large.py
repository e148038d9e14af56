"""Large weights stay where they are: nothing that rewrites a graph needs their values.

A simplifier copies every initializer several times over and cannot take more than 2 GiB, so it works on a graph in
which large initializers are inputs. What it would have computed from them is computed here before, one weight at a
time, when it is written.
"""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

# From here on an initializer is large. Shapes, axes, norms and biases, which simplifiers look into, are far smaller.
LARGE_BYTES = 2**20


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether a simplifier has no business with its values. They may be in the message or in a file beside it."""
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize >= LARGE_BYTES


def _large(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Large initializers by name, but for the weights of convolutions: simplifiers fold norms and scales into them,
    and fail where they are inputs. They are a small part of any large transformer.
    """
    convolved = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    taken = (t for t in model.graph.initializer if is_large(t))
    return {t.name: t for t in taken if t.name not in convolved or t.data_location == onnx.TensorProto.EXTERNAL}


def without_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same name, type and shape."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    graph, large = skeleton.graph, _large(model)
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        if tensor.name in large:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
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


def fold_large(model: ir.Model) -> None:
    """Replace, in place, nodes that compute something from large constants alone by what they compute.

    A value is computed each time it is read and never kept, so folding every weight takes no memory for them.
    """
    for node in list(model.graph):
        constants = {
            value.name or "": ir.convenience.get_const_tensor(value) for value in node.inputs if value is not None
        }
        tensors = {name: tensor for name, tensor in constants.items() if tensor is not None}
        largest = max((tensor.nbytes for tensor in tensors.values()), default=0)
        if len(tensors) < len(constants) or len(node.outputs) != 1 or largest < LARGE_BYTES:
            continue
        (output,) = node.outputs
        folded = _folded(node, tensors, model.opset_imports)
        if output.is_graph_output() or folded.nbytes < LARGE_BYTES:
            continue  # what is small, the exporter folds
        value = ir.Value(name=output.name, shape=folded.shape, type=ir.TensorType(folded.dtype), const_value=folded)
        ir.convenience.replace_all_uses_with(output, value)
        sources = [source for source in node.inputs if source is not None]
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)
        for source in sources:
            if source.is_initializer() and not source.uses():
                model.graph.initializers.pop(source.name or "", None)


def _folded(node: ir.Node, tensors: Mapping[str, ir.TensorProtocol], opsets: Mapping[str, int]) -> ir.LazyTensor:
    """What `node` computes from `tensors`, its inputs by name."""
    name = node.outputs[0].name or ""
    inputs = [helper.make_tensor_value_info(n, t.dtype.value, t.shape.numpy()) for n, t in tensors.items()]
    output = helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([ir.serde.serialize_node(node)], "constant", inputs, [output])
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))

    def compute() -> ir.TensorProtocol:
        found = evaluator.run(None, {n: tensor.numpy() for n, tensor in tensors.items()})
        return ir.tensor(np.asarray(cast("list[object]", found)[0]), name=name)

    once = compute()  # for type and shape, which the exporter does not always note; a Transpose is only a view
    return ir.LazyTensor(compute, once.dtype, ir.Shape(once.shape.numpy()), name=name)
