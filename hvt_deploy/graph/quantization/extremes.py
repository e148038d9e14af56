"""Outputs for the smallest and the largest value of tensors, at the least cost in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.graph.opset import read_opset

# From this opset on a reduction takes its axes as an input.
_AXES_INPUT_OPSET = 18
_AXES = [numpy_helper.from_array(np.array([axis]), f"reduce/axis_{axis}") for axis in (0, 1)]
# Over the middle axis ONNX Runtime reduces with vector instructions, as long as the rows of a block
# are in the nearest cache; over the first axis it compares one number at a time.
_BLOCK_ROWS, _BLOCK_NUMBERS = 8, 2**14


def add_extremes(
    model: onnx.ModelProto, names: Collection[str], by_channel: Collection[str]
) -> None:
    """Add outputs `<name>/min` and `/max` of each tensor to `model`, with one number for each
    channel (C,), the last axis, of those in `by_channel`.
    """
    graph, opset, source = model.graph, read_opset(model), model.graph.input[0].name
    shapes = {value.name: value.type.tensor_type.shape for value in graph.value_info}
    nodes, asked = list(graph.node), set(names)

    def reduce(name: str, made_by: str) -> Iterator[onnx.NodeProto]:
        block = _split_rows(shapes.get(name))
        if name in by_channel:
            yield from _cut_rows(name, block)
        for end, op in (("min", "ReduceMin"), ("max", "ReduceMax")):
            output = f"{name}/{end}"
            if end == "min" and made_by == "Softmax":
                # 0 is in every 8-bit range, and a range of a softmax starts next to it.
                yield helper.make_node("Constant", [], [output], value_float=0.0)
            elif name in by_channel:
                yield from _reduce_rows(op, name, output, block, opset)
            else:
                yield helper.make_node(op, [name], [output], keepdims=0)

    del graph.node[:]
    # ONNX Runtime runs nodes that are ready in this order: a reduction finds its tensor in the
    # cache, and the reader behind it can write its result in the same place.
    if source in asked:
        graph.node.extend(reduce(source, "Input"))
    for node in nodes:
        graph.node.append(node)
        for name in asked.intersection(node.output):
            graph.node.extend(reduce(name, node.op_type))
    graph.initializer.extend(_AXES)
    graph.output.extend(
        helper.make_tensor_value_info(f"{name}/{end}", TensorProto.FLOAT, None)
        for name in names
        for end in ("min", "max")
    )


def _split_rows(shape: onnx.TensorShapeProto | None) -> tuple[int, int]:
    """The rows of a block and their channels, where the known rows of a tensor (..., C) can be cut
    into blocks; else (1, C), or (1, 0) where C is not known.
    """
    *sizes, channels = [dim.dim_value for dim in shape.dim] if shape else [0]
    rows = math.prod(size for size in sizes if size > 0)
    most = max(_BLOCK_ROWS, _BLOCK_NUMBERS // max(channels, 1))
    fitting = [k for k in range(2, most + 1) if channels and rows % k == 0]
    return max(fitting, default=1), channels


def _cut_rows(name: str, block: tuple[int, int]) -> Iterator[onnx.NodeProto]:
    """The rows of a tensor (..., C), in blocks if they are cut into such."""
    if block[0] == 1:
        yield helper.make_node("Flatten", [name], [f"{name}/rows"], axis=-1)
    else:
        sizes = numpy_helper.from_array(np.array([-1, *block]))
        yield helper.make_node("Constant", [], [f"{name}/sizes"], value=sizes)
        yield helper.make_node("Reshape", [name, f"{name}/sizes"], [f"{name}/rows"])


def _reduce_rows(
    op: str, name: str, output: str, block: tuple[int, int], opset: int
) -> Iterator[onnx.NodeProto]:
    """A reduction of what `_cut_rows` made to (C,)."""
    rows = f"{name}/rows"
    if block[0] > 1:
        yield _reduce_axis(op, rows, f"{output}/blocks", 1, opset)
        rows = f"{output}/blocks"
    yield _reduce_axis(op, rows, output, 0, opset)


def _reduce_axis(op: str, source: str, output: str, axis: int, opset: int) -> onnx.NodeProto:
    node = helper.make_node(op, [source], [output], keepdims=0)
    if opset >= _AXES_INPUT_OPSET:
        node.input.append(_AXES[axis].name)
    else:
        node.attribute.append(helper.make_attribute("axes", [axis]))
    return node
