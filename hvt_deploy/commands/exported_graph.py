"""A graph that was exported, now or before: asked for again with the same inputs, it is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.commands.recorded_names import names_of, with_names
from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file, writing_to_cache
from hvt_deploy.core.manifest import PIXELS, GraphFacts, Manifest, Parity
from hvt_deploy.core.run_config import ExportConfig, RunConfig
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.class_names import find_stated_names
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.weights.download import ObtainedWeights, obtain_weights

# The packages that make an FP32 graph or prove it; those of engines do neither.
_MAKERS = (
    *("hvt-deploy", "python", "numpy", "pillow", "torch", "timm", "onnx", "onnxscript", "onnx-ir"),
    *("onnxsim", "onnxslim", "onnxruntime", "onnxruntime-gpu"),
)


@dataclass(frozen=True)
class Exported:
    """A graph that is there, proven against PyTorch."""

    slug: str
    """Name of its folder in the workspace."""
    path: Path
    """The FP32 graph."""
    opset: int
    """Version of ONNX's default operator set."""
    parity: Parity
    """Against PyTorch, the worst of all batches of images and of noise."""
    nodes: int
    """How many nodes it has."""
    untrained: bool
    """Whether its weights are random."""
    pixels_path: Path | None = None
    """The graph with its preprocessing, where it was asked for."""
    before: bool = False
    """Whether it was there already, exported from the same inputs."""


def describe_exported(folder: ModelFolder, manifest: Manifest, *, before: bool = False) -> Exported:
    """The FP32 graph that `manifest` names. Raises BadInput where it names none that was proven."""
    facts = manifest.facts("fp32", GraphFacts)
    if facts is None or facts.parity is None:
        raise BadInput(
            f"{folder.path} has no FP32 graph that was compared with its reference.",
            f"Run: hvt-deploy export {manifest.model} --as {manifest.slug} --force",
        )
    pixels = manifest.artifacts.get(PIXELS)
    return Exported(
        manifest.slug,
        folder.file(manifest.artifacts["fp32"]),
        facts.opset,
        facts.parity,
        facts.nodes,
        manifest.weights.untrained,
        folder.file(pixels) if pixels else None,
        before,
    )


def find_exported(
    folder: ModelFolder, config: RunConfig, class_names: Path | None, ui: Ui
) -> Manifest | None:
    """The manifest of `folder`, if an export of `config` would make the same graphs again, with the
    class names that are given now.

    None where there is none, it was made from other weights, with other settings or by other
    versions, or its files are damaged. Imports no PyTorch, except for models of timm. Raises
    BadInput for weights or class names that cannot be had.
    """
    try:
        manifest = folder.read()
        keys = [
            "fp32",
            manifest.reference_key,
            *([PIXELS] if config.export.preprocess_in_graph else []),
        ]
        if not (_is_same(manifest.config, config) and _has_same_makers(manifest)):
            return None
        describe_exported(folder, manifest)
        for key in keys:
            folder.open_artifact(manifest, key)
    except BadInput:  # exporting it again repairs it
        return None
    with ui.progress("Fetching weights") as progress, writing_to_cache() as cache:
        obtained = obtain_weights(spec_of_config(config), config.export.weights, cache, progress)
    if not _are_recorded(obtained, config.export, manifest):
        return None
    if obtained.warning:
        ui.warn(obtained.warning)
    names = find_stated_names(manifest.signature.num_classes, class_names, obtained.path)
    if names is None or names == names_of(manifest):
        return manifest
    ui.say(f"The classes of {folder.slug} are named by {names.source} from now on.")
    return with_names(manifest, names)


def _is_same(recorded: RunConfig, asked: RunConfig) -> bool:
    """Whether both make the same FP32 graph from the same weights."""
    return _inputs(recorded) == _inputs(asked)


def _inputs(config: RunConfig) -> tuple[object, ...]:
    """The settings that decide the FP32 graph, without the choice of weights."""
    graph = replace(config.export, weights="", seed=0)
    return config.model, config.num_classes, config.preprocessing, config.options, graph


def _has_same_makers(manifest: Manifest) -> bool:
    made, now = manifest.artifacts["fp32"].tool_versions, tool_versions()
    return all(made.get(name) == now.get(name) for name in _MAKERS)


def _are_recorded(obtained: ObtainedWeights, asked: ExportConfig, manifest: Manifest) -> bool:
    recorded = manifest.weights
    if obtained.source != recorded.source:
        return False
    if obtained.source == "factory":  # which may make others each time
        return False
    if obtained.path is None:
        return asked.seed == manifest.config.export.seed
    return hash_file(obtained.path) == recorded.sha256
