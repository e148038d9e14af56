"""Whether an artifact was made from what is here now."""

from __future__ import annotations

from dataclasses import replace

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import BUDGET, Manifest


def check_fresh(manifest: Manifest, key: str) -> None:
    """Raise BadInput if an ancestor of artifact `key` was replaced since it was made."""
    artifact = manifest.artifacts[key]
    for parent, sha256 in artifact.parents.items():
        current = manifest.artifacts.get(parent)
        if current is None or current.sha256 != sha256:
            raise BadInput(
                f"The '{key}' artifact of {manifest.slug} was made from another '{parent}' "
                "than the one here now.",
                f"Run: {artifact.remake}",
            )
        check_fresh(manifest, parent)


def is_fresh(manifest: Manifest, key: str) -> bool:
    """Whether artifact `key` exists and none of its ancestors was replaced."""
    if key not in manifest.artifacts:
        return False
    try:
        check_fresh(manifest, key)
    except BadInput:
        return False
    return True


def without_stale(manifest: Manifest) -> Manifest:
    """The manifest without artifacts that were made from others that were replaced; a budget's
    stays, since its images must not be validated on.
    """
    artifacts = manifest.artifacts.items()
    kept = {key: a for key, a in artifacts if key == BUDGET or is_fresh(manifest, key)}
    return replace(manifest, artifacts=kept)
