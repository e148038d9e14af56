"""8-bit Q/DQ in a graph, at any placement.

`quantize_int8` makes the form for TensorRT by role: signed, symmetric, weights per channel, float
biases, no Q/DQ on outputs. `cpu_int8.py` makes the variant for ONNX Runtime's CPU kernels.

The scales are those of ONNX Runtime's quantizer (`quantize_static`: QDQ, QInt8, symmetric, per
channel), which is the oracle of the tests: the largest magnitude is the largest level.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.analysis.roles import Role, find_group, find_role
from hvt_deploy.graph.edit import GraphEdit, replace_input
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import PRODUCT_OPS, find_output_channel_axis

QUANTIZED_SUFFIX, _SCALE_SUFFIX = "_quantized", "_scale"


@dataclass(frozen=True)
class EightBitFormat:
    """A number format of 8 bits, symmetric around 0."""

    name: str
    """For messages."""
    largest: int
    """The largest magnitude."""
    element: np.dtype[Any]
    """The type of an element."""
    opset: int
    """The first opset whose Q/DQ know it."""


INT8 = EightBitFormat("INT8", 127, np.dtype(np.int8), 10)
# E4M3 without infinities: 4 bits of exponent, 3 of mantissa.
FP8 = EightBitFormat("FP8", 448, np.dtype(ml_dtypes.float8_e4m3fn), 19)


@dataclass(frozen=True)
class Placement:
    """The tensors of a graph that get Q/DQ."""

    nodes: Collection[str]
    """Names of the Conv, MatMul and Gemm nodes whose two factors get Q/DQ: a constant weight with a
    scale for each output channel, an activation with one scale."""
    outputs: Collection[str] = ()
    """Names of the nodes whose result gets Q/DQ, for every node that reads it."""
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    """Scales of activations that do not follow from their ranges, by the tensor's name."""


def select_nodes(
    model: onnx.ModelProto, roles: Collection[str], excluded: Collection[str] = ()
) -> list[str]:
    """The names of the Conv, MatMul and Gemm nodes that get Q/DQ.

    These have a constant weight and one of the `roles`; their group (`stage/role`) is not
    `excluded`. Raises BadInput for a role that does not exist and a group that the graph does not
    have.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.op_type in PRODUCT_OPS and node.input[1] in weights
    ]
    groups = {node.name: find_group(node, weights) for node in products}
    for kind, names, known in (
        ("role", roles, get_args(Role)),
        ("group", excluded, tuple(sorted(set(groups.values())))),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise BadInput(
                f"There is no {kind} {unknown[0]!r} to quantize or exclude.",
                f"The {kind}s are: {', '.join(known)}.",
            )
    return [
        node.name
        for node in products
        if find_role(node, weights) in roles and groups[node.name] not in excluded
    ]


def quantize_int8(
    model: onnx.ModelProto, ranges: Ranges, roles: Collection[str], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with INT8 Q/DQ for TensorRT at the nodes of `select_nodes`, FP32 in the rest.

    Raises as `insert_qdq` does.
    """
    return insert_qdq(model, ranges, Placement(select_nodes(model, roles, excluded)), INT8)


def insert_qdq(
    model: onnx.ModelProto, ranges: Ranges, placement: Placement, number_format: EightBitFormat
) -> onnx.ModelProto:
    """The graph with Q/DQ of `number_format` at `placement`, FP32 in the rest.

    Only the nodes of the placement read the quantized values: a residual sum that reads the same
    tensor is neither rounded nor clipped. A result with Q/DQ of its own is quantized once, and a
    result that the graph returns is returned as it was. Raises BadInput for a placement that names
    no node, or something else than a node, for a scale that is not positive and for an opset
    without this format; ToolFailure for a tensor that was not calibrated or whose range is not
    finite.
    """
    _check_placement(model, placement, number_format)
    writer = _Writer(GraphEdit(model), ranges, placement.scales, number_format)
    for node in writer.edit.nodes(*PRODUCT_OPS):
        if node.name in placement.nodes:
            axis = find_output_channel_axis(node)
            node.input[0] = writer.dequantized(node.input[0], axis=None)
            node.input[1] = writer.dequantized(node.input[1], axis)
    for node in [node for node in model.graph.node if node.name in placement.outputs]:
        output, readers = node.output[0], writer.edit.readers(node.output[0])
        dequantized = writer.dequantized(output, axis=None)
        for reader in readers:
            if reader.op_type != "QuantizeLinear":
                replace_input(reader, output, dequantized)
    return writer.edit.done()


def find_scales(largest: NDArray[np.float32], number_format: EightBitFormat) -> NDArray[np.float32]:
    """The scales of tensors or channels by their largest magnitudes: so that it is the largest
    number of the format; 1 where it is 0 (a channel of zeros), as ONNX Runtime has it.
    """
    scales = (largest.astype(np.float64) / number_format.largest).astype(np.float32)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)


def quantize_weight(
    weight: NDArray[Any],
    scales: NDArray[np.float32],
    axis: int,
    number_format: EightBitFormat = INT8,
) -> NDArray[Any]:
    """Symmetric 8-bit numbers per channel, rounded half to even, as ONNX's QuantizeLinear does.

    `weight` of any shape, `scales` (C,) for its channels along `axis`.
    """
    others = [i for i in range(weight.ndim) if i != axis]
    levels = weight / np.expand_dims(np.atleast_1d(scales), others)
    if number_format.element.kind == "i":
        np.rint(levels, out=levels)
    largest = number_format.largest
    return np.minimum(np.maximum(levels, -largest), largest).astype(number_format.element)


def _check_placement(
    model: onnx.ModelProto, placement: Placement, number_format: EightBitFormat
) -> None:
    if not placement.nodes and not placement.outputs:
        raise BadInput(
            "No node is left to quantize.",
            "Correct quantization.int8_roles or excluded in the recipe.",
        )
    products = {node.name for node in model.graph.node if node.op_type in PRODUCT_OPS}
    strangers = [name for name in placement.nodes if name not in products]
    named = {node.name for node in model.graph.node}
    strangers += [name for name in placement.outputs if name not in named]
    if strangers:
        raise BadInput(
            f"The placement of Q/DQ names {strangers[0]}, which is no node of the graph that can "
            "be quantized.",
            "A placement fits the one graph that it was made for.",
        )
    for name, scale in placement.scales.items():
        if not (math.isfinite(scale) and scale >= np.finfo(np.float32).tiny):
            raise BadInput(f"The scale of tensor {name} is {scale}; it must be positive.")
    if read_opset(model) < number_format.opset:
        raise BadInput(
            f"{number_format.name} Q/DQ requires opset {number_format.opset} or higher; the graph "
            f"has {read_opset(model)}.",
            f"Export with --opset {number_format.opset}.",
        )


@dataclass(frozen=True)
class _Writer:
    """Writes the Q/DQ of tensors, each once."""

    edit: GraphEdit
    """The graph."""
    ranges: Ranges
    """Of the activations."""
    scales: Mapping[str, float]
    """Scales that are given, by tensor."""
    number_format: EightBitFormat
    """Of the quantized numbers."""
    written: dict[str, str] = field(default_factory=dict[str, str])
    """The dequantized form of each tensor that has Q/DQ."""

    def dequantized(self, name: str, axis: int | None) -> str:
        """The dequantized form of an activation, or of a weight with channels along `axis`."""
        if name not in self.written:
            weight = None if axis is None else self.edit.constant(name)
            if weight is not None and axis is not None:
                self.written[name] = self._add_weight(name, weight, axis)
            else:
                self.written[name] = self._add_activation(name)
        return self.written[name]

    def _add_activation(self, name: str) -> str:
        scale, zero_point = self._add_parameters(name, self._find_activation_scale(name))
        stem = f"{name}_%sLinear_Output"
        return self.edit.add_qdq(name, scale, zero_point, stem % "Quantize", stem % "Dequantize")

    def _add_weight(self, name: str, weight: NDArray[Any], axis: int) -> str:
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scales = self._find_scales(np.abs(weight).max(axis=others), name)
        quantized = self.edit.add_constant(
            f"{name}{QUANTIZED_SUFFIX}", quantize_weight(weight, scales, axis, self.number_format)
        )
        return self.edit.add_node(
            "DequantizeLinear",
            [quantized, *self._add_parameters(name, scales)],
            f"{name}_DequantizeLinear_Output",
            axis,
        )

    def _add_parameters(self, name: str, scales: NDArray[np.float32]) -> tuple[str, str]:
        zeros = np.zeros(scales.shape, self.number_format.element)
        return (
            self.edit.add_constant(f"{name}{_SCALE_SUFFIX}", scales),
            self.edit.add_constant(f"{name}_zero_point", zeros),
        )

    def _find_activation_scale(self, name: str) -> NDArray[np.float32]:
        if name in self.scales:
            return np.array(self.scales[name], np.float32)
        if name not in self.ranges.tensors:
            raise ToolFailure(
                f"Tensor {name} has no calibrated range.", "Calibrate again with --calib DIR."
            )
        return self._find_scales(np.array(self.ranges.largest(name), np.float32), name)

    def _find_scales(self, largest: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        if not np.isfinite(largest).all():
            raise ToolFailure(
                f"The range of tensor {name} is not finite.",
                "Check the weights and calibrate again.",
            )
        return find_scales(largest, self.number_format)
