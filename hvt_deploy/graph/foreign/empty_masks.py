"""Attention masks that mask nothing, and the guard against NaN that torch's exporter writes with
every mask: between the softmax and the product with the values it keeps attention from INT8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from hvt_deploy.graph.analysis.macs import infer_shapes
from hvt_deploy.graph.edit import GraphEdit, replace_input

# Operators that give the one value that all elements of their first input have.
_SPREADS = frozenset({"Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity"})


def drop_empty_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without sums with a computed tensor of zeros, or with a constant one before a
    softmax, and without what replaces NaN behind a softmax of which a mask leaves something in
    every row: it has none where the scores are finite.
    """
    edit, shapes = GraphEdit(model), infer_shapes(model)
    producers = edit.producers()
    for add in edit.nodes("Add"):
        for scores, mask in (add.input, reversed(add.input)):
            same = shapes.get(scores) == shapes.get(add.output[0]) is not None
            masks = mask in producers or _is_softmax_of(edit, add.output[0])
            if same and masks and _find_value(edit, mask, producers) == 0:
                _read_instead(edit, add.output[0], scores)
    for where in edit.nodes("Where"):
        is_nan = producers.get(where.input[0])
        softmax = producers.get(where.input[2])
        if is_nan is None or (is_nan.op_type, *is_nan.input) != ("IsNaN", where.input[2]):
            continue
        if softmax is None or softmax.op_type != "Softmax":
            continue
        if _is_finite(edit, softmax.input[0], producers):
            _read_instead(edit, where.output[0], where.input[2])
    return edit.done()


def _is_softmax_of(edit: GraphEdit, scores: str) -> bool:
    return any(reader.op_type == "Softmax" for reader in edit.readers(scores))


def _is_finite(edit: GraphEdit, scores: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether every row of scores has a finite one: of a product, also scaled or masked by
    constants that leave some.
    """
    node = producers.get(scores)
    if node is None or node.op_type not in ("MatMul", "Mul", "Div", "Add"):
        return False
    if node.op_type == "MatMul":
        return True
    values = [edit.constant(name) for name in node.input]
    rest = [name for name, value in zip(node.input, values, strict=True) if value is None]
    known = all(value is None or np.isfinite(value).any(axis=-1).all() for value in values)
    return known and len(rest) == 1 and _is_finite(edit, rest[0], producers)


def _find_value(
    edit: GraphEdit, name: str, producers: Mapping[str, onnx.NodeProto]
) -> float | None:
    """The value that all elements of a tensor have, whatever the images are; None if unknown."""
    value = edit.constant(name)
    if value is not None:
        values = np.unique(value)
        return float(values[0]) if len(values) == 1 else None
    node = producers.get(name)
    if node is not None and node.op_type in _SPREADS:
        return _find_value(edit, node.input[0], producers)
    if node is not None and node.op_type == "Where":
        chosen = _find_value(edit, node.input[0], producers)
        return (
            None if chosen is None else _find_value(edit, node.input[1 if chosen else 2], producers)
        )
    return None


def _read_instead(edit: GraphEdit, old: str, new: str) -> None:
    for reader in edit.readers(old):
        replace_input(reader, old, new)
