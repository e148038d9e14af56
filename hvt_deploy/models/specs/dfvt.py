"""Filled in by the family's author."""

from __future__ import annotations

from hvt_deploy.models.spec import ModelSpec

SPECS: dict[str, ModelSpec] = {}
