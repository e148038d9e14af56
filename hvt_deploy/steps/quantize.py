"""`quantize`: the FP32 graph -> FP16 and INT8 graphs, from ranges measured on real images.

`int8` makes three graphs from one recipe and one set of ranges: `int8` (FP16 in the rest) for TensorRT, `int8-fp32`
(the same Q/DQ with FP32 in the rest) whose accuracy ONNX Runtime can judge, and `int8-cpu-twin` for its CPU kernels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from hvt_deploy.backends.base import BackendRequest
from hvt_deploy.backends.registry import open_backend
from hvt_deploy.calibration import CalibrationSet, choose_calibration
from hvt_deploy.config import Precision, RunConfig
from hvt_deploy.environment import cpu_count, require, tool_versions
from hvt_deploy.errors import BadInput, CheckFailed
from hvt_deploy.graph.calibrate import Ranges, collect_ranges, read_ranges
from hvt_deploy.graph.fp16 import QDQ_OPSET, KeptNode, to_fp16
from hvt_deploy.graph.int8 import nodes_to_quantize, quantize_cpu_twin, quantize_int8
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.outline import outline
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.images import BatchLoader, load_batches, repeat_to
from hvt_deploy.measure.parity import compare_logits, seeded_noise
from hvt_deploy.records import to_plain
from hvt_deploy.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.ui import Progress, Ui
from hvt_deploy.workspace import Artifact, Manifest, ModelFolder, is_fresh

# FP16 must keep this much of the FP32 logits; INT8 is recorded, and judged by `validate`.
FP16_MIN_SQNR_DB = 40.0
# Images that a graph is compared with FP32 on, where there is no folder to take them from.
_NOISE_IMAGES = 4
CALIBRATION = "calibration"
# What each precision consists of; FP16 comes with INT8 because INT8 has to beat it.
GRAPHS: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("fp16",),
    "int8": ("fp16", "int8-fp32", "int8", "int8-cpu-twin"),
    "int8-fp32": ("int8-fp32", "int8-cpu-twin"),
}

_PRECISION_OF = {"int8-cpu-twin": "int8"}


@dataclass(frozen=True)
class _Measured:
    """What calibration gave: ranges, or none where there are no images, and a batch that parity is shown on."""

    ranges: Ranges | None
    images: ImagesNCHW


def quantize(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> Manifest:
    """Make the graphs of `precision` that are not there yet; returns the manifest that names them.

    Raises BadInput if INT8 is asked for and there are no calibration images, CheckFailed if FP16 loses too much.
    """
    require("onnxruntime", extra="cpu")
    with folder.lock():
        manifest = folder.read()
        if precision == "fp32":
            return manifest
        manifest, measured = _calibrated(folder, manifest, config, precision, ui)
        for key in GRAPHS[precision]:
            recipe = _recipe(config, measured.ranges)
            if is_fresh(manifest, key) and manifest.artifacts[key].facts["recipe"] == recipe:
                folder.open_artifact(manifest, key)
                continue
            manifest = _add_graph(folder, manifest, config, key, measured, ui)
    return manifest


def _recipe(config: RunConfig, ranges: Ranges | None) -> dict[str, object]:
    return {"int8_roles": list(config.quantization.int8_roles), "ranges": ranges is not None}


def _calibrated(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, precision: Precision, ui: Ui
) -> tuple[Manifest, _Measured]:
    """Ranges for the calibration images: recorded ones if neither images, graph nor settings changed."""
    source = Path(config.calibration.folder)
    if not source.is_dir():
        if precision != "fp16":
            raise BadInput(
                f"INT8 needs real images to calibrate on, and there is no folder {source}.",
                "Give training images with --calib DIR (any image folder; never the validation images).",
            )
        ui.warn(f"No calibration images ({source}): FP16 without measured ranges. Give some with --calib DIR.")
        return manifest, _Measured(
            None, seeded_noise(manifest.signature, manifest.signature.batch or _NOISE_IMAGES, seed=0)
        )
    chosen = choose_calibration(source, config.calibration.images, config.calibration.seed)
    fp32 = folder.open_artifact(manifest, "fp32")
    key = _calibration_key(manifest, chosen)
    batch_size = manifest.signature.batch or config.calibration.batch_size
    batches = load_batches(chosen.samples(), manifest.preprocessing, batch_size, cpu_count())
    first = _of_size(next(iter(batches)).images_NCHW, manifest.signature.batch)
    if is_fresh(manifest, CALIBRATION) and manifest.artifacts[CALIBRATION].facts["key"] == key:
        return manifest, _Measured(read_ranges(folder.open_artifact(manifest, CALIBRATION)), first)
    with ui.progress(f"Calibrating on {len(chosen.files)} images of {source}") as progress:
        counted = _counted(batches, len(chosen.files), progress)
        ranges = collect_ranges(fp32, (_of_size(images, manifest.signature.batch) for images in counted), cpu_count())
    with folder.staging() as staged:
        ranges.write(staged / "ranges.json")
        chosen.write(staged / "calibration.json")
        artifact = Artifact(
            folder=CALIBRATION, main="ranges.json", files={}, remake=f"hvt-deploy quantize {manifest.slug} --int8",
            parents={"fp32": manifest.artifacts["fp32"].sha256}, facts={"key": key}, tool_versions=tool_versions(),
        )  # fmt: skip
        manifest = folder.add(manifest, CALIBRATION, staged, artifact)
    return manifest, _Measured(ranges, first)


def _calibration_key(manifest: Manifest, chosen: CalibrationSet) -> str:
    """What the ranges depend on: the images' content, the graph and the preprocessing."""
    preprocessing = json.dumps(to_plain(manifest.preprocessing), sort_keys=True)
    parts = (chosen.content_key, manifest.artifacts["fp32"].sha256, preprocessing)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _of_size(images_NCHW: ImagesNCHW, fixed: int | None) -> ImagesNCHW:
    return images_NCHW if fixed is None else repeat_to(images_NCHW, fixed)


def _counted(batches: BatchLoader, total: int, progress: Progress) -> Iterator[ImagesNCHW]:
    done = 0
    for batch in batches:
        yield batch.images_NCHW
        done += len(batch.images_NCHW)
        progress(done, total)


def _add_graph(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, key: str, measured: _Measured, ui: Ui
) -> Manifest:
    """Make one graph, compare it with FP32 through ONNX Runtime, store it."""
    fp32 = folder.open_artifact(manifest, "fp32")
    graph, kept_fp32 = make_graph(fp32, key, config.quantization.int8_roles, measured.ranges)
    opset = read_opset(graph)
    if opset != manifest.artifacts["fp32"].opset:
        ui.say(f"{key}: opset {opset} instead of {manifest.artifacts['fp32'].opset}; FP16 Q/DQ exists from opset 19.")
    with folder.staging() as staged:
        path = staged / f"{manifest.slug}.{key}.onnx"
        save_onnx(graph, path)
        reference = _logits(fp32, "fp32", manifest, measured.images)
        parity = compare_logits(reference, _logits(path, key, manifest, measured.images))
        if key == "fp16" and not parity.sqnr_db >= FP16_MIN_SQNR_DB:
            raise CheckFailed(
                f"The FP16 graph of {manifest.slug} keeps {parity.sqnr_db:.1f} dB of the FP32 logits; "
                f"at least {FP16_MIN_SQNR_DB:.0f} dB were expected.",
                "Calibrate on images the model was trained for (--calib DIR), so that large ranges stay FP32.",
            )
        ui.say(f"{key}: SQNR {parity.sqnr_db:.1f} dB against FP32 on {len(reference)} images")
        parents = {k: manifest.artifacts[k].sha256 for k in ("fp32", CALIBRATION) if k in manifest.artifacts}
        artifact = Artifact(
            folder=key, main=path.name, files={}, precision=key, opset=opset, parents=parents,
            remake=f"hvt-deploy quantize {manifest.slug} --precision {_PRECISION_OF.get(key, key)}",
            facts={
                "recipe": _recipe(config, measured.ranges), "parity": to_plain(parity), "nodes": len(graph.graph.node),
                "kept_fp32": to_plain(kept_fp32),
            },
            tool_versions=tool_versions(),
        )  # fmt: skip
        return folder.add(manifest, key, staged, artifact)


def make_graph(
    fp32: Path, key: str, roles: tuple[str, ...], ranges: Ranges | None
) -> tuple[ModelProto, tuple[KeptNode, ...]]:
    """The graph of artifact `key` from the FP32 file, and the nodes that FP16 left in FP32."""
    model = load_onnx(fp32, weights=False)
    chosen = () if key == "fp16" else nodes_to_quantize(model, roles)
    outlined = outline(model, fp32.parent, chosen)
    if key == "fp16":
        half = to_fp16(outlined.model, ranges)
        return outlined.fill(half.model, outlined.model), half.kept_fp32
    quantized = _quantized(outlined.model, key, roles, ranges)
    if key != "int8":
        return outlined.fill(quantized, quantized), ()
    half = to_fp16(quantized, ranges)
    return outlined.fill(half.model, quantized), half.kept_fp32


def _quantized(model: ModelProto, key: str, roles: tuple[str, ...], ranges: Ranges | None) -> ModelProto:
    """The Q/DQ graph of `key`, with FP32 in the rest."""
    if ranges is None:
        raise BadInput("INT8 needs ranges measured on real images.", "Give training images with --calib DIR.")
    if key == "int8-cpu-twin":
        return quantize_cpu_twin(model, ranges, roles)
    opset = read_opset(model) if key == "int8-fp32" else max(QDQ_OPSET, read_opset(model))
    return quantize_int8(convert_opset(model, opset), ranges, roles)


def _logits(path: Path, key: str, manifest: Manifest, images_NCHW: ImagesNCHW) -> LogitsNK:
    request = BackendRequest(
        name=key, runtime="ort", device="cpu", precision=key, path=path, model=manifest.model,
        signature=manifest.signature, threads=cpu_count(),
    )  # fmt: skip
    with closing(open_backend(request)) as backend:
        return backend.infer(images_NCHW)
