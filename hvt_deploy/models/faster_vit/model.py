"""FasterViT's reference form, fixed and any-resolution, which loads official checkpoints.

Hatamizadeh et al., "FasterViT: Fast Vision Transformers with Hierarchical Attention", ICLR 2024.
Shapes: B images, R x S windows per image, N tokens of a window in raster order, T carrier tokens of
a window, C channels, E heads.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from hvt_deploy.models.faster_vit.convs import ConvLevel, Downsample, Stem
from hvt_deploy.models.faster_vit.positions import AbsolutePosition, RelativeBias
from hvt_deploy.models.faster_vit.spec import TOKEN_LEVELS, FasterViTArchitecture
from hvt_deploy.models.layers import Mlp, SelfAttention

_LAYER_SCALE = 1e-5


class Attention(SelfAttention):
    """Self-attention with the relative bias of a square window."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__(channels, heads)
        self.pos_emb_funct = RelativeBias(heads, window)

    def forward(self, tokens_BNC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        if bias is None:
            bias = self.pos_emb_funct(tokens_BNC.shape[1])
        return super().forward(tokens_BNC, bias)


class Carriers(nn.Module):
    """The layout of carrier tokens: `side` x `side` in each of `rows` x `columns` windows."""

    def __init__(self, rows: int, columns: int, side: int) -> None:
        super().__init__()
        self.rows, self.columns, self.side = rows, columns, side

    @property
    def count(self) -> int:
        """Carrier tokens of an image."""
        return self.rows * self.columns * self.side**2

    @property
    def bias_window(self) -> int:
        """The side of the square that their relative bias takes them for."""
        return math.isqrt(self.count)

    def to_raster(self, carriers: Tensor) -> Tensor:
        """(B, R*S*T, C) window by window to raster order over the whole grid."""
        return rearrange(
            carriers,
            "b (r s i j) c -> b (r i s j) c",
            r=self.rows,
            s=self.columns,
            i=self.side,
        )

    def to_windows(self, carriers: Tensor) -> Tensor:
        """Back, as the official code does it: it takes the grid for `columns` x `rows` windows.

        Where they differ, tokens reach other windows than they came from. Trained weights depend
        on it.
        """
        return rearrange(
            carriers,
            "b (s i r j) c -> b (s r i j) c",
            s=self.columns,
            i=self.side,
            r=self.rows,
        )


class TokenInitializer(nn.Module):
    """Carrier tokens from the map: depthwise convolution, then average pooling (section 3.3)."""

    def __init__(self, channels: int, layout: Carriers, window: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.layout = layout
        sizes = (layout.rows * window, layout.columns * window)
        wanted = (layout.rows * layout.side, layout.columns * layout.side)
        strides = tuple(size // out for size, out in zip(sizes, wanted, strict=True))
        kernels = tuple(s - (out - 1) * k for s, out, k in zip(sizes, wanted, strides, strict=True))
        self.pool = nn.AvgPool2d((kernels[0], kernels[1]), (strides[0], strides[1]))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The padded map (B, C, H, W) to carrier tokens (B, R*S*T, C), window by window."""
        side = self.layout.side
        grid_BCHW = self.pool(self.pos_embed(map_BCHW))
        return rearrange(grid_BCHW, "b c (r i) (s j) -> b (r s i j) c", i=side, j=side)


class TokenBlock(nn.Module):
    """Attention and MLP over the tokens of each window, with `layout` over carrier tokens first
    (section 3.3).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        mlp_ratio: int,
        layer_scale: bool,
        layout: Carriers | None,
        propagate: bool,
    ) -> None:
        super().__init__()
        self.window, self.layout, self.propagate = window, layout, propagate and layout is not None
        self.pos_embed = AbsolutePosition(channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, window)
        self.mlp = Mlp(channels, mlp_ratio)
        self.gamma3, self.gamma4 = _scale(channels, layer_scale), _scale(channels, layer_scale)
        if layout is not None:
            self.hat_norm1, self.hat_norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.hat_attn = Attention(channels, heads, layout.bias_window)
            self.hat_mlp = Mlp(channels, mlp_ratio)
            # The official code places carrier tokens only where their grid is square.
            self.hat_pos_embed = (
                AbsolutePosition(channels) if layout.rows == layout.columns else None
            )
            self.gamma1, self.gamma2 = _scale(channels, layer_scale), _scale(channels, layer_scale)

    def forward(self, tokens: Tensor, carriers: Tensor) -> tuple[Tensor, Tensor]:
        """(B*R*S, N, C) and (B, R*S*T, C), or no carriers (B, 0, C), to the same."""
        tokens = tokens + self.pos_embed(self.window)
        layout = self.layout
        if layout is not None:
            carriers = layout.to_windows(self._mix_carriers(layout.to_raster(carriers), layout))
            share = layout.side**2
            own = rearrange(carriers, "b (g t) c -> (b g) t c", t=share)
            tokens = torch.cat([own, tokens], dim=1)
        tokens = tokens + _scaled(self.attn(self.norm1(tokens)), self.gamma3)
        tokens = tokens + _scaled(self.mlp(self.norm2(tokens)), self.gamma4)
        if layout is not None:
            share = layout.side**2
            own, tokens = tokens[:, :share], tokens[:, share:]
            carriers = rearrange(own, "(b g) t c -> b (g t) c", g=layout.rows * layout.columns)
            if self.propagate:
                tokens = tokens + _scaled(self.enlarge(own, layout.side), self.gamma1)
        return tokens, carriers

    def enlarge(self, carriers: Tensor, side: int) -> Tensor:
        """A window's carrier tokens (B, T, C) by nearest neighbour to its size (B, N, C)."""
        nearest = torch.arange(self.window, device=carriers.device) * side // self.window
        return carriers[:, (nearest[:, None] * side + nearest).flatten()]

    def _mix_carriers(self, carriers: Tensor, layout: Carriers) -> Tensor:
        if self.hat_pos_embed is not None:
            carriers = carriers + self.hat_pos_embed(layout.rows * layout.side)
        carriers = carriers + _scaled(self.hat_attn(self.hat_norm1(carriers)), self.gamma1)
        return carriers + _scaled(self.hat_mlp(self.hat_norm2(carriers)), self.gamma2)


def _scale(channels: int, layer_scale: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.full((channels,), _LAYER_SCALE)) if layer_scale else None


def _scaled(tokens: Tensor, gamma: Tensor | None) -> Tensor:
    return tokens if gamma is None else tokens * gamma


class TokenLevel(nn.Module):
    """Levels 2 and 3: windows of tokens; only level 2 has carrier tokens, and a downsampling at its
    end.
    """

    def __init__(self, architecture: FasterViTArchitecture, level: int) -> None:
        super().__init__()
        a = architecture
        channels, self.window, self.grid = a.dim * 2**level, a.window_sizes[level], a.windows(level)
        rows, columns = self.grid
        layout = Carriers(rows, columns, a.carrier_tokens) if level == 2 and a.hierarchy else None
        # The official code keeps the tokenizer's parameters where a single window has no use for
        # them.
        self.global_tokenizer = (
            None if layout is None else TokenInitializer(channels, layout, self.window)
        )
        used = layout if rows * columns > 1 else None
        depth = a.depths[level]
        self.blocks = nn.ModuleList(
            TokenBlock(
                channels,
                a.heads[level],
                self.window,
                a.mlp_ratio,
                a.layer_scale,
                used,
                propagate=a.propagation and i == depth - 1,
            )
            for i in range(depth)
        )
        self.has_carriers = used is not None
        self.downsample = Downsample(channels) if level == 2 else None

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H/2, W/2), rounded up, or the same size at the last level."""
        height, width = map_BCHW.shape[2:]
        rows, columns = self.grid
        padded = F.pad(map_BCHW, (0, columns * self.window - width, 0, rows * self.window - height))
        if self.global_tokenizer is not None and self.has_carriers:
            carriers: Tensor = self.global_tokenizer(padded)
        else:
            carriers = padded.new_zeros(len(padded), 0, padded.shape[1])
        window = self.window
        tokens = rearrange(padded, "b c (r i) (s j) -> (b r s) (i j) c", i=window, j=window)
        for block in self.blocks:
            tokens, carriers = cast("tuple[Tensor, Tensor]", block(tokens, carriers))
        whole = rearrange(
            tokens, "(b r s) (i j) c -> b c (r i) (s j)", r=rows, s=columns, i=window
        )[:, :, :height, :width]
        return whole if self.downsample is None else self.downsample(whole)


class FasterViT(nn.Module):
    """The reference form: images (B, 3, H, W) of the architecture's size to logits (B, K)."""

    def __init__(self, architecture: FasterViTArchitecture, num_classes: int) -> None:
        super().__init__()
        a = architecture
        self.architecture, self.num_classes = a, num_classes
        self.patch_embed = Stem(a.stem_dim, a.dim)
        self.levels = nn.ModuleList(
            TokenLevel(a, i) if i in TOKEN_LEVELS else ConvLevel(a.dim * 2**i, a.depths[i])
            for i in range(4)
        )
        features = a.dim * 8
        self.norm = nn.BatchNorm2d(features)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        map_BCHW = self.patch_embed(images_NCHW)
        for level in self.levels:
            map_BCHW = level(map_BCHW)
        return self.head(self.norm(map_BCHW).mean(dim=(2, 3)))
