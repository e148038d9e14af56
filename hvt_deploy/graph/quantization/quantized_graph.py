"""The FP16 and INT8 graphs of an FP32 file: every pass that one of them needs, in order."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import GraphKey
from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.quantization.cpu_int8 import make_cpu_variant
from hvt_deploy.graph.quantization.external_weights import Outline, make_outline
from hvt_deploy.graph.quantization.fp16 import QDQ_OPSET, KeptNode, to_fp16
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.quantization.scale_raising import raise_scales
from hvt_deploy.graph.storage import load_onnx


def make_quantized_graph(
    fp32: Path,
    key: GraphKey,
    quantization: QuantizationConfig,
    ranges: Ranges | None,
    int8: Int8Calibration | None,
) -> tuple[ModelProto, tuple[KeptNode, ...]]:
    """The graph of artifact `key` from the FP32 file, and the nodes that FP16 left in FP32.

    Raises BadInput for INT8 without `int8`.
    """
    if key == "fp16":
        outlined = make_outline(load_onnx(fp32, weights=False), fp32.parent, ())
        half = to_fp16(outlined.model, ranges)
        return outlined.fill(half.model, outlined.model), half.kept_fp32
    if int8 is None:
        raise BadInput(
            "INT8 needs ranges measured on real images.", "Give training images with --calib DIR."
        )
    outlined = _outline(fp32, quantization, int8)
    quantized = _quantized(outlined.model, key, quantization, int8.ranges)
    if key != "int8":
        return outlined.fill(quantized, quantized), ()
    half = to_fp16(raise_scales(quantized, int8.ranges), int8.ranges)
    return outlined.fill(half.model, quantized), half.kept_fp32


def _outline(fp32: Path, quantization: QuantizationConfig, int8: Int8Calibration) -> Outline:
    """The outline of the prepared graph; the graph itself is not kept in memory."""
    prepared = int8.prepare(load_onnx(fp32, weights=False))
    chosen = select_nodes(prepared, quantization.int8_roles, quantization.excluded)
    return make_outline(prepared, fp32.parent, chosen)


def _quantized(
    model: ModelProto, key: GraphKey, quantization: QuantizationConfig, ranges: Ranges
) -> ModelProto:
    """The Q/DQ graph of `key`, with FP32 in the rest."""
    roles, excluded = quantization.int8_roles, quantization.excluded
    if key == "int8-cpu":
        return make_cpu_variant(quantize_int8(model, ranges, roles, excluded), ranges)
    opset = read_opset(model) if key == "int8-fp32" else max(QDQ_OPSET, read_opset(model))
    return quantize_int8(convert_opset(model, opset), ranges, roles, excluded)
