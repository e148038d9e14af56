"""What INT8 takes from images: where it clips, which outliers move into weights, which biases it
corrects.

Each of these is measured on images it was not found on, and kept only where the logits come closer
to FP32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.tensors import ImagesNCHW, sqnr_db
from hvt_deploy.core.types import CALIBRATORS, Calibrator, CalibratorChoice, Recovery
from hvt_deploy.core.ui import Ui
from hvt_deploy.graph.analysis.roles import role_of
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.calibrators import choose_threshold
from hvt_deploy.graph.quantization.product_error import ProductError, measure_products
from hvt_deploy.graph.quantization.qdq import nodes_to_quantize, quantize_int8
from hvt_deploy.graph.quantization.ranges import (
    Ranges,
    collect_histograms,
    collect_ranges,
    open_graph,
)
from hvt_deploy.graph.quantization.smooth_quant import measure_smoothing, smooth
from hvt_deploy.graph.storage import load_onnx, save_onnx

Batches: TypeAlias = Callable[[], Iterable[ImagesNCHW]]
# A pass that brings less than this is not worth a difference between the graphs.
_WORTH_DB = 0.1
# Thresholds fit the images they were found on more closely than the other passes do: a small gain
# there was a loss of 4 dB on other photographs (faster_vit_0_224, random weights;
# `benchmarks/quantization.py`).
_CLIPPING_WORTH_DB = 0.5
_LARGE_BYTES = 2**30
_FACTS, _VECTORS = "int8.json", "vectors.npz"


@dataclass(frozen=True)
class CalibrationImages:
    """Ways to read images (N, 3, H, W): all of them, some to find things on, and others to judge
    those by.
    """

    all: Batches
    some: Batches
    others: Batches


@dataclass(frozen=True)
class Effect:
    """What a pass did to the SQNR of the logits, in dB against FP32, and whether it was kept."""

    name: str
    before_db: float
    after_db: float
    kept: bool


def describe(effect: Effect) -> str:
    """`46.5 -> 47.0 dB, kept`."""
    return f"{effect.before_db:.1f} -> {effect.after_db:.1f} dB, {'kept' if effect.kept else 'left out'}"


@dataclass(frozen=True)
class Int8Calibration:
    """`ranges` are those of the prepared graph, clipped at the thresholds; `clipping` says which
    calibrator gave each.

    `sqnr_by_role` has the SQNR in dB of each calibrator: products alone, on the activations of
    FP32.
    """

    ranges: Ranges
    clipping: Mapping[str, Calibrator] = field(default_factory=dict[str, Calibrator])
    sqnr_by_role: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    effects: tuple[Effect, ...] = ()
    smoothing: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict[str, NDArray[np.float32]]
    )
    shifts: Mapping[str, NDArray[np.float64]] = field(
        default_factory=dict[str, NDArray[np.float64]]
    )

    def prepare(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The FP32 graph that Q/DQ go into: smoothed, with corrected biases."""
        smoothed = smooth(model, self.smoothing) if self.smoothing else model
        return correct_biases(smoothed, self.shifts) if self.shifts else smoothed

    def write(self, folder: Path) -> None:
        """Write into a folder."""
        facts = {
            "ranges": self.ranges.tensors,
            "clipping": self.clipping,
            "sqnr_by_role": self.sqnr_by_role,
            "effects": to_plain(self.effects),
        }
        (folder / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        vectors: dict[str, NDArray[Any]] = {f"smoothing:{k}": v for k, v in self.smoothing.items()}
        vectors |= {f"shift:{k}": v for k, v in self.shifts.items()}
        np.savez(folder / _VECTORS, **vectors)  # pyright: ignore[reportArgumentType] - it takes one for allow_pickle


def read_int8_calibration(folder: Path) -> Int8Calibration:
    """Read what `Int8Calibration.write` wrote. Raises BadInput if it is not that."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        with np.load(folder / _VECTORS, allow_pickle=False) as stored:
            vectors = {name: cast("NDArray[np.float32]", stored[name]) for name in stored.files}
        return Int8Calibration(
            Ranges(
                {
                    str(name): (float(low), float(high))
                    for name, (low, high) in facts["ranges"].items()
                }
            ),
            facts["clipping"],
            facts["sqnr_by_role"],
            tuple(from_plain(Effect, effect, _FACTS) for effect in facts["effects"]),
            {
                k.removeprefix("smoothing:"): v
                for k, v in vectors.items()
                if k.startswith("smoothing:")
            },
            {
                k.removeprefix("shift:"): v.astype(np.float64)
                for k, v in vectors.items()
                if k.startswith("shift:")
            },
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{folder} does not hold INT8 calibration: {error}.", "Calibrate again."
        ) from None


@dataclass(frozen=True)
class Int8Settings:
    """How to calibrate: the roles that get Q/DQ, a calibrator for all tensors or `auto`, the
    recovery passes to try.
    """

    roles: tuple[str, ...]
    calibrator: CalibratorChoice
    recovery: tuple[Recovery, ...]


@dataclass(frozen=True)
class _Judge:
    """Measures the logits of INT8 graphs against those of FP32."""

    roles: tuple[str, ...]
    images: Batches
    threads: int
    reference: list[NDArray[np.float32]]

    def sqnr_db(self, model: onnx.ModelProto, ranges: Ranges) -> float:
        found = _logits(quantize_int8(model, ranges, self.roles), self.images, Path(), self.threads)
        signal = sum(float(np.square(x, dtype=np.float64).sum()) for x in self.reference)
        pairs = zip(self.reference, found, strict=True)
        return sqnr_db(
            signal, sum(float(np.square(x - y, dtype=np.float64).sum()) for x, y in pairs)
        )


def calibrate_int8(
    fp32: Path,
    ranges: Ranges,
    settings: Int8Settings,
    images: CalibrationImages,
    threads: int,
    scratch: Path,
    ui: Ui,
) -> Int8Calibration:
    """Find what INT8 needs for the file `fp32`, whose `ranges` were measured; `scratch` is a folder
    for a graph.

    A graph too large for several copies in memory gets thresholds from histograms only: `auto` is
    `max` there, and nothing moves into weights. Raises BadInput if no node has one of the roles.
    """
    model = load_onnx(fp32, weights=False)
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    if external or model.ByteSize() > _LARGE_BYTES:
        return _from_histograms(fp32, ranges, settings, images, threads, ui)
    with ui.progress("Recovering INT8 accuracy") as progress:
        reference = _logits(model, images.others, fp32.parent, threads)
        judge = _Judge(settings.roles, images.others, threads, reference)
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


def _logits(
    model: onnx.ModelProto, images: Batches, folder: Path, threads: int
) -> list[NDArray[np.float32]]:
    run, output = open_graph(model, folder, threads), model.graph.output[0].name
    return [run([output], images_NCHW)[0] for images_NCHW in images()]


def _tried(name: str, before_db: float, after_db: float, worth_db: float = _WORTH_DB) -> Effect:
    return Effect(name, before_db, after_db, kept=after_db > before_db + worth_db)


def _try_smoothing(
    fp32: Path, found: Int8Calibration, images: CalibrationImages, judge: _Judge, scratch: Path
) -> Int8Calibration:
    model = load_onnx(fp32)
    scales = measure_smoothing(
        fp32, nodes_to_quantize(model, judge.roles), images.some(), judge.threads
    )
    if not scales:
        return found
    smoothed, path = smooth(model, scales), scratch / "smoothed.onnx"
    save_onnx(smoothed, path)
    ranges = collect_ranges(path, images.all(), judge.threads)
    effect = _tried(
        "smooth-quant", judge.sqnr_db(model, found.ranges), judge.sqnr_db(smoothed, ranges)
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
    """Clip at the thresholds of a calibrator, or of the one with the smallest error for each
    tensor.
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
            quantize_int8(model, found.ranges.clipped(thresholds[c]), judge.roles),
            images.some(),
            judge.threads,
        )
        for c in tried
    }
    clipping: dict[str, Calibrator] = {
        tensor: min(tried, key=lambda c: sum(errors[c][name].relative_noise for name in names))
        for tensor, names in readers.items()
    }
    ranges = found.ranges.clipped({tensor: thresholds[c][tensor] for tensor, c in clipping.items()})
    before_db, after_db = judge.sqnr_db(model, found.ranges), judge.sqnr_db(model, ranges)
    effect = _tried(f"calibrator {calibrator}", before_db, after_db, _CLIPPING_WORTH_DB)
    kept = effect.kept or calibrator != "auto"  # asked for by name, it is taken
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
    before_db = judge.sqnr_db(model, found.ranges)
    effect = _tried(
        "bias-correction", before_db, judge.sqnr_db(correct_biases(model, shifts), found.ranges)
    )
    return replace(found, shifts=shifts if effect.kept else {}, effects=(*found.effects, effect))


def _from_histograms(
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
    return Int8Calibration(ranges.clipped(found), dict.fromkeys(found, calibrator))


def _readers_of_quantized(model: onnx.ModelProto, roles: tuple[str, ...]) -> dict[str, list[str]]:
    """The activations that get Q/DQ, each with the nodes that read it so."""
    nodes = set(nodes_to_quantize(model, roles))
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name in nodes:
            readers.setdefault(node.input[0], []).append(node.name)
    return readers


def _sqnr_by_role(
    model: onnx.ModelProto, errors: Mapping[Calibrator, Mapping[str, ProductError]]
) -> dict[str, dict[str, float]]:
    """SQNR in dB of the mean relative noise over the nodes of a role."""
    constants = {tensor.name for tensor in model.graph.initializer}
    roles = {node.name: role_of(node, constants) for node in model.graph.node}
    by_role: dict[str, dict[str, float]] = {}
    for role in dict.fromkeys(roles[name] for error in errors.values() for name in error):
        by_role[role] = {}
        for calibrator, found in errors.items():
            noises = [error.relative_noise for name, error in found.items() if roles[name] == role]
            by_role[role][calibrator] = sqnr_db(len(noises), sum(noises))
    return by_role
