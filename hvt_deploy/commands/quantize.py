"""`quantize`: the FP32 graph -> FP16 and INT8 graphs, from ranges measured on real images.

`int8` makes three graphs from one recipe and one set of ranges: `int8` (FP16 in the rest) for
TensorRT, `int8-fp32` (the same Q/DQ with FP32 in the rest) whose accuracy ONNX Runtime can judge,
and `int8-cpu` for its CPU kernels.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onnx import ModelProto

from hvt_deploy.commands.build_target import find_int8_target
from hvt_deploy.commands.calibration_cache import Calibrated, calibrate
from hvt_deploy.commands.cpu_variant_faults import find_variant_faults, find_variant_slowdown
from hvt_deploy.commands.fp16_check import check_fp16, infer_rounded
from hvt_deploy.commands.quantized_graphs import GRAPHS_OF, Quantized, describe_quantized
from hvt_deploy.commands.recorded_names import learn_class_names
from hvt_deploy.core.environment import cpu_count, require
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import (
    CALIBRATION,
    INT8_CALIBRATION,
    CalibrationFacts,
    GraphFacts,
    GraphKey,
    GraphRecipe,
    Manifest,
    Parity,
)
from hvt_deploy.core.run_config import QuantizationConfig, RunConfig, with_absolute_folder
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Int8Target, Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.logits_judge import run_logits
from hvt_deploy.graph.quantization.qdq import select_nodes
from hvt_deploy.graph.quantization.quantized_graph import (
    Judge,
    QuantizedGraph,
    make_quantized_graph,
)
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.weights_in_file import load_without_weights
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.variant import Variant

_PRECISION_OF: dict[GraphKey, Precision] = {
    "fp16": "fp16",
    "int8": "int8",
    "int8-fp32": "int8-fp32",
    "int8-cpu": "int8",
}
# Said with the result of each graph.
_PURPOSE: dict[GraphKey, str] = {
    "fp16": "for GPUs",
    "int8": "for TensorRT, FP16 in the rest",
    "int8-fp32": "shows the engine's accuracy without a GPU, FP32 in the rest",
    "int8-cpu": "for CPUs",
}


@dataclass(frozen=True)
class _Reference:
    """The FP32 graph that others are made from and compared with."""

    path: Path
    """Its file."""
    logits_NK: LogitsNK  # noqa: N815
    """Its logits for the images of the comparison."""

    def compare(self, logits_NK: LogitsNK) -> Parity:
        """The parity of another graph's logits."""
        return compare_logits(self.logits_NK, logits_NK)


def quantize(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> Quantized:
    """Make the graphs of `precision` that are not there yet.

    Calibration and graphs become visible together: until then the model is as it was. Raises
    BadInput if INT8 is asked for and there are no calibration images, CheckFailed if FP16 loses too
    much.
    """
    require("onnxruntime", extra="cpu")
    with folder.lock():
        before = folder.read()
        if precision == "fp32":
            return describe_quantized(folder, before, precision)
        manifest = make_graphs(folder, before, config, precision, ui)
        if manifest != before:
            folder.commit(manifest)
    return describe_quantized(folder, manifest, precision)


def make_graphs(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, precision: Precision, ui: Ui
) -> Manifest:
    """`quantize` in a folder that is locked, without the commit."""
    if precision != "fp16":
        check_placement(folder, manifest, config)
    manifest, calibrated = calibrate(folder, manifest, config, int8=precision != "fp16", ui=ui)
    measured = manifest.facts(CALIBRATION, CalibrationFacts)
    if calibrated.ranges is not None and measured:
        for fault in measured.health:
            ui.warn(fault)
    manifest = learn_class_names(manifest, Path(config.calibration.folder), ui)
    # Later verbs go on with the images and the recipe that were chosen here.
    images = with_absolute_folder(config).calibration
    chosen = replace(manifest.config, calibration=images, quantization=config.quantization)
    manifest = replace(manifest, config=chosen)
    target = find_int8_target(config)
    missing: dict[GraphKey, GraphRecipe] = {}
    for key in GRAPHS_OF[precision]:
        before, recipe = (
            manifest.facts(key, GraphFacts),
            _recipe(calibrated, config, target, key),
        )
        if before and before.recipe == recipe and is_fresh(manifest, key):
            folder.open_artifact(manifest, key)
        else:
            missing[key] = recipe
    if missing:
        fp32 = folder.open_artifact(manifest, "fp32")
        logits_NK = calibrated.fp32_logits_NK
        if logits_NK is None:
            logits_NK = _logits(fp32, "fp32", manifest, calibrated.images)
        reference = _Reference(fp32, logits_NK)
        for key, recipe in missing.items():
            manifest = _add_graph(folder, manifest, key, recipe, calibrated, reference, ui)
    return manifest


def check_placement(folder: ModelFolder, manifest: Manifest, config: RunConfig) -> None:
    """Raise BadInput if a new recipe names a role or a group that the graph lacks: known at once,
    not after a calibration.
    """
    if _named_nodes(config.quantization) == _named_nodes(manifest.config.quantization):
        return
    graph = load_without_weights(folder.open_artifact(manifest, "fp32"))
    select_nodes(graph, *_named_nodes(config.quantization))


def _named_nodes(quantization: QuantizationConfig) -> tuple[set[str], tuple[str, ...]]:
    """The roles that a recipe places Q/DQ at, and what it excludes."""
    roles = quantization.int8_roles
    named = {*roles.rtx, *roles.tensorrt, *roles.cpu, *quantization.int8_outputs}
    return named, quantization.excluded


def _recipe(
    calibrated: Calibrated, config: RunConfig, target: Int8Target, key: GraphKey
) -> GraphRecipe:
    """The settings that define a graph; a graph with other settings is rebuilt."""
    quantization = None if key == "fp16" else config.quantization
    placed = target if key in ("int8", "int8-fp32") else None
    return GraphRecipe(calibrated.ranges is not None, quantization, placed)


def _add_graph(
    folder: ModelFolder,
    manifest: Manifest,
    key: GraphKey,
    recipe: GraphRecipe,
    calibrated: Calibrated,
    reference: _Reference,
    ui: Ui,
) -> Manifest:
    """Make one graph, compare it with FP32 through ONNX Runtime, store it; not committed."""
    judge = _make_judge(calibrated, reference)
    made = make_quantized_graph(
        reference.path, key, recipe, calibrated.ranges, calibrated.int8, judge
    )
    graph, opset = made.model, read_opset(made.model)
    _say_opset(key, opset, manifest, ui)
    with folder.staging() as staged:
        path = staged / f"{manifest.slug}.{key}.onnx"
        save_onnx(graph, path)
        found_NK = made.logits_NK
        if found_NK is None:
            found_NK = _logits(path, _PRECISION_OF[key], manifest, calibrated.images)
        parity = reference.compare(found_NK)
        rounding, beside = None, ""
        if key == "fp16":
            infer = partial(infer_rounded, reference.path, calibrated.images)
            rounding = check_fp16(manifest.slug, reference.logits_NK, found_NK, infer)
            beside = f" (rounding alone: {rounding.sqnr_db:.1f} dB)" if rounding else ""
        on = f"on {len(found_NK)} images{beside}"
        ui.say(f"{key} ({_PURPOSE[key]}): SQNR {parity.sqnr_db:.1f} dB against FP32 {on}")
        faults: tuple[str, ...] = ()
        if key == "int8-cpu":
            images = calibrated.images[: manifest.signature.batch or 1]
            slowdown = find_variant_slowdown(manifest, reference.path, path, images)
            faults = _judge_variant(made, parity, reference, slowdown, ui)
        needed = ("fp32", CALIBRATION) if key == "fp16" else ("fp32", CALIBRATION, INT8_CALIBRATION)
        return folder.add(
            manifest,
            key,
            staged,
            path.name,
            f"hvt-deploy quantize {manifest.slug} --precision {_PRECISION_OF[key]}",
            facts=GraphFacts(
                precision=_PRECISION_OF[key],
                opset=opset,
                nodes=len(graph.graph.node),
                parity=parity,
                compared_images=0 if calibrated.on_noise else len(found_NK),
                recipe=recipe,
                kept_fp32={kept.node: kept.reason for kept in made.kept_fp32},
                faults=faults,
                rounding=rounding,
            ),
            parents=[k for k in needed if k in manifest.artifacts],
            commit=False,
        )


def _say_opset(key: GraphKey, opset: int, manifest: Manifest, ui: Ui) -> None:
    exported = manifest.facts("fp32", GraphFacts)
    if key == "int8" and exported and opset != exported.opset:
        ui.say(
            f"{key}: opset {opset} instead of {exported.opset}, the lowest at which ONNX has INT8 "
            "next to FP16."
        )


def _make_judge(calibrated: Calibrated, reference: _Reference) -> Judge | None:
    """None for noise, which is outside of the ranges: what it loses by clipping says nothing."""
    if calibrated.on_noise:
        return None

    def infer(model: ModelProto) -> LogitsNK:
        return run_logits(model, [calibrated.images], cpu_count())

    return Judge(reference.logits_NK, infer)


def _judge_variant(
    made: QuantizedGraph, parity: Parity, reference: _Reference, slowdown: Interval | None, ui: Ui
) -> tuple[str, ...]:
    """What speaks against the CPU variant, said as warnings."""
    numerics = None if made.numerics_NK is None else reference.compare(made.numerics_NK)
    if made.kept_fp32:
        ui.say(
            f"int8-cpu: nodes that stay FP32: {len(made.kept_fp32)}; {made.kept_fp32[0].reason}."
        )
    faults = find_variant_faults(parity, numerics, slowdown)
    for fault in faults:
        ui.warn(f"int8-cpu: {fault} It is not served: `package` and `Classifier` take FP32.")
    return faults


def _logits(
    path: Path, precision: Precision, manifest: Manifest, images_NCHW: ImagesNCHW
) -> LogitsNK:
    request = BackendRequest(
        variant=Variant("ort", "cpu", precision),
        path=path,
        model=manifest.model,
        signature=manifest.signature,
        threads=cpu_count(),
        timed_batches=(),
    )
    with closing(open_backend(request)) as backend:
        return backend.infer(images_NCHW)
