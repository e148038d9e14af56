"""The record of an export and its commit: reference and graphs become visible together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hvt_deploy.commands.pixels_graph import add_pixels_graph
from hvt_deploy.commands.recorded_names import choose_class_names
from hvt_deploy.core.manifest import PIXELS, REFERENCES, GraphFacts, Manifest, WeightsRecord
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.workspace import ModelFolder, now
from hvt_deploy.models.exported import spec_of_config


def make_manifest(
    folder: ModelFolder,
    config: RunConfig,
    signature: Signature,
    weights: WeightsRecord,
    class_names: Path | None,
) -> Manifest:
    """The manifest of a new export, without artifacts yet; `class_names` is a file of names.

    Raises BadInput as `choose_class_names` does.
    """
    spec = spec_of_config(config)
    names = choose_class_names(folder, signature.num_classes, class_names, weights)
    return Manifest(
        slug=folder.slug,
        model=spec.name,
        exported=now(),
        signature=signature,
        preprocessing=config.preprocessing,
        class_names=names.names,
        wnids=names.wnids,
        class_names_source=names.source,
        weights=weights,
        config=config,
        artifacts={},
        code_licence=spec.code_licence,
    )


def commit_export(
    folder: ModelFolder,
    manifest: Manifest,
    reference_key: str,
    reference: Path,
    graph: Path,
    facts: GraphFacts,
) -> Manifest:
    """Commit the staged reference and FP32 graph, and the graph with preprocessing if it was asked
    for. Artifacts of the export before stay, but for its reference of another kind.

    `reference_key` is one of `REFERENCES`. Readers see all of it or nothing.
    """
    dropped = {PIXELS, *REFERENCES} - {reference_key}
    earlier = folder.earlier_artifacts().items()
    manifest = replace(manifest, artifacts={k: a for k, a in earlier if k not in dropped})
    remake = f"hvt-deploy export {manifest.model} --as {folder.slug} --opset {facts.opset}"
    for key, file, about in ((reference_key, reference, None), ("fp32", graph, facts)):
        manifest = folder.add(
            manifest, key, file.parent, file.name, remake, facts=about, commit=False
        )
    if manifest.config.export.preprocess_in_graph:
        manifest = add_pixels_graph(folder, manifest)
    folder.commit(manifest)
    return manifest
