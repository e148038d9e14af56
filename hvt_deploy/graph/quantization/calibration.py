"""INT8 calibration: clipping thresholds, SmoothQuant and bias correction, found on images.

Every combination that the recipe allows is judged by its logits on images that its thresholds were
not found on (`logits_judge.py`), and then the rounding of weights with the best one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.tensors import ImagesNCHW, sqnr_db
from hvt_deploy.core.types import Calibrator, Int8Target
from hvt_deploy.core.ui import Progress, Ui
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.quantization.calibrators import choose_threshold
from hvt_deploy.graph.quantization.contest import Contest
from hvt_deploy.graph.quantization.engine_int8 import (
    EnginePlacement,
    find_engine_placement,
    find_int8_attention,
    quantize_for_engine,
)
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration, make_effect
from hvt_deploy.graph.quantization.logits_judge import (
    CHOICE_STAGES,
    LogitsJudge,
    open_logits,
)
from hvt_deploy.graph.quantization.measured_forms import measure_forms
from hvt_deploy.graph.quantization.product_error import ProductError
from hvt_deploy.graph.quantization.qdq import select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges, collect_histograms
from hvt_deploy.graph.storage import load_onnx

# What 8-bit attention may cost: it saves a kernel per block and a good part of the traffic.
_ATTENTION_COSTS_DB = 1.5
_LARGE_BYTES = 2**30
_OTHER_LAYERS = ", layers that TensorRT-RTX keeps in FP16"
_Errors: TypeAlias = Mapping[str, ProductError]


@dataclass(frozen=True)
class CalibrationImages:
    """Batches (N, 3, H, W) of the images that ranges were measured on."""

    found_on: Iterable[ImagesNCHW]
    """Those that thresholds are found on, read once."""
    some: Sequence[ImagesNCHW]
    """A part of these, for the errors of products and the inputs of weights."""
    others: Sequence[ImagesNCHW]
    """Others, to judge every choice on."""
    more: Iterable[ImagesNCHW] = ()
    """Further ones for the last choices, which may be read several times."""


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
    # NumPy's own threads spin while they wait: they cost more CPU time than its products take.
    with (
        threadpool_limits(1, user_api="blas"),
        ui.progress("Recovering INT8 accuracy") as progress,
    ):
        judge = LogitsJudge(open_logits(model, threads), images.others, images.more)
        found = plain
        if recipe.calibrator != "max" or recipe.recovery:
            found = _judge_candidates(
                model, plain, ranges, settings, images, judge, threads, progress
            )
        progress(4, 5)
        if settings.target:
            engine = replace(find_engine_placement(model, recipe, settings.target), excluded=())
            found = _judge_attention(model, found, ranges, engine, judge, threads)
        progress(5, 5)
    return found


def _judge_candidates(
    model: onnx.ModelProto,
    found: Int8Calibration,
    ranges: Ranges,
    settings: Int8Settings,
    images: CalibrationImages,
    judge: LogitsJudge,
    threads: int,
    progress: Progress,
) -> Int8Calibration:
    recipe = settings.quantization
    measured = measure_forms(
        model, ranges, recipe, settings.roles, images.found_on, images.some, threads
    )
    progress(2, 5)
    errors = dict[Calibrator, _Errors]()
    decided: frozenset[str] = frozenset()
    for roles in _nest_roles(model, settings):
        nodes = frozenset(select_nodes(model, roles))
        forms = measured.make_forms(
            found.prepare(model, decided),
            replace(found.ranges, channels=ranges.channels),
            nodes - decided,
            decided,
        )
        contest = Contest(forms, roles, judge.renew(), threads)
        chosen = contest.choose(recipe, rounding=not decided)
        found = found.join(contest.record(chosen, recipe, _OTHER_LAYERS if decided else ""))
        for calibrator, error in forms.plain.errors.items():
            errors[calibrator] = {**errors.get(calibrator, {}), **error}
        decided = nodes
        del contest, forms  # several copies of the weights, before the next ones are made
    progress(3, 5)
    return replace(found, sqnr_by_role=_sqnr_by_role(model, errors))


def _nest_roles(model: onnx.ModelProto, settings: Int8Settings) -> list[tuple[str, ...]]:
    """The roles of the graphs that choices are judged on, one after the other: those of the layers
    that TensorRT-RTX has in INT8, where others add no noise, and all, to choose for these others.
    """
    rtx, whole = settings.quantization.int8_roles.rtx, settings.roles
    inner, outer = len(select_nodes(model, rtx)), len(select_nodes(model, whole))
    return [rtx, whole] if 0 < inner < outer else [whole]


def _judge_attention(
    model: onnx.ModelProto,
    found: Int8Calibration,
    measured: Ranges,
    engine: EnginePlacement,
    judge: LogitsJudge,
    threads: int,
) -> Int8Calibration:
    """Judged on the graph of the engine, whose Linears may write INT8."""
    prepared = found.prepare(model, select_nodes(model, engine.roles))
    blocks = find_int8_attention(prepared)
    if not blocks:
        return found
    ranges = replace(found.ranges, channels=measured.channels)
    noises: list[list[NDArray[np.float64]]] = []
    for names in ((), blocks):
        graph = quantize_for_engine(prepared, ranges, replace(engine, attention=names))
        infer = open_logits(graph, threads)
        noises.append([judge.measure_noise(infer, stage) for stage in range(CHOICE_STAGES)])
    gain = judge.compare_noise(*noises)
    kept = gain.after_db > gain.before_db - _ATTENTION_COSTS_DB
    effect = make_effect("INT8 attention", gain, kept=kept)
    return replace(found, attention=kept, effects=(*found.effects, effect))


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
        histograms = collect_histograms(
            model, ranges, list(readers), images.found_on, threads, folder
        )
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
