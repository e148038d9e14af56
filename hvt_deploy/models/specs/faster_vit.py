"""Filled in by the family's author."""

from __future__ import annotations

from hvt_deploy.model_options import ModelOptions
from hvt_deploy.models.spec import ModelSpec

SPECS: dict[str, ModelSpec] = {}


def configure(spec: ModelSpec, image_size: tuple[int, int] | None, options: ModelOptions) -> ModelSpec:
    """Filled in by the family's author."""
    return spec
