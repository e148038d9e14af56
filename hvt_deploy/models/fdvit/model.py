"""FDViT's reference form, which loads official checkpoints.

Xu et al., "FDViT: Improve the Hierarchical Architecture of Vision Transformer", ICCV 2023. Shapes:
B images, N = n*n tokens of a square map with side n in raster order, C channels, E heads of D
channels each.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hvt_deploy.models.fdvit.spec import FDViTArchitecture
from hvt_deploy.models.layers import Mlp, SelfAttention, map_to_tokens, tokens_to_map

_BLOCK_EPS = 1e-6
_POOL_EPS = 1e-5


def _resample(map_BCHW: Tensor, side: int) -> Tensor:
    return F.interpolate(map_BCHW, (side, side), mode="bilinear", align_corners=True)


class FDViTPatchEmbed(nn.Module):
    """Overlapping patches: one strided convolution, images (B, 3, H, W) to a map (B, C, n, n)."""

    def __init__(self, channels: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, patch_size, stride)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first map (B, C, n, n)."""
        return self.conv(images_NCHW)


class LocalAttention(SelfAttention):
    """Global attention with a local term: a depthwise convolution of the values before `proj`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens_BNC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) of a square map to tokens (B, N, C)."""
        qkv_BNF = self.qkv(tokens_BNC)
        values_BNC = qkv_BNF.chunk(3, dim=2)[2]
        side = math.isqrt(tokens_BNC.shape[1])
        local_BNC = map_to_tokens(self.get_v(tokens_to_map(values_BNC, side)))
        return self.proj(self.mix_values(qkv_BNF, bias) + local_BNC)


class FDViTBlock(nn.Module):
    """Pre-norm transformer block on tokens (B, N, C)."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.attn: nn.Module = LocalAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.mlp = Mlp(channels, mlp_ratio)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        tokens_BNC = tokens_BNC + self.attn(self.norm1(tokens_BNC))
        return tokens_BNC + self.mlp(self.norm2(tokens_BNC))


class FDViTStage(nn.Module):
    """The blocks of one resolution, under the official keys `transformers.i.blocks.j`."""

    def __init__(self, blocks: list[FDViTBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return self.blocks(tokens_BNC)


class Pool(nn.Module):
    """Flexible downsampling (section 3.2): LayerNorm, bilinear resampling, 3x3 convolution."""

    def __init__(self, channels: int, out_channels: int, side: int, out_side: int) -> None:
        super().__init__()
        self.side, self.out_side = side, out_side
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.ln = nn.LayerNorm(channels, eps=_POOL_EPS)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, n*n, C) to a map (B, C', n', n')."""
        return self.conv(_resample(tokens_to_map(self.ln(tokens_BNC), self.side), self.out_side))


class Decoder(nn.Module):
    """Train-only: rebuilds a stage's map from its pooled map (paper section 3.3)."""

    def __init__(self, channels: int, out_channels: int, out_side: int) -> None:
        super().__init__()
        self.out_side = out_side
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The pooled map (B, C', n', n') to the stage's map (B, C, n, n)."""
        return _resample(self.conv(map_BCHW), self.out_side)


class FDViT(nn.Module):
    """The reference form. Parameters carry the official names.

    In eval mode images (B, 3, H, W) become logits (B, K); in train mode the result is (logits,
    pairs), one pair (target, reconstruction) of maps (B, C, n, n) per pool for the auto-encoder
    loss. Stochastic depth is left out.
    """

    def __init__(self, architecture: FDViTArchitecture, num_classes: int) -> None:
        super().__init__()
        a = architecture
        self.architecture, self.num_classes = a, num_classes
        self.pos_embed = nn.Parameter(
            0.02 * torch.randn(1, a.channels[0], a.map_sizes[0], a.map_sizes[0])
        )
        self.patch_embed = FDViTPatchEmbed(a.channels[0], a.patch_size, a.stride)
        self.transformers = nn.ModuleList(
            FDViTStage([FDViTBlock(channels, heads, a.mlp_ratio) for _ in range(depth)])
            for channels, heads, depth in zip(a.channels, a.heads, a.depths, strict=True)
        )
        steps = list(zip(pairwise(a.channels), pairwise(a.map_sizes), strict=True))
        self.pools = nn.ModuleList(Pool(c, c_next, n, n_next) for (c, c_next), (n, n_next) in steps)
        self.decoders = nn.ModuleList(Decoder(c_next, c, n) for (c, c_next), (n, _) in steps)
        self.norm = nn.LayerNorm(a.channels[-1], eps=_BLOCK_EPS)
        self.head = nn.Linear(a.channels[-1], num_classes) if num_classes else nn.Identity()

    def forward(self, images_NCHW: Tensor) -> Tensor | tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Images (B, 3, H, W) to logits (B, K), with the auto-encoder pairs in train mode."""
        pairs: list[tuple[Tensor, Tensor]] = []
        tokens_BNC = map_to_tokens(self.patch_embed(images_NCHW) + self.pos_embed)
        for i, stage in enumerate(self.transformers):
            tokens_BNC = stage(tokens_BNC)
            if i < len(self.pools):
                if self.training:
                    pairs.append(self._auto_encode(i, tokens_BNC))
                tokens_BNC = map_to_tokens(self.pools[i](tokens_BNC))
        logits_NK = self.head(self.norm(tokens_BNC).mean(dim=1))
        return (logits_NK, pairs) if self.training else logits_NK

    def _auto_encode(self, index: int, tokens_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """(target, reconstruction): the stage's map, and it decoded from masked, pooled tokens."""
        threshold = self.architecture.mask_threshold
        kept_BN1 = (torch.rand_like(tokens_BNC[:, :, :1]) >= threshold).to(tokens_BNC.dtype) / (
            1 - threshold
        )
        target = tokens_to_map(tokens_BNC, self.architecture.map_sizes[index])
        return target, self.decoders[index](self.pools[index](tokens_BNC * kept_BN1))
