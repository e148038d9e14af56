"""Einsums that are one matrix product, as Transpose and MatMul: roles, INT8 attention and CPU
kernels know it by that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.module_graph import read_module_path
from hvt_deploy.graph.node_names import write_names


def write_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a MatMul for each Einsum of two tensors that sums over one axis which both
    have, between one axis of each (`bnhd,bmhd->bhnm`), or several of one of them where the other
    has none but these (`bchw,kc->bkhw`). Other Einsums stay. Nodes are named `<module path>/<op>`.
    """
    edit = GraphEdit(model)
    for node in edit.nodes("Einsum"):
        letters = _read_letters(node)
        if letters is not None:
            _write_product(edit, node, *letters)
    written = edit.done()
    write_names(written, [read_module_path(node.name) for node in written.graph.node])
    return written


def _read_letters(node: onnx.NodeProto) -> tuple[str, str, str] | None:
    """The axes of both inputs and of the result; None unless each is named once."""
    equation = next(a.s for a in node.attribute if a.name == "equation").decode().replace(" ", "")
    inputs, _, result = equation.partition("->")
    left, _, right = inputs.partition(",")
    if any(len(set(axes)) < len(axes) or not axes.isalpha() for axes in (left, right, result)):
        return None
    return left, right, result


def _write_product(
    edit: GraphEdit, node: onnx.NodeProto, left: str, right: str, result: str
) -> None:
    """Make `node` the last of the nodes of a product, if it is one."""
    first, second = node.input
    if len(set(right) - set(left)) > len(set(left) - set(right)):
        first, second, left, right = second, first, right, left
    shared = [axis for axis in result if axis in left and axis in right]
    rows = [axis for axis in result if axis in left and axis not in right]
    columns = [axis for axis in result if axis in right and axis not in left]
    summed = [axis for axis in left if axis in right and axis not in result]
    if len(summed) != 1 or len(columns) != 1 or not rows or (shared and len(rows) > 1):
        return
    if {*shared, *rows, *columns, *summed} != {*left, *right, *result}:
        return  # an axis of one input alone is summed
    output, path = node.output[0], read_module_path(node.name)
    factors = [
        _order(edit, first, left, [*shared, *rows, *summed], f"{output}/first", path),
        _order(edit, second, right, [*shared, *summed, *columns], f"{output}/second", path),
    ]
    made = [*shared, *rows, *columns]
    del node.attribute[:]
    if made == list(result):
        node.op_type, node.input[:] = "MatMul", factors
    else:
        product = edit.add_node("MatMul", factors, f"{output}/product", name=f"{path}/MatMul")
        node.op_type, node.input[:] = "Transpose", [product]
        node.attribute.append(helper.make_attribute("perm", [made.index(axis) for axis in result]))
    node.name = f"{path}/{node.op_type}"


def _order(
    edit: GraphEdit, tensor: str, axes: str, wanted: Sequence[str], name: str, path: str
) -> str:
    """The tensor with its axes in another order; a new constant where it is one."""
    order = [axes.index(axis) for axis in wanted]
    value = edit.constant(tensor)
    if order == sorted(order):
        return tensor
    if value is not None:
        return edit.add_constant(name, np.ascontiguousarray(np.transpose(value, order)))
    return edit.add_node("Transpose", [tensor], name, name=f"{path}/Transpose", perm=order)
