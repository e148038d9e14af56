"""HVT's reference form: a DeiT without class token whose tokens are max-pooled in deeper blocks.

Pan et al., "Scalable Vision Transformers with Hierarchical Pooling", ICCV 2021. Shapes: B images, N
tokens, C channels, E heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hvt_deploy.models.hvt.spec import POOL_STRIDE, HVTArchitecture
from hvt_deploy.models.layers import Mlp, SelfAttention, map_to_tokens

_EPS = 1e-6


class HVTPatchEmbed(nn.Module):
    """Patches that do not overlap: images (B, 3, H, W) to tokens (B, N, C) in raster order."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch_size, patch_size)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, N, C)."""
        return map_to_tokens(self.proj(images_NCHW))


class HVTBlock(nn.Module):
    """Pre-norm transformer block; where it pools (paper section 3.2), N tokens become N' and get
    new positions.
    """

    def __init__(
        self, channels: int, heads: int, mlp_ratio: int, pool_kernel: int, pooled_tokens: int | None
    ) -> None:
        super().__init__()
        self.pool_kernel = pool_kernel
        self.norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.attn: nn.Module = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels, mlp_ratio)
        self.pos_embed = None
        if pooled_tokens is not None:
            self.pos_embed = nn.Parameter(0.02 * torch.randn(1, pooled_tokens, channels))

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N', C)."""
        tokens_BNC = tokens_BNC + self.attn(self.norm1(tokens_BNC))
        tokens_BNC = tokens_BNC + self.mlp(self.norm2(tokens_BNC))
        return tokens_BNC if self.pos_embed is None else self.pool(tokens_BNC) + self.pos_embed

    def pool(self, tokens_BNC: Tensor) -> Tensor:
        """The largest of every `pool_kernel` neighbours in the sequence, by two, nothing padded."""
        return F.max_pool1d(tokens_BNC.transpose(1, 2), self.pool_kernel, POOL_STRIDE).transpose(
            1, 2
        )


class HVT(nn.Module):
    """The reference form: images (B, 3, H, W) to logits (B, K)."""

    def __init__(self, architecture: HVTArchitecture, num_classes: int) -> None:
        super().__init__()
        a = architecture
        self.num_classes = num_classes
        counts = a.token_counts
        self.patch_embed = HVTPatchEmbed(a.channels, a.patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, counts[0], a.channels))
        pooled = [a.pool_every is not None and i % a.pool_every == 0 for i in range(a.blocks)]
        self.blocks = nn.Sequential(
            *(
                HVTBlock(
                    a.channels,
                    a.heads,
                    a.mlp_ratio,
                    a.pool_kernel,
                    counts[i + 1] if pooled[i] else None,
                )
                for i in range(a.blocks)
            )
        )
        self.norm = nn.LayerNorm(a.channels, eps=_EPS)
        self.head = nn.Linear(a.channels, num_classes) if num_classes else nn.Identity()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        tokens_BNC = self.blocks(self.patch_embed(images_NCHW) + self.pos_embed)
        return self.head(self.norm(tokens_BNC).mean(dim=1))
