"""What holds for every form in which a model leaves its workspace: a bundle, a Triton package."""

from __future__ import annotations

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.ui import Ui


def permit_distribution(manifest: Manifest, ui: Ui, *, allow_untrained: bool) -> None:
    """Say the licences of code and weights. Raises BadInput for random weights, unless allowed."""
    if manifest.weights.untrained and not allow_untrained:
        raise BadInput(
            f"{manifest.slug} has random weights: its predictions mean nothing.",
            "Export it with a checkpoint (--weights FILE), or give --allow-untrained to try the "
            "rest of the way.",
        )
    ui.say(manifest.licences)
