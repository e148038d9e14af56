"""LayerNorms that exporters below opset 17 write as ReduceMean, Sub, Pow, Sqrt and Div, as one
operator each: roles, FP16 and engines know it by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from hvt_deploy.graph.analysis.macs import infer_shapes
from hvt_deploy.graph.edit import GraphEdit


@dataclass(frozen=True)
class _SplitNorm:
    """(x - E[x]) / √(E[(x - E[x])²] + ε)."""

    division: onnx.NodeProto
    """The node that makes it."""
    source: str
    """The tensor x."""
    sizes: tuple[int, ...]
    """Sizes of the last axes of x, over which the mean is taken."""
    epsilon: float
    """ε."""


def fuse_layer_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, of opset 17 or higher, with a LayerNormalization in place of each one that is
    split, and of the constants that scale and shift it.

    ε is the graph's. In exact arithmetic it is the same function.
    """
    edit, shapes = GraphEdit(model), infer_shapes(model)
    producers = edit.producers()
    for division in edit.nodes("Div", "Mul"):
        found = _find_norm(edit, division, producers, shapes)
        if found is not None:
            _fuse(edit, found)
    return edit.done()


def _find_norm(
    edit: GraphEdit,
    division: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
) -> _SplitNorm | None:
    def behind(node: onnx.NodeProto | None, op_type: str, i: int = 0) -> onnx.NodeProto | None:
        """The producer of an input of `node`, if it is this operator."""
        made = producers.get(node.input[i]) if node is not None else None
        return made if made is not None and made.op_type == op_type else None

    centred, added = _read_factors(division, behind)
    mean = behind(centred, "ReduceMean", 1)
    if not (centred and added and mean):
        return None
    variance = _see_through(added.input[0], producers, shapes)
    square = behind(variance, "Pow") or behind(variance, "Mul")
    squared = behind(square, "Sub")
    if not (variance and square and squared):
        return None
    epsilon, shape = edit.constant(added.input[1]), shapes.get(source := centred.input[0])
    axes, again = _read_axes(edit, mean), behind(squared, "ReduceMean", 1)  # some subtract twice
    if (
        not axes
        or again is None
        or {source} != {mean.input[0], again.input[0], squared.input[0]}
        or not _is_square(edit, square)
        or shape is None
        or epsilon is None
        or epsilon.size != 1
    ):
        return None
    places = {
        tuple(sorted(axis % len(shape) for axis in _read_axes(edit, node)))
        for node in (mean, again, variance)
    }
    first = len(shape) - len(axes)
    kept = (*shape[:first], *[1] * len(axes))
    if places != {tuple(range(first, len(shape)))} or shapes.get(added.input[0]) != kept:
        return None  # of channels that are not last
    return _SplitNorm(division, source, shape[first:], float(epsilon.item()))


def _read_factors(
    division: onnx.NodeProto,
    behind: Callable[[onnx.NodeProto | None, str, int], onnx.NodeProto | None],
) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
    """The Sub and the Add of (x - E[x]) / √(… + ε), or of (x - E[x]) · (1 / √(… + ε))."""
    if division.op_type == "Div":
        return behind(division, "Sub", 0), behind(behind(division, "Sqrt", 1), "Add", 0)
    one = 0 if behind(division, "Reciprocal", 0) is not None else 1
    root = behind(behind(division, "Reciprocal", one), "Sqrt", 0)
    return behind(division, "Sub", 1 - one), behind(root, "Add", 0)


def _see_through(
    tensor: str,
    producers: Mapping[str, onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
) -> onnx.NodeProto | None:
    """The node that makes a tensor, seen through what only gives it another shape."""
    node = producers.get(tensor)
    while node is not None and node.op_type in ("Reshape", "Unsqueeze", "Expand"):
        sizes = [shapes.get(name) for name in (node.input[0], node.output[0])]
        if None in sizes or len({math.prod(size or ()) for size in sizes}) > 1:
            return None
        node = producers.get(node.input[0])
    return node


def _is_square(edit: GraphEdit, node: onnx.NodeProto) -> bool:
    power = edit.constant(node.input[1])
    return node.input[0] == node.input[1] if node.op_type == "Mul" else power == 2


def _read_axes(edit: GraphEdit, mean: onnx.NodeProto) -> list[int]:
    """The axes of a ReduceMean; none where they are not known."""
    attributes = {a.name: helper.get_attribute_value(a) for a in mean.attribute}
    if len(mean.input) < 2:
        return list(attributes.get("axes", []))
    axes = edit.constant(mean.input[1])  # opset 18
    return [] if axes is None else axes.tolist()


def _fuse(edit: GraphEdit, norm: _SplitNorm) -> None:
    """Make a LayerNormalization of the last node of a norm with its scale and shift."""
    last, constants = norm.division, dict[str, str]()
    for op_type in ("Mul", "Add"):
        readers = edit.readers(last.output[0])
        if len(readers) != 1 or readers[0].op_type != op_type or edit.is_output(last.output[0]):
            continue
        others = [name for name in readers[0].input if name != last.output[0]]
        value = edit.constant(others[0]) if others else None
        if value is not None and value.shape == norm.sizes:
            last, constants[op_type] = readers[0], others[0]
    scale = constants.get("Mul") or edit.add_constant(
        f"{last.output[0]}_ones", np.ones(norm.sizes, np.float32)
    )
    last.op_type = "LayerNormalization"
    last.input[:] = [norm.source, scale, *([constants["Add"]] if "Add" in constants else [])]
    del last.attribute[:]
    last.attribute.append(helper.make_attribute("axis", -len(norm.sizes)))
    last.attribute.append(helper.make_attribute("epsilon", norm.epsilon))
