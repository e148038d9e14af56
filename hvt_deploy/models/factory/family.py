"""Networks of a user: the reference form is what the factory returns, the deployed form a copy."""

from __future__ import annotations

import copy
from typing import cast

from torch import nn

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.factory.network import make_network
from hvt_deploy.models.factory.spec import FactoryArchitecture
from hvt_deploy.models.family import Family
from hvt_deploy.models.spec import ModelSpec


def _build(spec: ModelSpec, num_classes: int) -> nn.Module:
    """The network as its factory makes it; `num_classes` is the checkpoint's to change."""
    del num_classes
    architecture = cast("FactoryArchitecture", spec.architecture)
    source = architecture.source
    classes = source.num_classes if source.takes_num_classes else None
    model = make_network(architecture.name, source.folder, classes)
    if not hasattr(model, "num_classes"):
        setattr(model, "num_classes", source.num_classes)  # noqa: B010 - typed as a module
    return model


def _deploy(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise BadInput(
            f"{type(model).__name__} cannot be copied: {error}.",
            "Its modules must support copy.deepcopy.",
        ) from error
    return copied.eval().requires_grad_(requires_grad=False)


FACTORY_FAMILY = Family(_build, _deploy, builds_light=False, strict=False, roles_in_paths=False)
