"""The FP16 and INT8 graphs of an FP32 file: every pass that one of them needs, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import GraphKey, GraphRecipe
from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.tensors import LogitsNK
from hvt_deploy.core.types import Int8Target
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.quantization.bias_separation import (
    FP16_BIASES,
    INT32_BIASES,
    separate_biases,
)
from hvt_deploy.graph.quantization.cpu_int8 import make_cpu_variant
from hvt_deploy.graph.quantization.engine_int8 import (
    EnginePlacement,
    find_engine_placement,
    quantize_for_engine,
)
from hvt_deploy.graph.quantization.fp16 import QDQ_OPSET, KeptNode, to_fp16
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.judged_variant import InferGraph, make_judged_variant
from hvt_deploy.graph.quantization.outline import Outline, make_outline
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.quantization.scale_raising import raise_scales
from hvt_deploy.graph.storage import EXTERNAL_ABOVE_BYTES, load_onnx
from hvt_deploy.graph.weights_in_file import load_without_weights


@dataclass(frozen=True)
class QuantizedGraph:
    """An FP16 or INT8 graph."""

    model: ModelProto
    """The graph, with its weights."""
    kept_fp32: tuple[KeptNode, ...] = ()
    """The nodes that FP16, or the CPU variant, left in FP32."""
    logits_NK: LogitsNK | None = None  # noqa: N815
    """Of a CPU variant that was judged."""
    numerics_NK: LogitsNK | None = None  # noqa: N815
    """Those of the signed graph that it was made from."""


@dataclass(frozen=True)
class Judge:
    """Runs graphs in memory, to compare them with FP32."""

    reference_NK: LogitsNK  # noqa: N815
    """Logits of FP32."""
    infer: InferGraph
    """Logits of another graph for the same images."""


def make_quantized_graph(
    fp32: Path,
    key: GraphKey,
    recipe: GraphRecipe,
    ranges: Ranges | None,
    int8: Int8Calibration | None,
    judge: Judge | None = None,
) -> QuantizedGraph:
    """The graph of artifact `key` from the FP32 file.

    With a `judge` the CPU variant is judged, unless it is so large that its own weights would be
    external: it is in memory several times. Raises BadInput for INT8 without `int8`.
    """
    if key == "fp16":
        outlined = make_outline(load_without_weights(fp32), fp32.parent, ())
        half = to_fp16(outlined.model, ranges)
        return QuantizedGraph(outlined.fill(half.model), half.kept_fp32)
    if int8 is None or recipe.quantization is None:
        raise BadInput(
            "INT8 needs ranges measured on real images.", "Give training images with --calib DIR."
        )
    placement, outlined = _place(fp32, recipe.quantization, recipe.target, int8)
    model, int8_ranges = outlined.model, int8.ranges
    if key == "int8-cpu":
        signed = quantize_int8(model, int8_ranges, placement.roles, placement.excluded)
        signed = separate_biases(signed, int8_ranges, INT32_BIASES)
        if judge and outlined.int8_bytes <= EXTERNAL_ABOVE_BYTES:
            made = make_judged_variant(
                signed, int8_ranges, judge.reference_NK, judge.infer, outlined.fill
            )
            return QuantizedGraph(made.model, made.kept_fp32, made.logits_NK, made.numerics_NK)
        return QuantizedGraph(outlined.fill(make_cpu_variant(signed, int8_ranges)))
    if key == "int8-fp32":
        quantized = quantize_for_engine(model, int8_ranges, placement)
        separated = separate_biases(quantized, int8_ranges, INT32_BIASES)
        return QuantizedGraph(outlined.fill(separated))
    model = convert_opset(model, max(QDQ_OPSET, read_opset(model)))
    quantized = quantize_for_engine(model, int8_ranges, placement)
    raised = raise_scales(quantized, int8_ranges)
    half = to_fp16(separate_biases(raised, int8_ranges, FP16_BIASES), int8_ranges)
    return QuantizedGraph(outlined.fill(half.model), half.kept_fp32)


def _place(
    fp32: Path,
    quantization: QuantizationConfig,
    target: Int8Target | None,
    int8: Int8Calibration,
) -> tuple[EnginePlacement, Outline]:
    """Where Q/DQ go, and the outline of the prepared graph, which is not kept in memory itself."""
    model = load_onnx(fp32, weights=False) if int8.changes_weights else load_without_weights(fp32)
    placement = (
        find_engine_placement(model, quantization, target, attention=int8.attention)
        if target
        else EnginePlacement(quantization.int8_roles.cpu, excluded=quantization.excluded)
    )
    chosen = select_nodes(model, placement.roles, placement.excluded)
    return placement, make_outline(int8.prepare(model, chosen), fp32.parent, chosen)
