"""HVT's two forms."""

from __future__ import annotations

from typing import cast

from hvt_deploy.models.family import Family, deploy_with
from hvt_deploy.models.hvt.deployed import DeployedHVT
from hvt_deploy.models.hvt.model import HVT
from hvt_deploy.models.hvt.spec import HVTArchitecture
from hvt_deploy.models.spec import ModelSpec


def _build(spec: ModelSpec, num_classes: int) -> HVT:
    return HVT(cast("HVTArchitecture", spec.architecture), num_classes)


HVT_FAMILY = Family(_build, deploy_with(HVT, DeployedHVT))
