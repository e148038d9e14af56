"""DFvT's two forms."""

from __future__ import annotations

from typing import cast

from hvt_deploy.models.dfvt.deployed import DeployedDFvT
from hvt_deploy.models.dfvt.model import DFvT
from hvt_deploy.models.dfvt.spec import DFvTArchitecture
from hvt_deploy.models.family import Family, deploy_with
from hvt_deploy.models.spec import ModelSpec


def _build(spec: ModelSpec, num_classes: int) -> DFvT:
    return DFvT(cast("DFvTArchitecture", spec.architecture), num_classes)


DFVT_FAMILY = Family(
    _build,
    deploy_with(DFvT, DeployedDFvT),
    recomputed_suffixes=(".relative_position_index", ".attn_mask"),
)
