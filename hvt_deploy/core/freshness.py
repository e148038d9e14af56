"""Whether an artifact was made from what is here now."""

from __future__ import annotations

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import Manifest


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
