"""timm's models: the reference form is timm's own, the deployed form a copy ready for export."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import cast

import timm
import torch
from timm.layers.config import set_fused_attn, use_fused_attn
from timm.utils.model import reparameterize_model
from torch import nn

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.family import Family
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.timm.efficientnet_keys import translate_efficientnet
from hvt_deploy.models.timm.spec import TimmArchitecture


def _build(spec: ModelSpec, num_classes: int) -> nn.Module:
    """The model as timm makes it, attention written out: engines fuse its two products."""
    architecture = cast("TimmArchitecture", spec.architecture)
    make = partial(timm.create_model, architecture.name, num_classes=num_classes, exportable=True)
    with _written_out_attention():
        if architecture.image_size is None:
            return make()
        try:
            return make(img_size=architecture.image_size)  # pyright: ignore[reportCallIssue]
        except TypeError:  # a convolutional model takes any size and has no such argument
            return make()


@contextmanager
def _written_out_attention() -> Generator[None]:
    before = use_fused_attn()
    set_fused_attn(enable=False)
    try:
        yield
    finally:
        set_fused_attn(enable=bool(before))


def _deploy(model: nn.Module) -> nn.Module:
    """A copy whose branches of training (RepVGG, MobileOne and their kind) are merged."""
    if not hasattr(model, "pretrained_cfg"):
        raise BadInput(
            f"{type(model).__name__} is not a model of timm.", "Pass what create_model made."
        )
    copied = copy.deepcopy(model).eval()
    before = torch.get_default_dtype()
    # Some of timm's models make their merged layers in the default type whatever their own is.
    torch.set_default_dtype(next(model.parameters()).dtype)
    try:
        return reparameterize_model(copied).requires_grad_(requires_grad=False)
    finally:
        torch.set_default_dtype(before)


# Files of older versions of timm hold the tables that windowed attention now computes.
TIMM_FAMILY = Family(
    _build,
    _deploy,
    recomputed_suffixes=(".relative_position_index", ".attn_mask", ".relative_coords_table"),
    translate=translate_efficientnet,
    builds_light=False,
    strict=False,
)
