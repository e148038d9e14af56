"""q, k and v as three products where the graph has one that is cut.

On FP16 graphs TensorRT-RTX computes three products of one tensor in one kernel, and its attention
kernel reads their parts where they are. What a `Split` cuts it copies in a kernel of its own. INT8
products keep the one: their scales would take a kernel for each part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hvt_deploy.graph.edit import GraphEdit


@dataclass(frozen=True)
class _CutProduct:
    """A product whose result is cut."""

    product: onnx.NodeProto
    """The MatMul."""
    reshape: onnx.NodeProto
    """The Reshape of its result to heads."""
    transpose: onnx.NodeProto
    """The Transpose of these."""
    cut: onnx.NodeProto
    """The Split of these."""


def split_products(model: onnx.ModelProto, kept: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with a product for each part of a MatMul whose result is reshaped to heads,
    transposed and cut between heads into three equal parts.

    The parts of a weight are named by `name_parts`; a weight that the graph computes is not split,
    nor MatMuls named in `kept`. In exact arithmetic it is the same function.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for cut in edit.nodes("Split"):
        found = _find_product(cut, producers)
        if found is not None and found.product.name not in kept:
            _split(edit, found)
    return edit.done()


def _find_product(
    cut: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]
) -> _CutProduct | None:
    chain = [cut]
    for op_type in ("Transpose", "Reshape", "MatMul"):
        node = producers.get(chain[-1].input[0])
        if node is None or node.op_type != op_type:
            return None
        chain.append(node)
    cut, transpose, reshape, product = chain
    return _CutProduct(product, reshape, transpose, cut)


def name_parts(weight: str) -> tuple[str, ...]:
    """The names of the parts of a weight."""
    return tuple(f"{weight}/{part}" for part in ("q", "k", "v"))


def _split(edit: GraphEdit, found: _CutProduct) -> None:
    """Make the outputs of `found.cut` by products of their own, unless it is no cut into equal
    parts between heads.
    """
    weight, parts = found.product.input[1], name_parts(found.product.input[1])
    shape = edit.constant(found.reshape.input[1])
    sizes = edit.constant(found.cut.input[1]) if found.cut.input[1:] else np.ones(1)
    attributes = {a.name: a for a in (*found.transpose.attribute, *found.cut.attribute)}
    cut_axis = attributes["perm"].ints[attributes["axis"].i]
    if shape is None or sizes is None or len(set(sizes.tolist())) > 1:
        return
    if len(parts) != len(found.cut.output) or cut_axis != len(shape) - 2 or shape[-2] % len(parts):
        return
    if not edit.split_weight(weight, parts):
        return
    part_shape = np.array([*shape[:-2], shape[-2] // len(parts), shape[-1]])
    shape_name = edit.add_constant(f"{found.reshape.input[1]}/{len(parts)}", part_shape)
    for i, (part, output) in enumerate(zip(parts, found.cut.output, strict=True)):
        product = edit.add_copy(found.product, i, [found.product.input[0], part])
        heads = edit.add_copy(found.reshape, i, [product, shape_name])
        edit.add_copy(found.transpose, i, [heads], output)
    del found.cut.output[:]
