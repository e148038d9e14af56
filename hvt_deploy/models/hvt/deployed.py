"""HVT's deployed form. Shapes as in `model`."""

from __future__ import annotations

import copy
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from hvt_deploy.models.hvt.model import HVT, HVTBlock
from hvt_deploy.models.hvt.spec import POOL_STRIDE
from hvt_deploy.models.layers import (
    DeployedAttention,
    SelfAttention,
    map_to_sequence,
    position_to_sequence,
)


class DeployedBlock(nn.Module):
    """`Block` for inference. Pooling is the larger of strided slices: TensorRT-RTX fuses them with
    what follows, and not every TensorRT pools sequences.
    """

    def __init__(self, reference: HVTBlock) -> None:
        super().__init__()
        self.attn = DeployedAttention(reference.norm1, cast("SelfAttention", reference.attn))
        self.norm2 = copy.deepcopy(reference.norm2)
        self.mlp = copy.deepcopy(reference.mlp)
        self.pos_embed = None
        if reference.pos_embed is not None:
            self.pos_embed = nn.Parameter(position_to_sequence(reference.pos_embed))
        self.pool_kernel = reference.pool_kernel

    def forward(self, tokens_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) to tokens (N', B, C)."""
        tokens_NBC = tokens_NBC + self.attn(tokens_NBC)
        tokens_NBC = tokens_NBC + self.mlp(self.norm2(tokens_NBC))
        if self.pos_embed is None:
            return tokens_NBC
        last = len(tokens_NBC) - self.pool_kernel
        slices = (
            tokens_NBC[first : first + last + 1 : POOL_STRIDE] for first in range(self.pool_kernel)
        )
        return reduce(torch.maximum, slices) + self.pos_embed


class DeployedHVT(nn.Module):
    """The deployed form: images (B, 3, H, W) to logits (B, K); the reference form's function."""

    def __init__(self, reference: HVT) -> None:
        super().__init__()
        self.num_classes = reference.num_classes
        self.patch_embed = copy.deepcopy(reference.patch_embed.proj)
        self.pos_embed = nn.Parameter(position_to_sequence(reference.pos_embed))
        self.blocks = nn.Sequential(
            *(DeployedBlock(cast("HVTBlock", block)) for block in reference.blocks)
        )
        self.norm, self.head = copy.deepcopy(reference.norm), copy.deepcopy(reference.head)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        tokens_NBC = map_to_sequence(self.patch_embed(images_NCHW)) + self.pos_embed
        tokens_NBC = self.blocks(tokens_NBC)
        return self.head(self.norm(tokens_NBC).mean(dim=0))
