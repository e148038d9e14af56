"""The CPU variant of an INT8 graph: the same recipe and ranges in the form that ONNX Runtime's CPU
kernels are fast on.

An engine wants signed activations, float biases and no Q/DQ on outputs. ONNX Runtime's kernels
multiply unsigned activations with signed weights and add int32 biases, and its integer convolution
needs a quantized output as well. Each pass is a pure function; `benchmarks/cpu_variant.py` measures
what each does to logits and latency.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.edit import GraphEdit, replace_input
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.quantization.qdq import INT8
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.queries import map_producers

_TO_UNSIGNED, _MOST = (
    128,
    255,
)  # what takes a signed level to an unsigned one; the largest of them
_GELU_OPSET = 20
_ROUNDING = 1e-6
_ALL = (-math.inf, math.inf)


def make_cpu_variant(
    signed: onnx.ModelProto, ranges: Ranges, left_out: Collection[str] = ()
) -> onnx.ModelProto:
    """The CPU variant of `signed`, a graph by `quantize_int8`: the passes below in turn.

    Conv and Gemm nodes that are `left_out` (names) compute in floating point, as in `signed`.
    """
    unsigned = use_all_levels(to_unsigned(signed))
    # A bias is in units of the scales, which are chosen before it.
    outputs = quantize_outputs(unsigned, ranges, left_out)
    return gather_gelu(quantize_biases(outputs, left_out))


def to_unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Activations from INT8 with zero point z to UINT8 with z + 128: exactly the same numbers."""
    edit = GraphEdit(model)
    for node in edit.nodes("QuantizeLinear"):
        zero_point = edit.constant(node.input[2]) if len(node.input) > 2 else None
        if zero_point is not None and zero_point.dtype == np.int8:
            _set_zero_point(edit, node, int(zero_point) + _TO_UNSIGNED)
    return edit.done()


def _set_zero_point(edit: GraphEdit, quantize: onnx.NodeProto, zero_point: int) -> None:
    """Let `quantize` and the nodes that dequantize its output have this UINT8 zero point."""
    name = edit.add_constant(f"{quantize.output[0]}_zero_point", np.array(zero_point, np.uint8))
    edit.forget_type(quantize.output[0])
    for node in (quantize, *edit.readers(quantize.output[0])):
        node.input[2] = name


def use_all_levels(model: onnx.ModelProto) -> onnx.ModelProto:
    """UINT8 behind a Relu, or a Clip at 0, with zero point 0 and 127/255 of the scale: it clips
    exactly where the engine does, with twice as many levels below.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for node in edit.nodes("QuantizeLinear"):
        source, scale = producers.get(node.input[0]), edit.constant(node.input[1])
        if source is not None and scale is not None and _clamps_at_zero(edit, source):
            finer = (scale * (INT8.largest / _MOST)).astype(np.float32)
            name = edit.add_constant(f"{node.output[0]}_scale", finer)
            for reader in (node, *edit.readers(node.output[0])):
                reader.input[1] = name
            _set_zero_point(edit, node, 0)
    return edit.done()


def _find_limits(edit: GraphEdit, node: onnx.NodeProto) -> tuple[float, float]:
    """The inputs between which an activation's output still changes."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "HardSwish":
        return -3.0, math.inf
    if node.op_type == "Clip":
        ends = [edit.constant(name) for name in (*node.input[1:], "", "")[:2]]
        low, high = (x if end is None else end.item() for end, x in zip(ends, _ALL, strict=True))
        return low, high
    return _ALL


def _clamps_at_zero(edit: GraphEdit, node: onnx.NodeProto) -> bool:
    return node.op_type in ("Relu", "Clip") and _find_limits(edit, node)[0] == 0


def _saturates_within(edit: GraphEdit, quantize: onnx.NodeProto, high: float) -> bool:
    """Whether the levels of a UINT8 QuantizeLinear lie between 0 and `high`."""
    scale, zero_point = (edit.constant(name) for name in quantize.input[1:3])
    if scale is None or zero_point is None or zero_point.dtype != np.uint8 or zero_point:
        return False
    return _MOST * float(scale) <= high * (1 + _ROUNDING)


def quantize_biases(model: onnx.ModelProto, left_out: Collection[str] = ()) -> onnx.ModelProto:
    """Float biases of quantized Conv and Gemm nodes, but those `left_out`, to int32 with scale
    activation × weight.

    A bias moves by at most half its scale, half a unit of the integer sum that it is added to. One
    that int32 cannot hold stays float.
    """
    edit = GraphEdit(model)
    producers = edit.producers()
    for node in edit.nodes("Conv", "Gemm"):
        is_wanted = len(node.input) > 2 and node.name not in left_out
        bias = edit.constant(node.input[2]) if is_wanted else None
        scales = [
            edit.constant(producers[name].input[1])
            for name in node.input[:2]
            if _follows_dq(name, producers)
        ]
        if bias is None or len(scales) != 2 or scales[0] is None or scales[1] is None:
            continue
        scale = (scales[0] * scales[1]).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            levels = np.rint(bias.astype(np.float64) / scale)
        if not (np.abs(levels) <= np.iinfo(np.int32).max).all():
            continue
        name = f"{node.output[0]}_bias"
        inputs = [
            edit.add_constant(f"{name}_quantized", levels.astype(np.int32)),
            edit.add_constant(f"{name}_scale", scale),
        ]
        node.input[2] = edit.add_node(
            "DequantizeLinear", inputs, name, axis=0 if scale.ndim else None
        )
    return edit.done()


def _follows_dq(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    return name in producers and producers[name].op_type == "DequantizeLinear"


def quantize_outputs(
    model: onnx.ModelProto, ranges: Ranges, left_out: Collection[str] = ()
) -> onnx.ModelProto:
    """UINT8 Q/DQ on the outputs of quantized convolutions, but those `left_out`: without it their
    kernel is the float one.

    No engine reads these Q/DQ: all 256 levels lie between the smallest and the largest calibrated
    value that the activation behind lets through. A Relu or a Clip at 0 is then the saturation of
    the kernel. Linears have an integer kernel that gives float; quantizing their outputs was slower
    and less accurate.
    """
    edit = GraphEdit(model)
    for node in find_quantized(model, "Conv"):
        if node.name not in left_out:
            _quantize_output(edit, node.output[0], ranges)
    return edit.done()


def find_quantized(model: onnx.ModelProto, *op_types: str) -> list[onnx.NodeProto]:
    """The nodes of these operators whose two factors are dequantized."""
    producers = map_producers(model.graph)
    return [
        node
        for node in model.graph.node
        if node.op_type in op_types and all(_follows_dq(name, producers) for name in node.input[:2])
    ]


def _quantize_output(edit: GraphEdit, output: str, ranges: Ranges) -> None:
    """Q/DQ on the output of a convolution, unless it is returned, or only quantized anyhow."""
    readers = edit.readers(output)
    if edit.is_output(output) or _only(readers, "QuantizeLinear"):
        return
    limits = _ALL
    if len(readers) == 1:
        limits, activated = _find_limits(edit, readers[0]), readers[0].output[0]
        if _clamps_at_zero(edit, readers[0]) and not edit.is_output(activated):
            quantize = _only(edit.readers(activated), "QuantizeLinear")
            if quantize and _saturates_within(edit, quantize, limits[1]):
                quantize.input[0] = output
                return
    ends = (0.0, *ranges.tensors.get(output, ()))
    low, high = (min(max(end, limits[0]), limits[1]) for end in (min(ends), max(ends)))
    if low == high:
        return
    scale = (high - low) / _MOST
    parameters = (
        edit.add_constant(f"{output}_output_scale", np.array(scale, np.float32)),
        edit.add_constant(f"{output}_output_zero_point", np.array(round(-low / scale), np.uint8)),
    )
    values = edit.add_qdq(output, *parameters, f"{output}_output_quantized", f"{output}_output")
    for reader in readers:
        replace_input(reader, output, values)


def _only(nodes: list[onnx.NodeProto], op_type: str) -> onnx.NodeProto | None:
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == op_type else None


def gather_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """GELU as one operator of opset 20 instead of five nodes, so that ONNX Runtime runs one kernel.

    It gathers them by itself in some orders of the product, but never behind a DequantizeLinear, of
    which it makes a copy for every reader.
    """
    edit = GraphEdit(model)
    found = False
    for erf in edit.nodes("Erf"):
        ends = _gelu_ends(edit, erf)
        if ends is not None:
            source, last = ends
            output, last.output[0] = last.output[0], f"{last.output[0]}_of_five"
            edit.add_node("Gelu", [source], output)
            found = True
    try:
        return convert_opset(edit.done(), max(_GELU_OPSET, read_opset(model))) if found else model
    except ToolFailure:  # another operator of the graph means something else in opset 20
        return model


def _gelu_ends(edit: GraphEdit, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
    """The name of x and the last node of x · ½ · (1 + erf(x / √2)), whichever of x and ½ is
    multiplied first.
    """
    inner = edit.producers().get(erf.input[0])
    plus = _only(edit.readers(erf.output[0]), "Add")
    if inner is None or inner.op_type != "Div" or plus is None:
        return None
    source = inner.input[0]
    first = _only(edit.readers(plus.output[0]), "Mul")
    last = _only(edit.readers(first.output[0]), "Mul") if first else None
    if first is None or last is None:
        return None
    factors = {*first.input, *last.input} - {plus.output[0], first.output[0], source}
    values = [
        edit.constant(name) for name in (inner.input[1], *{*plus.input} - {erf.output[0]}, *factors)
    ]
    is_gelu = (
        (source in first.input) != (source in last.input)
        and len(values) == 3
        and all(
            value is not None
            and value.size == 1
            and math.isclose(value.item(), expected, rel_tol=1e-6)
            for value, expected in zip(values, (math.sqrt(2), 1.0, 0.5), strict=True)
        )
    )
    return (source, last) if is_gelu else None
