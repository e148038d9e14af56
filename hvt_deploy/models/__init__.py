"""Model families: a name becomes an `nn.Module` in reference form, that in turn its deployed form.

Each family is a folder: `spec` (hyper-parameters and published figures, no torch), `model` (the
reference form), `deployed` (the deployed form) and `family`, which names both forms. `registry`
finds a model by name, `weights/` fills it, `exported` finds the model of a manifest again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvt_deploy.models.registry import create_model, get_spec, list_specs, to_deployed

if TYPE_CHECKING:
    from hvt_deploy.models.weights.load import LoadReport, load_checkpoint

__all__ = ["LoadReport", "create_model", "get_spec", "list_specs", "load_checkpoint", "to_deployed"]


def __getattr__(name: str) -> object:
    """Names that need torch are imported when they are asked for (PEP 562)."""
    if name in ("LoadReport", "load_checkpoint"):
        from hvt_deploy.models.weights import load as weights

        return getattr(weights, name)
    raise AttributeError(f"module 'hvt_deploy.models' has no attribute '{name}'")
