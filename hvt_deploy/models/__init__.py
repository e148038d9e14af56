"""Model families: a name becomes an `nn.Module` in reference form, that in turn its deployed form.

`spec` states what is known of a model without building it (no torch), `specs/` holds the numbers,
`registry` finds both by name, `weights` fills a model, and each family is one file.
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
