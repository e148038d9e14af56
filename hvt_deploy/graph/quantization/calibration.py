"""INT8 calibration: clipping thresholds, SmoothQuant and bias correction, found on images.

Ranges and histograms are of all images. Each of these passes is judged on images that it was not
chosen on, and kept only if the logits come closer to FP32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.tensors import ImagesNCHW, sqnr_db
from hvt_deploy.core.types import CALIBRATORS, Calibrator, CalibratorChoice, Int8Target
from hvt_deploy.core.ui import Ui
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.calibrators import choose_threshold
from hvt_deploy.graph.quantization.engine_int8 import (
    EnginePlacement,
    find_engine_placement,
    find_int8_attention,
    quantize_for_engine,
)
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.logits_judge import LogitsJudge, judge_effect, run_logits
from hvt_deploy.graph.quantization.product_error import ProductError, measure_products
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges, collect_histograms
from hvt_deploy.graph.quantization.smooth_quant import choose_smoothing, smooth, smooth_ranges
from hvt_deploy.graph.storage import load_onnx

# Thresholds overfit the images they were found on more than the other passes: a small gain here was
# a loss of 4 dB on other photographs (faster_vit_0_224, random weights;
# `benchmarks/quantization.py`).
_CLIPPING_WORTH_DB = 0.5
# What 8-bit attention may cost: it saves a kernel per block and a good part of the traffic.
_ATTENTION_COSTS_DB = 1.5
_LARGE_BYTES = 2**30


@dataclass(frozen=True)
class CalibrationImages:
    """Batches (N, 3, H, W) of the images that ranges were measured on."""

    all: Iterable[ImagesNCHW]
    """All of them, read once."""
    some: Sequence[ImagesNCHW]
    """A part to choose parameters on."""
    others: Sequence[ImagesNCHW]
    """Another part, to judge the choices on."""


@dataclass(frozen=True)
class Int8Settings:
    """The choices of a calibration."""

    quantization: QuantizationConfig
    """The recipe. What it excludes is calibrated all the same."""
    target: Int8Target | None
    """The library that attention is judged for; None: it is not judged."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that get Q/DQ for any library or the CPU."""
        roles = self.quantization.int8_roles
        return tuple(dict.fromkeys((*roles.rtx, *roles.tensorrt, *roles.cpu)))


@dataclass(frozen=True)
class _Stage:
    """The calibration after some of its passes."""

    model: onnx.ModelProto
    """The FP32 graph that gets Q/DQ."""
    found: Int8Calibration
    """The passes so far."""
    db: float
    """SQNR of the logits in INT8."""


def calibrate_int8(
    fp32: Path,
    ranges: Ranges,
    settings: Int8Settings,
    images: CalibrationImages,
    threads: int,
    ui: Ui,
) -> Int8Calibration:
    """Calibrate INT8 for the ONNX file `fp32` with its measured `ranges`.

    A graph that is too large for several copies in memory gets thresholds from histograms only:
    `auto` is `max` there, and no recovery pass runs. Raises BadInput if no node has one of the
    roles.
    """
    recipe = settings.quantization
    plain = Int8Calibration(Ranges(ranges.tensors), attention=recipe.int8_attention == "always")
    if recipe.calibrator == "max" and not (recipe.recovery or settings.target):
        return plain
    model = load_onnx(fp32, weights=False)
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    if external or model.ByteSize() > _LARGE_BYTES:
        return _calibrate_by_histograms(model, fp32.parent, plain, settings, images, threads, ui)
    with ui.progress("Recovering INT8 accuracy") as progress:
        reference_NK = run_logits(model, images.others, threads)
        judge = LogitsJudge(settings.roles, images.others, threads, reference_NK)
        stage = _Stage(model, plain, judge.measure_db(model, ranges))
        progress(1, 5)
        if "smooth-quant" in recipe.recovery:
            stage = _try_smoothing(stage, ranges, judge)
        progress(2, 5)
        if recipe.calibrator != "max" or "bias-correction" in recipe.recovery:
            stage = _try_local_passes(stage, settings, images, judge)
        progress(4, 5)
        if settings.target:
            engine = find_engine_placement(stage.model, recipe, settings.target)
            stage = _try_attention(stage, ranges, replace(engine, excluded=()), judge)
        progress(5, 5)
    return stage.found


def _try_smoothing(stage: _Stage, measured: Ranges, judge: LogitsJudge) -> _Stage:
    scales = choose_smoothing(stage.model, measured, select_nodes(stage.model, judge.roles))
    if not scales:
        return stage
    smoothed = smooth(stage.model, scales)
    ranges = smooth_ranges(stage.model, measured, scales)
    effect = judge_effect("smooth-quant", stage.db, judge.measure_db(smoothed, ranges))
    found = replace(stage.found, effects=(*stage.found.effects, effect))
    if not effect.kept:
        return replace(stage, found=found)
    return _Stage(smoothed, replace(found, ranges=ranges, smoothing=scales), effect.after_db)


def _try_local_passes(
    stage: _Stage, settings: Int8Settings, images: CalibrationImages, judge: LogitsJudge
) -> _Stage:
    """Clipping and bias correction, which follow from the local errors of the products."""
    recipe = settings.quantization
    thresholds = _choose_thresholds(stage, settings, images, judge.threads)
    errors = measure_products(
        stage.model,
        quantize_int8(stage.model, stage.found.ranges, settings.roles),
        {c: stage.found.ranges.clip(found) for c, found in thresholds.items()},
        images.some,
        judge.threads,
    )
    if recipe.calibrator != "max":
        stage = _try_clipping(stage, recipe.calibrator, thresholds, errors, judge)
    if "bias-correction" in recipe.recovery:
        stage = _try_bias_correction(stage, errors, judge)
    return stage


def _choose_thresholds(
    stage: _Stage, settings: Int8Settings, images: CalibrationImages, threads: int
) -> dict[Calibrator, dict[str, float]]:
    """The thresholds of each calibrator that is to be tried, by the quantized tensor."""
    ranges, calibrator = stage.found.ranges, settings.quantization.calibrator
    readers = _readers_of_quantized(stage.model, settings.roles)
    if calibrator == "max":
        return {"max": {name: ranges.largest(name) for name in readers}}
    histograms = collect_histograms(stage.model, ranges, list(readers), images.all, threads)
    return {
        c: {
            name: choose_threshold(histogram, ranges.largest(name), c)
            for name, histogram in histograms.items()
        }
        for c in (CALIBRATORS if calibrator == "auto" else (calibrator,))
    }


def _try_clipping(
    stage: _Stage,
    calibrator: CalibratorChoice,
    thresholds: Mapping[Calibrator, Mapping[str, float]],
    errors: Mapping[Calibrator, Mapping[str, ProductError]],
    judge: LogitsJudge,
) -> _Stage:
    """Clip at the thresholds of one calibrator, or for each tensor of the one with the smallest
    local error.
    """
    clipping: dict[str, Calibrator] = {
        tensor: min(errors, key=lambda c: sum(errors[c][name].relative_noise for name in names))
        for tensor, names in _readers_of_quantized(stage.model, judge.roles).items()
    }
    ranges = stage.found.ranges.clip({name: thresholds[c][name] for name, c in clipping.items()})
    after_db = judge.measure_db(stage.model, ranges)
    effect = judge_effect(f"calibrator {calibrator}", stage.db, after_db, _CLIPPING_WORTH_DB)
    kept = effect.kept or calibrator != "auto"  # a calibrator that was named is always used
    found = replace(
        stage.found,
        sqnr_by_role=_sqnr_by_role(stage.model, errors),
        effects=(*stage.found.effects, replace(effect, kept=kept)),
    )
    if not kept:
        return replace(stage, found=found)
    return _Stage(stage.model, replace(found, ranges=ranges, clipping=clipping), after_db)


def _try_bias_correction(
    stage: _Stage, errors: Mapping[Calibrator, Mapping[str, ProductError]], judge: LogitsJudge
) -> _Stage:
    """Subtract the mean errors that the products have with the ranges of `stage`."""
    shifts = {
        name: errors[stage.found.clipping.get(tensor, "max")][name].shift
        for tensor, names in _readers_of_quantized(stage.model, judge.roles).items()
        for name in names
    }
    corrected = correct_biases(stage.model, shifts)
    after_db = judge.measure_db(corrected, stage.found.ranges)
    effect = judge_effect("bias-correction", stage.db, after_db)
    effects = (*stage.found.effects, effect)
    if not effect.kept:
        return replace(stage, found=replace(stage.found, effects=effects))
    return _Stage(corrected, replace(stage.found, shifts=shifts, effects=effects), after_db)


def _try_attention(
    stage: _Stage, measured: Ranges, engine: EnginePlacement, judge: LogitsJudge
) -> _Stage:
    """Judged on the graph of the engine, whose Linears may write INT8."""
    blocks = find_int8_attention(stage.model)
    if not blocks:
        return stage
    ranges = replace(stage.found.ranges, channels=measured.channels)
    before_db, after_db = (
        judge.compare(quantize_for_engine(stage.model, ranges, replace(engine, attention=names)))
        for names in ((), blocks)
    )
    effect = judge_effect("INT8 attention", before_db, after_db, -_ATTENTION_COSTS_DB)
    effects = (*stage.found.effects, effect)
    return replace(stage, found=replace(stage.found, attention=effect.kept, effects=effects))


def _calibrate_by_histograms(
    model: onnx.ModelProto,
    folder: Path,
    plain: Int8Calibration,
    settings: Int8Settings,
    images: CalibrationImages,
    threads: int,
    ui: Ui,
) -> Int8Calibration:
    calibrator, ranges = settings.quantization.calibrator, plain.ranges
    if calibrator in ("auto", "max"):
        return plain
    with ui.progress(f"Calibrating: {calibrator}"):
        readers = _readers_of_quantized(model, settings.roles)
        histograms = collect_histograms(model, ranges, list(readers), images.all, threads, folder)
    found = {
        name: choose_threshold(h, ranges.largest(name), calibrator)
        for name, h in histograms.items()
    }
    return replace(plain, ranges=ranges.clip(found), clipping=dict.fromkeys(found, calibrator))


def _readers_of_quantized(model: onnx.ModelProto, roles: tuple[str, ...]) -> dict[str, list[str]]:
    """The names of the nodes to quantize, by the activation that they read."""
    nodes = set(select_nodes(model, roles))
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name in nodes:
            readers.setdefault(node.input[0], []).append(node.name)
    return readers


def _sqnr_by_role(
    model: onnx.ModelProto, errors: Mapping[Calibrator, Mapping[str, ProductError]]
) -> dict[str, dict[str, float]]:
    """The local SQNR in dB by role and calibrator, from the mean relative noise of its nodes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    roles = {node.name: find_role(node, constants) for node in model.graph.node}
    by_role: dict[str, dict[str, float]] = {}
    for role in dict.fromkeys(roles[name] for error in errors.values() for name in error):
        by_role[role] = {}
        for calibrator, found in errors.items():
            noises = [error.relative_noise for name, error in found.items() if roles[name] == role]
            by_role[role][calibrator] = sqnr_db(len(noises), sum(noises))
    return by_role
