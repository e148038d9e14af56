"""FasterViT's two forms, and the names of its official checkpoints' keys."""

from __future__ import annotations

from typing import cast

from hvt_deploy.models.family import Family, deploy_with
from hvt_deploy.models.faster_vit.deployed import DeployedFasterViT
from hvt_deploy.models.faster_vit.model import FasterViT
from hvt_deploy.models.faster_vit.spec import TOKEN_LEVELS, FasterViTArchitecture
from hvt_deploy.models.spec import ModelSpec


def _build(spec: ModelSpec, num_classes: int) -> FasterViT:
    return FasterViT(cast("FasterViTArchitecture", spec.architecture), num_classes)


def _stored_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The official file's table of offsets of each token level, (1, 2w - 1, 2w - 1, 2)."""
    windows = cast("FasterViTArchitecture", spec.architecture).window_sizes
    sides = {level: 2 * windows[level] - 1 for level in TOKEN_LEVELS}
    return {
        f"levels.{level}.blocks.0.attn.pos_emb_funct.relative_coords_table": (1, side, side, 2)
        for level, side in sides.items()
    }


FASTER_VIT_FAMILY = Family(
    _build,
    deploy_with(FasterViT, DeployedFasterViT),
    recomputed_suffixes=(".relative_coords_table", ".relative_position_index", ".relative_bias"),
    aliases=(
        (".global_tokenizer.to_global_feature.pos.weight", ".global_tokenizer.pos_embed.weight"),
        (".global_tokenizer.to_global_feature.pos.bias", ".global_tokenizer.pos_embed.bias"),
    ),
    size_dependent=(".hat_", ".gamma1", ".gamma2"),
    stored_shapes=_stored_shapes,
)
