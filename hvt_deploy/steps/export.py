"""`export`: checkpoint -> reference form -> deployed form -> ONNX, with a proven contract and parity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import onnx
import torch
from torch import nn

from hvt_deploy.backends.base import Backend, BackendRequest
from hvt_deploy.backends.registry import open_backend
from hvt_deploy.calibration import choose_calibration
from hvt_deploy.class_names import class_names_for
from hvt_deploy.config import RunConfig
from hvt_deploy.environment import check_free_disk, cpu_count, require, tool_versions
from hvt_deploy.errors import CheckFailed
from hvt_deploy.graph.contract import ContractReport, check_contract
from hvt_deploy.graph.export import export_onnx
from hvt_deploy.graph.opset import check_opset, convert_opset
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.images import load_batches
from hvt_deploy.measure.parity import Parity, compare_logits, seeded_noise
from hvt_deploy.models.download import obtain_weights
from hvt_deploy.models.registry import create_from, get_spec, to_deployed
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.weights import load_model, save_reference, seed_random_weights
from hvt_deploy.records import to_plain
from hvt_deploy.tensors import ImagesNCHW, Signature
from hvt_deploy.ui import Progress, Ui
from hvt_deploy.workspace import Artifact, Manifest, ModelFolder, WeightsRecord, now

# Largest logit difference an FP32 graph may show, relative to the largest logit of the reference form.
FP32_PARITY = 2e-5
PROVED_BATCHES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Exported:
    """What `export` made. `parity` is the worst over every batch of images and of noise that was tried."""

    slug: str
    path: Path
    opset: int
    parity: Parity
    contract: ContractReport
    untrained: bool


def export(folder: ModelFolder, config: RunConfig, class_names: Path | None, ui: Ui) -> Exported:
    """Export `config.model` into `folder`. The manifest that was there stays until everything is proven.

    Raises BadInput for weights or options that do not fit, CheckFailed for a broken contract or parity, ToolFailure
    where the exporter or a simplifier fails.
    """
    require("torch", extra="export")
    require("onnxruntime", extra="cpu")
    check_opset(config.export.opset)
    spec = get_spec(config.model, config.preprocessing.image_size, config.options)
    check_free_disk(folder.path, 12 * _parameters(spec))
    with folder.lock():
        model, num_classes, weights = _weighted_model(spec, config, ui)
        names = class_names_for(num_classes, class_names, Path(weights.path) if weights.path else None)
        signature = Signature(spec.image_size, num_classes, config.export.batch)
        manifest = Manifest(
            slug=folder.slug, model=spec.name, exported=now(), signature=signature, preprocessing=config.preprocessing,
            class_names=names.names, wnids=names.wnids, weights=weights, config=config,
            artifacts=folder.read().artifacts if folder.exists() else {},
        )  # fmt: skip
        graph, contract = _graph(model, signature, config, ui)
        with folder.staging() as staged, folder.staging() as staged_weights:
            path = staged / f"{folder.slug}.fp32.onnx"
            save_onnx(graph, path)
            with ui.progress("Comparing with PyTorch") as progress:
                parity = _prove_parity(model, path, manifest, config, progress)
            save_reference(model, staged_weights / f"{folder.slug}.safetensors")
            remake = f"hvt-deploy export {spec.name} --as {folder.slug} --opset {config.export.opset}"
            fp32 = Artifact(
                folder="fp32", main=path.name, files={}, remake=remake, precision="fp32", opset=config.export.opset,
                facts={"parity": to_plain(parity), "nodes": contract.nodes, "ops": dict(contract.ops)},
                tool_versions=tool_versions(),
            )  # fmt: skip
            reference = Artifact(
                folder="pytorch", main=f"{folder.slug}.safetensors", files={}, remake=remake, precision="fp32",
                tool_versions=tool_versions(),
            )  # fmt: skip
            stored = {"pytorch": folder.store(staged_weights, reference), "fp32": folder.store(staged, fp32)}
            folder.commit(replace(manifest, artifacts={**manifest.artifacts, **stored}))
    onnx_path = folder.file(stored["fp32"])
    return Exported(folder.slug, onnx_path, config.export.opset, parity, contract, weights.untrained)


def _parameters(spec: ModelSpec) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_from(spec).parameters())


def _weighted_model(spec: ModelSpec, config: RunConfig, ui: Ui) -> tuple[nn.Module, int, WeightsRecord]:
    """The reference form with the weights that were asked for, and the number of classes they are for."""
    with ui.progress("Fetching weights") as progress:
        obtained = obtain_weights(spec, config.export.weights, _cache_folder(), progress)
    if obtained.warning:
        ui.warn(obtained.warning)
    if obtained.path is None:
        model = create_from(spec, config.num_classes)
        seed_random_weights(model, config.export.seed)
        return model, config.num_classes, WeightsRecord(obtained.source, "", obtained.untrained)
    model, report = load_model(spec, obtained.path, config.num_classes)
    fates = ", ".join(f"{count} {fate}" for fate, count in report.summary.items())
    ui.say(f"Keys of {obtained.path}: {fates}")
    record = WeightsRecord(
        obtained.source,
        report.sha256,
        obtained.untrained,
        str(obtained.path),
        report.dropped_train_only,
        report.summary,
    )
    return model, report.num_classes, record


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hvt-deploy"


def _graph(model: nn.Module, signature: Signature, config: RunConfig, ui: Ui) -> tuple[onnx.ModelProto, ContractReport]:
    with ui.progress(f"Exporting {config.model}") as progress:
        deployed = to_deployed(model)
        progress(1, 4)
        graph = export_onnx(deployed, signature, config.export.opset)
        progress(2, 4)
        graph = simplify(graph, config.export.simplifier)
        progress(3, 4)
        graph = convert_opset(graph, config.export.opset)
        layer_norms = sum(isinstance(module, nn.LayerNorm) for module in deployed.modules())
        contract = check_contract(graph, opset=config.export.opset, signature=signature, layer_norms=layer_norms)
        progress(4, 4)
    return graph, contract


def _prove_parity(model: nn.Module, path: Path, manifest: Manifest, config: RunConfig, progress: Progress) -> Parity:
    """Compare the graph with the reference form at every batch size; returns the worst."""
    threads = cpu_count()
    ort_request = BackendRequest("ort", "ort", "cpu", "fp32", path, manifest.model, manifest.signature, threads)
    torch_request = replace(ort_request, name="pytorch", runtime="pytorch")
    worst: Parity | None = None
    with (
        closing(open_backend(torch_request, lambda _: model)) as reference,
        closing(open_backend(ort_request)) as candidate,
    ):
        for done, (images_NCHW, what) in enumerate(_parity_batches(manifest, config), start=1):
            parity = _compare(reference, candidate, images_NCHW, what)
            worst = parity if worst is None or parity.relative_to_largest > worst.relative_to_largest else worst
            progress(done, 0)
    if worst is None:
        raise CheckFailed("No batch was compared with PyTorch.")
    return worst


def _parity_batches(manifest: Manifest, config: RunConfig) -> Iterator[tuple[ImagesNCHW, str]]:
    """Seeded noise, and the first calibration images where there are any, at every batch size to prove."""
    signature = manifest.signature
    batches = (signature.batch,) if signature.batch else PROVED_BATCHES
    for batch in batches:
        yield seeded_noise(signature, batch, seed=batch), f"noise, batch {batch}"
    source = Path(config.calibration.folder)
    if source.is_dir():
        chosen = choose_calibration(source, max(batches), config.calibration.seed)
        for batch in batches:
            for real in islice(load_batches(chosen.samples(), manifest.preprocessing, batch, cpu_count()), 1):
                if signature.batch in (None, len(real.images_NCHW)):
                    yield real.images_NCHW, f"real images, batch {len(real.images_NCHW)}"


def _compare(reference: Backend, candidate: Backend, images_NCHW: ImagesNCHW, what: str) -> Parity:
    parity = compare_logits(reference.infer(images_NCHW), candidate.infer(images_NCHW))
    if parity.relative_to_largest > FP32_PARITY or not parity.same_argmax:
        raise CheckFailed(
            f"The exported graph differs from PyTorch on {what}: {parity.relative_to_largest:.1e} of the largest "
            f"logit, {FP32_PARITY:.0e} allowed{'' if parity.same_argmax else '; another class wins'}.",
            "Try another --simplifier; if it stays, report it with the model's name.",
        )
    return parity
