"""The swap of images and tokens before a Linear, as torch.nn.MultiheadAttention has it.

ONNX Runtime's optimizer MatmulTransposeFusion takes a Transpose that moves the first axis before
the last for one that it can fuse, and crashes on an FP16 graph where it cannot after all (its issue
28392). It does not look behind the product.
"""

from __future__ import annotations

import onnx

from hvt_deploy.graph.edit import GraphEdit, replace_input


def move_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each Transpose that moves the first axis before the last, and that only a
    Linear reads, behind that Linear: the rows of x W + b follow those of x.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for product in edit.nodes("MatMul"):
        transpose, weight = producers.get(product.input[0]), edit.constant(product.input[1])
        if transpose is None or not _moves_first_axis(transpose):
            continue
        if weight is None or weight.ndim != 2 or len(edit.readers(transpose.output[0])) > 1:
            continue
        last, output = product, product.output[0]
        readers = edit.readers(output)
        if len(readers) == 1 and _adds_bias(edit, readers[0]) and not edit.is_output(output):
            (last,) = readers
            product.output[0] = f"{output}/swapped"
            replace_input(last, output, product.output[0])
            output = last.output[0]
        last.output[0] = f"{output}/swapped"
        product.input[0], transpose.input[0] = transpose.input[0], last.output[0]
        transpose.output[0], transpose.name = output, f"{last.name}_swapped"
    return edit.done()


def _moves_first_axis(node: onnx.NodeProto) -> bool:
    order = [i for a in node.attribute if a.name == "perm" for i in a.ints]
    moved = [*range(1, len(order) - 1), 0, len(order) - 1]
    return node.op_type == "Transpose" and len(order) > 2 and order == moved


def _adds_bias(edit: GraphEdit, node: onnx.NodeProto) -> bool:
    constants = [edit.constant(name) for name in node.input]
    return node.op_type == "Add" and any(bias is not None and bias.ndim < 2 for bias in constants)
