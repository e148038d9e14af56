"""FDViT's two forms."""

from __future__ import annotations

from typing import cast

from hvt_deploy.models.family import Family, deploy_with
from hvt_deploy.models.fdvit.deployed import DeployedFDViT
from hvt_deploy.models.fdvit.model import FDViT
from hvt_deploy.models.fdvit.spec import FDViTArchitecture
from hvt_deploy.models.spec import ModelSpec


def _build(spec: ModelSpec, num_classes: int) -> FDViT:
    return FDViT(cast("FDViTArchitecture", spec.architecture), num_classes)


FDVIT_FAMILY = Family(_build, deploy_with(FDViT, DeployedFDViT), train_only_prefixes=("decoders.",))
