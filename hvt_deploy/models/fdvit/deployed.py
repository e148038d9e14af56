"""FDViT's deployed form: scales folded, heads padded, resampling as a matrix.

Shapes as in `model`. No reshape fixes the batch size, so the exported graph takes every batch.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from hvt_deploy.models.fdvit.model import FDViT, FDViTBlock, LocalAttention, Pool
from hvt_deploy.models.layers import (
    DeployedAttention,
    LinearMap,
    align_corners_matrix,
    map_to_sequence,
)


class DeployedPool(nn.Module):
    """`Pool` with its bilinear resampling as one constant matrix over the tokens."""

    def __init__(self, reference: Pool) -> None:
        super().__init__()
        self.out_side = reference.out_side
        along = align_corners_matrix(reference.side, reference.out_side)
        self.ln, self.conv = copy.deepcopy(reference.ln), copy.deepcopy(reference.conv)
        # One matrix for both axes costs 1 to 3 % more multiplications than one per axis and half
        # the kernels.
        self.resample = LinearMap(torch.kron(along, along).to(self.conv.weight))

    def forward(self, tokens_NBC: Tensor) -> Tensor:
        """Tokens (n*n, B, C) to a map (B, C', n', n')."""
        columns = self.resample(rearrange(self.ln(tokens_NBC), "n b c -> n (b c)"))
        side, channels = self.out_side, tokens_NBC.shape[2]
        return self.conv(rearrange(columns, "(h w) (b c) -> b c h w", h=side, c=channels))


class DeployedFDViT(nn.Module):
    """The deployed form: images (B, 3, H, W) to logits (B, K); the reference form's function."""

    def __init__(self, reference: FDViT) -> None:
        super().__init__()
        self.num_classes = reference.num_classes
        self.pos_embed = copy.deepcopy(reference.pos_embed)
        self.patch_embed = copy.deepcopy(reference.patch_embed)
        self.transformers = copy.deepcopy(reference.transformers)
        for block in list(self.transformers.modules()):
            if isinstance(block, FDViTBlock) and isinstance(block.attn, LocalAttention):
                norm = cast("nn.LayerNorm", block.norm1)
                block.norm1 = nn.Identity()
                block.attn = DeployedAttention(norm, block.attn, local=block.attn.get_v)
        self.pools = nn.ModuleList(DeployedPool(cast("Pool", pool)) for pool in reference.pools)
        self.norm, self.head = copy.deepcopy(reference.norm), copy.deepcopy(reference.head)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        tokens_NBC = map_to_sequence(self.patch_embed(images_NCHW) + self.pos_embed)
        for i, stage in enumerate(self.transformers):
            tokens_NBC = stage(tokens_NBC)
            if i < len(self.pools):
                tokens_NBC = map_to_sequence(self.pools[i](tokens_NBC))
        return self.head(self.norm(tokens_NBC).mean(dim=0))
