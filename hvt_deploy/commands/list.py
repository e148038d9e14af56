"""`list`: the models of a workspace, what was made of them, and what their validations said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import tree_bytes
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import RESULTS, Artifact, Manifest
from hvt_deploy.core.workspace import ModelFolder, list_folders
from hvt_deploy.evaluation.record import Gate, read_results


@dataclass(frozen=True)
class ListedArtifact:
    """One artifact of a model."""

    key: str
    """Its key: fp32, int8, engine-int8-rtx-sm86, results and so on."""
    file: str
    """The file that is opened, below the model's folder."""
    bytes: int
    """Size of its files."""
    created: str
    """Time in UTC, ISO 8601."""
    is_fresh: bool
    """Whether what it was made from is still there."""


@dataclass(frozen=True)
class LastVerdict:
    """What the last validation said."""

    created: str
    """Date and time, ISO 8601 with offset."""
    verdict: str
    """The sentences on top of its report."""
    gates: tuple[Gate, ...]
    """The limits that were judged."""
    replaced: tuple[str, ...]
    """Keys of the artifacts that it was of and that are others now."""


@dataclass(frozen=True)
class ListedModel:
    """One folder of the workspace that holds an exported model."""

    name: str
    """Its name in the workspace."""
    bytes: int
    """Size of the folder."""
    model: str = ""
    """Name of the model that was exported."""
    exported: str = ""
    """Time in UTC, ISO 8601."""
    classes: int = 0
    """Number of classes."""
    untrained: bool = False
    """Whether the weights are random."""
    artifacts: tuple[ListedArtifact, ...] = ()
    """By the order in which they were made."""
    validated: LastVerdict | None = None
    """The last validation, if there was one."""
    damage: str = ""
    """Why the manifest, or the last validation, cannot be read; empty if it can."""


def list_models(root: Path) -> tuple[ListedModel, ...]:
    """The exported models of a workspace, the newest export first; none where there is nothing.

    A model that cannot be read is listed with the reason.
    """
    found = [_list_model(folder) for folder in list_folders(root) if folder.exists()]
    return tuple(sorted(found, key=lambda model: model.exported, reverse=True))


def _list_model(folder: ModelFolder) -> ListedModel:
    size = tree_bytes(folder.path)
    try:
        with folder.reading() as manifest:
            artifacts = tuple(
                _list_artifact(folder, manifest, key, artifact)
                for key, artifact in manifest.artifacts.items()
            )
            verdict, damage = _find_verdict(folder, manifest)
    except BadInput as error:
        return ListedModel(folder.slug, size, damage=f"{error.message} {error.hint}".strip())
    return ListedModel(
        name=folder.slug,
        bytes=size,
        model=manifest.model,
        exported=manifest.exported,
        classes=manifest.signature.num_classes,
        untrained=manifest.weights.untrained,
        artifacts=artifacts,
        validated=verdict,
        damage=damage,
    )


def _list_artifact(
    folder: ModelFolder, manifest: Manifest, key: str, artifact: Artifact
) -> ListedArtifact:
    return ListedArtifact(
        key,
        f"{artifact.folder}/{artifact.main}",
        tree_bytes(folder.path / artifact.folder),
        artifact.created,
        is_fresh(manifest, key),
    )


def _find_verdict(folder: ModelFolder, manifest: Manifest) -> tuple[LastVerdict | None, str]:
    if RESULTS not in manifest.artifacts:
        return None, ""
    try:
        results = read_results(folder.open_artifact(manifest, RESULTS))
    except BadInput as error:
        return None, f"{error.message} {error.hint}".strip()
    replaced = tuple(
        key
        for key, artifact in manifest.artifacts.items()
        if results.sha256_of(key) not in (None, artifact.sha256)
    )
    return LastVerdict(results.created, results.verdict, results.gates, replaced), ""
