"""`diagnose`: the first module where a graph diverges from what it was exported from, PyTorch or
an ONNX file, or FP16/INT8 from FP32.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hvt_deploy.commands.diagnosis import Diagnosis, Divergence
from hvt_deploy.core.environment import cpu_count, require, tool_versions
from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.core.manifest import GIVEN, INT8_CALIBRATION, Manifest
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import Device
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.divergence import (
    LIMITS,
    ModuleError,
    compare_modules,
    numbers_of,
    relative_error,
)
from hvt_deploy.evaluation.parity import draw_seeded_noise
from hvt_deploy.evaluation.reproduction import Fault, part_runner, write_fault
from hvt_deploy.graph.module_graph import ModuleGraph
from hvt_deploy.graph.quantization.int8_calibration import read_int8_calibration
from hvt_deploy.graph.quantization.smooth_quant import smooth
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.exported import find_changed_code
from hvt_deploy.runtime.base import BackendRequest, TappedBackend
from hvt_deploy.runtime.variant import Variant

if TYPE_CHECKING:
    from hvt_deploy.runtime.pytorch import PyTorchBackend

GRAPHS = ("fp32", "fp16", "int8-fp32", "int8", "int8-cpu")
_IMAGES = 4


def diagnose(
    folder: ModelFolder,
    config: RunConfig,
    graph: str | None,
    data: Path | None,
    device: Device,
    output: Path,
    ui: Ui,
) -> Diagnosis:
    """Compare `graph` (an artifact's name or an ONNX file), or every graph that was made, with its
    reference.

    FP32 is compared with PyTorch or the ONNX file, other precisions with FP32, on images of `data`,
    else of the calibration folder. What shows a jump is written to `output`/<model>.<graph>. Raises
    BadInput for unknown artifacts, CheckFailed where PyTorch's own two forms differ,
    MissingEnvironment for a device that is not there.
    """
    require("onnxruntime", extra="cpu")
    found: list[Divergence] = []
    with folder.reading() as manifest:
        images = _load_images(manifest, config, data, ui)
        for key in _graphs_to_check(folder, manifest, graph, ui):
            path = Path(key) if key.endswith(".onnx") else folder.open_artifact(manifest, key)
            name = path.stem if key.endswith(".onnx") else key
            parts = ModuleGraph(path)
            numbers = numbers_of(parts.model)
            if numbers == "fp32" and manifest.reference_key == GIVEN:
                opened = _open_given(folder, manifest, config, device, parts.outputs)
            elif numbers == "fp32":
                if changes := find_changed_code(manifest.config.options):
                    ui.warn(changes)
                opened = _open_reference(folder, manifest, config, images)
            else:
                opened = _open_fp32(folder, manifest, config, device, smoothed=numbers == "int8")
            with (
                opened as reference,
                _open_onnx(_request(manifest, config, _variant(parts, device), path)) as candidate,
            ):
                pair = Pair(reference, candidate, f"ort {name}")
                written = output / f"{manifest.slug}.{name}"
                found.append(_compare_pair(manifest, pair, parts, device, images, written, ui))
    return Diagnosis(folder.slug, tuple(found))


def _graphs_to_check(
    folder: ModelFolder, manifest: Manifest, asked: str | None, ui: Ui
) -> list[str]:
    if asked is not None:
        return [asked]
    keys = [key for key in GRAPHS if key in manifest.artifacts]
    if manifest.reference_key == GIVEN:
        if not folder.file(manifest.artifacts[GIVEN]).is_file():
            ui.warn("The ONNX file is not here: the FP32 graph is not compared with it.")
            keys.remove("fp32")
    elif importlib.util.find_spec("torch") is None:
        ui.warn("PyTorch is not installed here: the FP32 graph is not compared with it.")
        keys.remove("fp32")
    return keys


def _load_images(manifest: Manifest, config: RunConfig, data: Path | None, ui: Ui) -> ImagesNCHW:
    source, signature = data or Path(config.calibration.folder), manifest.signature
    if data is None and not source.is_dir():
        ui.warn(
            f"There is no {source}: noise is used instead of images, which says little about INT8. "
            "Give some: --data DIR"
        )
        return draw_seeded_noise(signature, signature.batch or _IMAGES, seed=0)
    chosen = choose_calibration(source, _IMAGES, config.calibration.seed)
    batches = load_batches(
        chosen.samples(),
        manifest.preprocessing,
        signature.batch or _IMAGES,
        cpu_count(),
        fill=signature.batch is not None,
    )
    return next(iter(batches)).images_NCHW


def _request(manifest: Manifest, config: RunConfig, variant: Variant, path: Path) -> BackendRequest:
    threads = config.validation.threads or cpu_count()
    return BackendRequest(variant, path, manifest.model, manifest.signature, threads)


def _variant(graph: ModuleGraph, device: Device) -> Variant:
    return Variant("ort", device, numbers_of(graph.model))


@contextmanager
def _open_onnx(
    request: BackendRequest, outputs: Mapping[str, str] | None = None
) -> Generator[TappedBackend]:
    from hvt_deploy.runtime.ort import OrtBackend

    with closing(OrtBackend(request, outputs)) as backend:
        yield backend


def _open_given(
    folder: ModelFolder,
    manifest: Manifest,
    config: RunConfig,
    device: Device,
    outputs: Mapping[str, str],
) -> AbstractContextManager[TappedBackend]:
    """The ONNX file, whose tensors have their names in the FP32 graph, too."""
    path = folder.open_artifact(manifest, GIVEN)
    request = _request(manifest, config, Variant("ort", device, "fp32", "given"), path)
    return _open_onnx(request, outputs)


@contextmanager
def _open_fp32(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, device: Device, *, smoothed: bool
) -> Generator[TappedBackend]:
    """The FP32 graph. INT8 is made from a smoothed one, whose normalizations give other numbers for
    the same logits.
    """
    path = folder.open_artifact(manifest, "fp32")
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as scratch:
        if smoothed and INT8_CALIBRATION in manifest.artifacts:
            calibration = read_int8_calibration(
                folder.open_artifact(manifest, INT8_CALIBRATION).parent
            )
            if calibration.smoothing:
                save_onnx(
                    smooth(load_onnx(path), calibration.smoothing),
                    path := Path(scratch) / "smoothed.onnx",
                )
        with _open_onnx(
            _request(manifest, config, Variant("ort", device, "fp32"), path)
        ) as backend:
            yield backend


@contextmanager
def _open_reference(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, images: ImagesNCHW
) -> Generator[PyTorchBackend]:
    """The deployed form in PyTorch, whose modules are those of the graph, once it gives the
    reference form's logits.
    """
    require("torch", extra="export")
    from hvt_deploy.models.exported import load_exported
    from hvt_deploy.models.registry import to_deployed
    from hvt_deploy.runtime.pytorch import PyTorchBackend

    path, threads = (
        folder.open_artifact(manifest, "pytorch"),
        config.validation.threads or cpu_count(),
    )
    module = load_exported(manifest.model, manifest.signature, manifest.config.options, path)
    deployed = to_deployed(module)
    with closing(PyTorchBackend(Variant("pytorch", "cpu", "fp32"), module, threads)) as reference:
        expected = reference.infer(images)
    with closing(PyTorchBackend(Variant("pytorch", "cpu", "fp32"), deployed, threads)) as backend:
        error = relative_error(expected, backend.infer(images))
        if not error <= LIMITS["fp32"]:
            raise CheckFailed(
                f"In PyTorch, the deployed form of {manifest.model} differs from its reference "
                f"form by {error:.1e}: the error is in the model, not in the graph.",
                f"Run: hvt-deploy models --verify {manifest.model}",
            )
        yield backend


@dataclass(frozen=True)
class Pair:
    """Two opened backends to compare."""

    reference: TappedBackend
    """The backend that counts as correct."""
    candidate: TappedBackend
    """The backend that is compared with it."""
    name: str
    """Display name of the candidate."""


def _compare_pair(
    manifest: Manifest,
    pair: Pair,
    graph: ModuleGraph,
    device: Device,
    images: ImagesNCHW,
    written: Path,
    ui: Ui,
) -> Divergence:
    """Every module; evidence of the first jump is written when it is found."""
    limit, run = LIMITS[numbers_of(graph.model)], part_runner(graph.folder, device)
    reference, candidate = pair.reference, pair.candidate
    modules: list[ModuleError] = []
    folder = ""
    with ui.progress(f"Comparing {pair.name} with {reference.name}") as progress:
        for module, evidence in compare_modules(reference, candidate, graph, run, images):
            modules.append(module)
            progress(list(graph.outputs).index(module.path) + 1, len(graph.outputs))
            if not folder and not module.local_error <= limit:
                nodes = tuple(node.name for node in evidence.part.graph.node)
                fault = Fault(
                    manifest.model,
                    reference.name,
                    pair.name,
                    module,
                    limit,
                    nodes,
                    device,
                    tool_versions(),
                )
                write_fault(fault, evidence, graph.folder, written)
                folder = str(written)
    error = relative_error(reference.infer(images), candidate.infer(images))
    return Divergence(reference.name, pair.name, limit, error, tuple(modules), folder)
