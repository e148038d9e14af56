"""Constant folding of large weights, one at a time and only when the graph is written."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx import helper

from hvt_deploy.graph import large_weights
from hvt_deploy.graph.evaluate import evaluate_node


def fold_large(model: ir.Model) -> None:
    """Replace, in place, nodes that read only constants, some of them large, by their results.

    A result is computed each time it is read and never kept, so folding takes no memory for them.
    """
    for node in list(model.graph):
        constants = {
            value.name or "": ir.convenience.get_const_tensor(value)
            for value in node.inputs
            if value is not None
        }
        tensors = {name: tensor for name, tensor in constants.items() if tensor is not None}
        largest = max((tensor.nbytes for tensor in tensors.values()), default=0)
        if (
            len(tensors) < len(constants)
            or len(node.outputs) != 1
            or largest < large_weights.LARGE_BYTES
        ):
            continue
        (output,) = node.outputs
        folded = _fold_lazily(node, tensors, model.opset_imports)
        if output.is_graph_output() or folded.nbytes < large_weights.LARGE_BYTES:
            continue  # the exporter folds small results
        value = ir.Value(
            name=output.name,
            shape=folded.shape,
            type=ir.TensorType(folded.dtype),
            const_value=folded,
        )
        ir.convenience.replace_all_uses_with(output, value)
        sources = [source for source in node.inputs if source is not None]
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)
        for source in sources:
            if source.is_initializer() and not source.uses():
                model.graph.initializers.pop(source.name or "", None)


def _fold_lazily(
    node: ir.Node, tensors: Mapping[str, ir.TensorProtocol], opsets: Mapping[str, int]
) -> ir.LazyTensor:
    """The result of `node` on `tensors`, its inputs by name."""
    name, proto = node.outputs[0].name or "", ir.serde.serialize_node(node)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]

    def compute() -> ir.TensorProtocol:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return ir.tensor(evaluate_node(proto, arrays, imports), name=name)

    # For type and shape, which the exporter does not always record; a Transpose is only a view.
    once = compute()
    return ir.LazyTensor(compute, once.dtype, ir.Shape(once.shape.numpy()), name=name)
