"""What an exported graph computes from large weights alone, computed one weight at a time, when it is written."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hvt_deploy.graph import large


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
        if len(tensors) < len(constants) or len(node.outputs) != 1 or largest < large.LARGE_BYTES:
            continue
        (output,) = node.outputs
        folded = _folded(node, tensors, model.opset_imports)
        if output.is_graph_output() or folded.nbytes < large.LARGE_BYTES:
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
