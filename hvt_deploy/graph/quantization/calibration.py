"""INT8 calibration: clipping thresholds, SmoothQuant and bias correction, found on images.

Each of these is judged on images that it was not found on, and kept only if the logits come closer
to FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, signal_and_noise, sqnr_db
from hvt_deploy.core.types import CALIBRATORS, Calibrator, CalibratorChoice, Recovery
from hvt_deploy.core.ui import Ui
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.calibrators import choose_threshold
from hvt_deploy.graph.quantization.int8_calibration import Effect, Int8Calibration
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.product_error import ProductError, measure_products
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import (
    Ranges,
    collect_histograms,
    collect_ranges,
)
from hvt_deploy.graph.quantization.smooth_quant import measure_smoothing, smooth
from hvt_deploy.graph.storage import load_onnx, save_onnx

Batches: TypeAlias = Callable[[], Iterable[ImagesNCHW]]
# A pass that gains less than this is not worth a change of the graph.
_WORTH_DB = 0.1
# Thresholds overfit the images they were found on more than the other passes: a small gain here was
# a loss of 4 dB on other photographs (faster_vit_0_224, random weights;
# `benchmarks/quantization.py`).
_CLIPPING_WORTH_DB = 0.5
_LARGE_BYTES = 2**30


@dataclass(frozen=True)
class CalibrationImages:
    """Functions that read batches of images (N, 3, H, W) anew at each call."""

    all: Batches
    """All images, for ranges and histograms."""
    some: Batches
    """A part of the images, to choose parameters on."""
    others: Batches
    """Other images, to judge the choices on."""


@dataclass(frozen=True)
class Int8Settings:
    """The choices of a calibration."""

    roles: tuple[str, ...]
    """The roles that get Q/DQ."""
    calibrator: CalibratorChoice
    """The calibrator of all tensors, or `auto` for the best one of each tensor."""
    recovery: tuple[Recovery, ...]
    """The recovery passes to try."""


@dataclass(frozen=True)
class _Judge:
    """Measures the logits of INT8 graphs against those of FP32."""

    roles: tuple[str, ...]
    """Roles of the nodes that get Q/DQ."""
    images: Batches
    """Images (N, 3, H, W) in batches."""
    threads: int
    """CPU threads of ONNX Runtime."""
    reference_NK: LogitsNK  # noqa: N815
    """Logits of the FP32 graph for these images."""

    def measure_db(self, model: onnx.ModelProto, ranges: Ranges) -> float:
        """The SQNR of the logits of `model` in INT8."""
        quantized = quantize_int8(model, ranges, self.roles)
        found_NK = _run_logits(quantized, self.images, Path(), self.threads)
        return sqnr_db(*signal_and_noise(self.reference_NK, found_NK))


def calibrate_int8(
    fp32: Path,
    ranges: Ranges,
    settings: Int8Settings,
    images: CalibrationImages,
    threads: int,
    scratch: Path,
    ui: Ui,
) -> Int8Calibration:
    """Calibrate INT8 for the ONNX file `fp32` with its measured `ranges`.

    `scratch` is a folder for intermediate graphs. A graph that is too large for several copies in
    memory gets thresholds from histograms only: `auto` is `max` there, and no recovery pass runs.
    Raises BadInput if no node has one of the roles.
    """
    model = load_onnx(fp32, weights=False)
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    if external or model.ByteSize() > _LARGE_BYTES:
        return _calibrate_by_histograms(fp32, ranges, settings, images, threads, ui)
    with ui.progress("Recovering INT8 accuracy") as progress:
        reference_NK = _run_logits(model, images.others, fp32.parent, threads)
        judge = _Judge(settings.roles, images.others, threads, reference_NK)
        found = Int8Calibration(ranges)
        progress(1, 5)
        if "smooth-quant" in settings.recovery:
            found = _try_smoothing(fp32, found, images, judge, scratch)
        progress(2, 5)
        prepared = found.prepare(model)
        path = scratch / "prepared.onnx"
        save_onnx(prepared, path)
        found = _try_clipping(path, found, settings.calibrator, images, judge)
        progress(4, 5)
        if "bias-correction" in settings.recovery:
            found = _try_bias_correction(path, found, images, judge)
        progress(5, 5)
    return found


def _run_logits(model: onnx.ModelProto, images: Batches, folder: Path, threads: int) -> LogitsNK:
    run, output = open_graph(model, folder, threads), model.graph.output[0].name
    return np.concatenate([run([output], images_NCHW)[0] for images_NCHW in images()])


def _judge_effect(
    name: str, before_db: float, after_db: float, worth_db: float = _WORTH_DB
) -> Effect:
    return Effect(name, before_db, after_db, kept=after_db > before_db + worth_db)


def _try_smoothing(
    fp32: Path, found: Int8Calibration, images: CalibrationImages, judge: _Judge, scratch: Path
) -> Int8Calibration:
    model = load_onnx(fp32)
    scales = measure_smoothing(fp32, select_nodes(model, judge.roles), images.some(), judge.threads)
    if not scales:
        return found
    smoothed, path = smooth(model, scales), scratch / "smoothed.onnx"
    save_onnx(smoothed, path)
    ranges = collect_ranges(path, images.all(), judge.threads)
    effect = _judge_effect(
        "smooth-quant", judge.measure_db(model, found.ranges), judge.measure_db(smoothed, ranges)
    )
    if not effect.kept:
        return replace(found, effects=(*found.effects, effect))
    return replace(found, ranges=ranges, smoothing=scales, effects=(*found.effects, effect))


def _try_clipping(
    path: Path,
    found: Int8Calibration,
    calibrator: CalibratorChoice,
    images: CalibrationImages,
    judge: _Judge,
) -> Int8Calibration:
    """Clip at the thresholds of one calibrator, or for each tensor of the one with the smallest
    local error.
    """
    if calibrator == "max":
        return found
    model = load_onnx(path)
    readers = _readers_of_quantized(model, judge.roles)
    histograms = collect_histograms(path, found.ranges, list(readers), images.all(), judge.threads)
    tried: tuple[Calibrator, ...] = CALIBRATORS if calibrator == "auto" else (calibrator,)
    thresholds = {
        c: {
            name: choose_threshold(histogram, found.ranges.largest(name), c)
            for name, histogram in histograms.items()
        }
        for c in tried
    }
    errors: dict[Calibrator, Mapping[str, ProductError]] = {
        c: measure_products(
            path,
            quantize_int8(model, found.ranges.clip(thresholds[c]), judge.roles),
            images.some(),
            judge.threads,
        )
        for c in tried
    }
    clipping: dict[str, Calibrator] = {
        tensor: min(tried, key=lambda c: sum(errors[c][name].relative_noise for name in names))
        for tensor, names in readers.items()
    }
    ranges = found.ranges.clip({tensor: thresholds[c][tensor] for tensor, c in clipping.items()})
    before_db, after_db = judge.measure_db(model, found.ranges), judge.measure_db(model, ranges)
    effect = _judge_effect(f"calibrator {calibrator}", before_db, after_db, _CLIPPING_WORTH_DB)
    kept = effect.kept or calibrator != "auto"  # a calibrator that was named is always used
    by_role = _sqnr_by_role(model, errors)
    effects = (*found.effects, replace(effect, kept=kept))
    if not kept:
        return replace(found, sqnr_by_role=by_role, effects=effects)
    return replace(found, ranges=ranges, clipping=clipping, sqnr_by_role=by_role, effects=effects)


def _try_bias_correction(
    path: Path, found: Int8Calibration, images: CalibrationImages, judge: _Judge
) -> Int8Calibration:
    model = load_onnx(path)
    quantized = quantize_int8(model, found.ranges, judge.roles)
    errors = measure_products(path, quantized, images.some(), judge.threads)
    shifts = {name: error.shift for name, error in errors.items()}
    before_db = judge.measure_db(model, found.ranges)
    effect = _judge_effect(
        "bias-correction", before_db, judge.measure_db(correct_biases(model, shifts), found.ranges)
    )
    return replace(found, shifts=shifts if effect.kept else {}, effects=(*found.effects, effect))


def _calibrate_by_histograms(
    fp32: Path,
    ranges: Ranges,
    settings: Int8Settings,
    images: CalibrationImages,
    threads: int,
    ui: Ui,
) -> Int8Calibration:
    calibrator = settings.calibrator
    if calibrator in ("auto", "max"):
        return Int8Calibration(ranges)
    with ui.progress(f"Calibrating: {calibrator}"):
        readers = _readers_of_quantized(load_onnx(fp32, weights=False), settings.roles)
        histograms = collect_histograms(fp32, ranges, list(readers), images.all(), threads)
    found = {
        name: choose_threshold(h, ranges.largest(name), calibrator)
        for name, h in histograms.items()
    }
    return Int8Calibration(ranges.clip(found), dict.fromkeys(found, calibrator))


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
