"""Checkpoint -> reference form -> deployed form -> ONNX, with proven parity."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from hvt_deploy.commands.commit_export import commit_export, make_manifest
from hvt_deploy.commands.exported_graph import Exported, describe_exported
from hvt_deploy.core.environment import require
from hvt_deploy.core.files import writing_to_cache
from hvt_deploy.core.manifest import WEIGHTS, GraphFacts, WeightsRecord
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.export_parity import prove_parity
from hvt_deploy.graph.contract import (
    ContractReport,
    check_contract,
    describe_breaches,
    inspect_contract,
)
from hvt_deploy.graph.export_needs import ExportNeeds, estimate_export, require_resources
from hvt_deploy.graph.foreign.common_forms import write_common_forms
from hvt_deploy.graph.foreign.role_patterns import name_linears, name_roles
from hvt_deploy.graph.gelu_order import order_gelu
from hvt_deploy.graph.opset import check_opset, convert_opset
from hvt_deploy.graph.preprocessing import check_preprocessing
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import external_weights_path, save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.graph.transpose_order import move_transposes
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.registry import create_from, open_family, to_deployed
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.weights.download import obtain_weights
from hvt_deploy.models.weights.load import load_model, save_reference, seed_random_weights

# Next to the stored weights: each key of the checkpoint and its status.
KEY_REPORT = "keys.json"


def export_graph(
    folder: ModelFolder, config: RunConfig, class_names: Path | None, ui: Ui
) -> Exported:
    """Export `config.model` into `folder`, whatever was exported there before.

    Raises BadInput for weights or options that do not fit, MissingEnvironment where memory or disk
    are too small, CheckFailed for a broken contract or parity, ToolFailure where the exporter or a
    simplifier fails.
    """
    require("onnxruntime", extra="cpu")
    if config.export.preprocess_in_graph:
        check_preprocessing(config.preprocessing)
    require_resources(plan_export(folder, config), folder.path)
    spec = spec_of_config(config)
    with folder.lock(), folder.staging() as staged, folder.staging() as staged_weights:
        reference_path = staged_weights / f"{folder.slug}.safetensors"
        num_classes, weights = _store_reference(spec, config, reference_path, ui)
        signature = Signature(spec.image_size, num_classes, config.export.batch)
        manifest = make_manifest(folder, config, signature, weights, class_names)
        path = staged / f"{folder.slug}.fp32.onnx"
        contract = _write_graph(spec, reference_path, path, signature, config, ui)
        with ui.progress("Comparing with PyTorch") as progress:
            parity = prove_parity(reference_path, path, manifest, config, progress)
        facts = GraphFacts("fp32", config.export.opset, contract.nodes, contract.ops, parity)
        manifest = commit_export(folder, manifest, WEIGHTS, reference_path, path, facts)
    stored = manifest.artifacts
    if KEY_REPORT in stored[WEIGHTS].files:
        ui.say(f"Each key: {folder.file(stored[WEIGHTS]).with_name(KEY_REPORT)}")
    return describe_exported(folder, manifest)


def plan_export(folder: ModelFolder, config: RunConfig) -> ExportNeeds:
    """The memory and disk that `export` will need.

    Raises BadInput for an unknown model and for options that do not fit.
    """
    check_opset(config.export.opset)
    spec = spec_of_config(config)
    if (own := spec.checkpoint.own_file) is not None:
        size = own.stat().st_size
        return estimate_export(size // 4, size, folder.path, external=False, graphs=2)
    with torch.device("meta"):
        reference = create_from(spec)
        parameters = sum(parameter.numel() for parameter in reference.parameters())
        graph_bytes = _weight_bytes(to_deployed(reference))
    external = external_weights_path(folder.path, graph_bytes) is not None
    graphs = 1 + config.export.preprocess_in_graph
    return estimate_export(parameters, graph_bytes, folder.path, external=external, graphs=graphs)


def _weight_bytes(deployed: nn.Module) -> int:
    """Size of the weights in the graph; position biases of large windows exceed the parameters."""
    return sum(tensor.nbytes for tensor in (*deployed.parameters(), *deployed.buffers()))


def _store_reference(
    spec: ModelSpec, config: RunConfig, path: Path, ui: Ui
) -> tuple[int, WeightsRecord]:
    """Write the reference form with its weights to `path`; returns its number of classes.

    From then on everybody reads that file: mapped into memory it is no second copy next to the
    deployed form.
    """
    with ui.progress("Fetching weights") as progress, writing_to_cache() as cache:
        obtained = obtain_weights(spec, config.export.weights, cache, progress)
    if obtained.warning:
        ui.warn(obtained.warning)
    if obtained.path is None:
        model = create_from(spec, config.num_classes)
        licence = spec.weights_licence
        if obtained.source == "random":
            seed_random_weights(model, config.export.seed)
            licence = "none needed, they are random"
        save_reference(model, path)
        return config.num_classes, WeightsRecord(
            obtained.source, "", obtained.untrained, licence=licence
        )
    model, report = load_model(spec, obtained.path, config.num_classes)
    save_reference(model, path)
    counts = ", ".join(f"{count} {status}" for status, count in report.summary.items())
    ui.say(f"Weights: {obtained.path}, keys: {counts}")
    meanings = {key.key: key.meaning for key in report.keys}
    path.with_name(KEY_REPORT).write_text(json.dumps(meanings, indent=1) + "\n", encoding="utf-8")
    record = WeightsRecord(
        obtained.source,
        report.sha256,
        obtained.untrained,
        str(obtained.path),
        report.dropped_train_only,
        report.summary,
        f"unknown, they are from {obtained.path.name}"
        if obtained.source == "file"
        else spec.weights_licence,
    )
    return report.num_classes, record


def _write_graph(
    spec: ModelSpec,
    reference_path: Path,
    path: Path,
    signature: Signature,
    config: RunConfig,
    ui: Ui,
) -> ContractReport:
    """The deployed form of the stored reference form as a checked ONNX file.

    Afterwards no weight is in memory.
    """
    with ui.progress(f"Exporting {config.model}") as progress:
        reference, _ = load_model(spec, reference_path, signature.num_classes)
        deployed = to_deployed(reference)
        del reference
        progress(1, 5)
        external = external_weights_path(path, _weight_bytes(deployed))
        graph = export_onnx(deployed, signature, config.export.opset, external)
        layer_norms = sum(isinstance(module, nn.LayerNorm) for module in deployed.modules())
        _release(deployed)
        progress(2, 5)
        graph = order_gelu(simplify(graph, config.export.simplifier))
        progress(3, 5)
        graph = convert_opset(graph, config.export.opset)
        family = open_family(spec.family)
        if not family.strict:
            graph = write_common_forms(graph)
            graph = (
                name_linears(graph) if family.roles_in_paths else name_roles(move_transposes(graph))
            )
        # Others' models are as they are: breaches are warnings. Parity finds a false dynamic batch.
        look = check_contract if family.strict else inspect_contract
        contract = look(
            graph, opset=config.export.opset, signature=signature, layer_norms=layer_norms
        )
        progress(4, 5)
        save_onnx(graph, path)
        progress(5, 5)
    if contract.breaches:
        ui.warn(describe_breaches(config.model, contract.breaches))
    return contract


def _release(module: nn.Module) -> None:
    """Free the weights of a module, whoever holds on to it.

    The exporter's rewriter keeps the last graph it saw.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.new_empty(0)
