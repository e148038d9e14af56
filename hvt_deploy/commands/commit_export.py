"""The commit of an export: its reference and its graphs become visible together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hvt_deploy.commands.pixels_graph import add_pixels_graph
from hvt_deploy.core.manifest import PIXELS, REFERENCES, GraphFacts, Manifest
from hvt_deploy.core.workspace import ModelFolder


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
