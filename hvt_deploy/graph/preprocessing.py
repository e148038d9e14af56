"""The evaluation transform inside the graph: uint8 images of any size to logits, for ONNX Runtime.

TensorRT has no antialiased Resize and cannot run such a graph. `Resize` has `antialias` from opset
18 on.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import PIXELS_NAME
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.graph.opset import convert_opset, read_opset

ANTIALIAS_OPSET = 18
_MODES = {"bicubic": "cubic", "bilinear": "linear"}


def add_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """`model` with its evaluation transform in front, at opset 18 or higher.

    The input is uint8 RGB (batch, height, width, 3) of any height and width. The transform resizes
    rows, then columns, and rounds to whole pixels after each. Pillow 13 resizes columns first for
    some shapes, where pixels differ by a few levels of 255. External weights stay in their file.
    Raises BadInput as `check_preprocessing` does.
    """
    check_preprocessing(preprocessing)
    wrapped = convert_opset(model, max(ANTIALIAS_OPSET, read_opset(model)))
    (old,) = wrapped.graph.input
    batch = old.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value, "height", "width", 3]
    build = _Builder()
    _add_transform(build, preprocessing, old.name)
    nodes = [*build.nodes, *wrapped.graph.node]
    wrapped.graph.value_info.append(old)  # the network's own input, whose shape is known
    del wrapped.graph.input[:], wrapped.graph.node[:]
    wrapped.graph.input.append(
        helper.make_tensor_value_info(PIXELS_NAME, onnx.TensorProto.UINT8, shape)
    )
    wrapped.graph.node.extend(nodes)
    wrapped.graph.initializer.extend(build.initializers)
    return wrapped


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """Raise BadInput for a transform that `add_preprocessing` does not support.

    These are `nearest` interpolation and a crop_pct above 1, which would need padding.
    """
    if preprocessing.interpolation not in _MODES or preprocessing.crop_pct > 1:
        raise BadInput(
            f"Interpolation {preprocessing.interpolation} with crop_pct {preprocessing.crop_pct} "
            "cannot be in a graph.",
            "Preprocessing in the graph must be bicubic or bilinear, with a crop_pct of at most 1.",
        )


class _Builder:
    """Nodes and constants named `preprocess/<number>`, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"preprocess/constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def add(
        self,
        operator: str,
        *inputs: str,
        output: str = "",
        **attributes: str | int | float | list[int],
    ) -> str:
        name = f"preprocess/{len(self.nodes)}_{operator}"
        node = helper.make_node(operator, list(inputs), [output or name], name)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.nodes.append(node)
        return output or name


def _add_transform(build: _Builder, preprocessing: Preprocessing, output: str) -> None:
    pixels = build.add("Cast", PIXELS_NAME, to=onnx.TensorProto.FLOAT)
    pixels = build.add("Transpose", pixels, perm=[0, 3, 1, 2])
    edges = build.add(
        "Cast", build.add("Shape", PIXELS_NAME, start=1, end=3), to=onnx.TensorProto.DOUBLE
    )
    size = _add_resized_size(build, edges, preprocessing)
    leading = build.add("Shape", pixels, start=0, end=2)
    height = build.add("Shape", pixels, start=2, end=3)
    new_height, new_width = (
        build.add("Gather", size, build.constant(np.array([i]))) for i in (0, 1)
    )
    one_half = build.constant(np.array(0.5, np.float32))
    for sizes in ((leading, height, new_width), (leading, new_height, new_width)):
        target = build.add("Concat", *sizes, axis=0)
        # Pillow's cubic has a = -0.5, and its weights sum to 1 at the borders too.
        pixels = build.add(
            "Resize",
            pixels,
            "",
            "",
            target,
            antialias=1,
            mode=_MODES[preprocessing.interpolation],
            cubic_coeff_a=-0.5,
            exclude_outside=1,
        )
        limits = (build.constant(np.array(limit, np.float32)) for limit in (0, 255))
        pixels = build.add("Clip", build.add("Floor", build.add("Add", pixels, one_half)), *limits)
    crop = build.constant(np.array(preprocessing.image_size, np.int64))
    spare = build.add("Cast", build.add("Sub", size, crop), to=onnx.TensorProto.DOUBLE)
    half = build.add("Round", build.add("Div", spare, build.constant(np.array(2.0))))
    start = build.add("Cast", half, to=onnx.TensorProto.INT64)
    axes = build.constant(np.array([2, 3], np.int64))
    pixels = build.add("Slice", pixels, start, build.add("Add", start, crop), axes)
    pixels = build.add("Div", pixels, build.constant(np.array(255, np.float32)))
    mean, std = (
        np.array(x, np.float32)[:, None, None] for x in (preprocessing.mean, preprocessing.std)
    )
    pixels = build.add("Sub", pixels, build.constant(mean))
    build.add("Div", pixels, build.constant(std), output=output)


def _add_resized_size(build: _Builder, edges: str, preprocessing: Preprocessing) -> str:
    """(height, width) before the crop as int64, in the float64 arithmetic of `data/images.py`."""
    target = np.array(
        [math.floor(edge / preprocessing.crop_pct) for edge in preprocessing.image_size], np.float64
    )
    if preprocessing.crop_mode == "squash":
        return build.constant(target.astype(np.int64))
    wanted = build.constant(target)
    if target[0] == target[1]:
        shorter = build.add("ReduceMin", edges, keepdims=1)
        size = build.add("Floor", build.add("Div", build.add("Mul", edges, wanted), shorter))
    else:
        ratio = build.add("ReduceMin", build.add("Div", edges, wanted), keepdims=1)
        size = build.add("Round", build.add("Div", edges, ratio))
    return build.add("Cast", size, to=onnx.TensorProto.INT64)
