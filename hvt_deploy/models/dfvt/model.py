"""DFvT's reference form, which loads official checkpoints.

Gao et al., "Doubly-Fused ViT: Fuse Information from Vision Transformer Doubly with Local
Representation", ECCV 2022. Shapes: B images, N = n*n tokens of a square map with side n in raster
order, C channels, E heads of D channels each, G windows of W tokens each.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from hvt_deploy.models.dfvt.spec import DFvTArchitecture
from hvt_deploy.models.layers import Mlp, SelfAttention, map_to_tokens, tokens_to_map

_MASKED = -100.0
_GATE_REDUCTION = 16


def window_order(side: int, window: int, shift: int) -> Tensor:
    """Raster positions (n*n) in the order of the windows, after the map was rolled by `shift` up
    and left.
    """
    positions = torch.arange(side * side).reshape(side, side).roll((-shift, -shift), (0, 1))
    return rearrange(positions, "(r i) (s j) -> (r s i j)", i=window, j=window)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table (W, W) for each query and key of a window: (dy + w - 1) * (2w - 1) + dx
    + w - 1.
    """
    rows, columns = torch.arange(window * window) // window, torch.arange(window * window) % window
    dy, dx = rows[:, None] - rows, columns[:, None] - columns
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """The mask of the scores (G, W, W): -100 between tokens that only the shift made neighbours."""
    line = torch.arange(side)
    region = (line >= side - window).long() + (line >= side - shift)
    regions_N = (3 * region[:, None] + region).reshape(-1)
    regions_GW = regions_N[window_order(side, window, 0)].reshape(-1, window**2)
    return _MASKED * (regions_GW[:, :, None] != regions_GW[:, None, :])


def _conv_bn(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class DFvTPatchEmbed(nn.Module):
    """Two strided convolutions, each with BatchNorm and SiLU: images (B, 3, H, W) to a map (B, C,
    H/4, W/4).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(3, channels // 2, 3, 2, 1)
        self.proj2 = nn.Conv2d(channels // 2, channels, 3, 2, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.act = nn.SiLU()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first map (B, C, H/4, W/4)."""
        return self.act(self.norm(self.proj2(self.act(self.norm1(self.proj1(images_NCHW))))))


class ConvBranch(nn.Module):
    """The convolutional path of a stage: its local features, and its share of the attention's
    input.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        c, act = channels, nn.SiLU()
        depthwise = (*_conv_bn(c, c, 3, groups=c), act), (*_conv_bn(c, c, 3, groups=c), act)
        self.conv1x1_1 = nn.Sequential(*_conv_bn(c, c, 1), act, *depthwise[0], *depthwise[1])
        self.conv1 = nn.Sequential(*_conv_bn(c, c, 3, stride, groups=c), act)
        self.conv1x1_2 = nn.Sequential(*_conv_bn(c, c, 1), act)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """A map (B, C, n, n) to local features (B, C, n, n) and its share, smaller by `stride`."""
        local_BCHW = self.conv1x1_1(map_BCHW)
        return local_BCHW, self.conv1x1_2(self.conv1(local_BCHW))


def space_to_depth(map_BCHW: Tensor) -> Tensor:
    """(B, C, n, n) to (B, 4C, n/2, n/2): parities (row, column) in the order 00, 10, 01, 11."""
    return rearrange(map_BCHW, "b c (h i) (w j) -> b (j i c) h w", i=2, j=2)


class WindowAttention(SelfAttention):
    """Attention within square windows with a learned bias by relative position, as in Swin."""

    def __init__(self, channels: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__(channels, heads)
        self.side, self.window, self.shift = side, window, shift
        self.relative_position_bias_table = nn.Parameter(
            0.02 * torch.randn((2 * window - 1) ** 2, heads)
        )

    def relative_bias(self) -> Tensor:
        """The bias of the scores (G or 1, E, W, W): by position, with the mask where shifted."""
        table = self.relative_position_bias_table
        bias_1EWW = table[relative_position_index(self.window)].permute(2, 0, 1)[None]
        if not self.shift:
            return bias_1EWW
        return bias_1EWW + shift_mask(self.side, self.window, self.shift)[:, None].to(table)

    def forward(self, tokens_BNC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        order = window_order(self.side, self.window, self.shift)
        windows_BGWC = rearrange(tokens_BNC[:, order], "b (g w) c -> b g w c", w=self.window**2)
        mixed_BGWC = super().forward(windows_BGWC, self.relative_bias() if bias is None else bias)
        return rearrange(mixed_BGWC, "b g w c -> b (g w) c")[:, order.argsort()]


class DFvTSelect(nn.Module):
    """The paper's DANE: blends tokens with local features by a gate per token plus a gate per
    channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // _GATE_REDUCTION
        self.fc_spatial = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 1, bias=False))
        self.fc_channel = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.SiLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, channels, bias=False),
        )

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, C)."""
        gate_B1C = self.fc_channel(tokens_BNC.mean(dim=1, keepdim=True))
        share_BNC = (self.fc_spatial(local_BNC) + gate_B1C).sigmoid()
        return local_BNC * share_BNC + tokens_BNC * (1 - share_BNC)


class DFvTBlock(nn.Module):
    """Pre-norm transformer block whose attention's result is blended with the stage's local
    features.
    """

    def __init__(
        self, channels: int, heads: int, mlp_ratio: int, side: int, window: int, shift: int
    ) -> None:
        super().__init__()
        self.select: nn.Module = DFvTSelect(channels)
        self.norm1: nn.Module = nn.LayerNorm(channels)
        self.attn: nn.Module = WindowAttention(channels, heads, side, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio)

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, C)."""
        tokens_BNC = self.select(tokens_BNC + self.attn(self.norm1(tokens_BNC)), local_BNC)
        return tokens_BNC + self.mlp(self.norm2(tokens_BNC))


class Widening(nn.Module):
    """Between stages: LayerNorm and a Linear C -> 2C. The official name says downsample; the map's
    side stays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, 2C)."""
        return self.reduction(self.norm(tokens_BNC))


class DFvTStage(nn.Module):
    """The blocks of one resolution, and the way to the next stage if there is one."""

    def __init__(self, architecture: DFvTArchitecture, index: int) -> None:
        super().__init__()
        a = architecture
        self.is_last = index == len(a.depths) - 1
        channels, self.side = a.channels[index], a.sides[min(index + 1, len(a.depths) - 1)]
        self.window = min(a.window_size, self.side)
        shift = self.window // 2 if self.window < self.side else 0
        self.blocks = nn.ModuleList(
            DFvTBlock(
                channels, a.heads[index], a.mlp_ratio, self.side, self.window, shift * (j % 2)
            )
            for j in range(a.depths[index])
        )
        self.downsample = nn.Identity() if self.is_last else Widening(channels)

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, 2C), or (B, N, C) of the
        last stage.
        """
        for block in self.blocks:
            tokens_BNC = block(tokens_BNC, local_BNC)
        return self.downsample(tokens_BNC)


class DFvT(nn.Module):
    """The reference form: images (B, 3, H, W) to logits (B, K). Parameters carry the official
    names.

    It computes in the dtype of its weights. Stochastic depth is left out.
    """

    def __init__(self, architecture: DFvTArchitecture, num_classes: int) -> None:
        super().__init__()
        a = architecture
        self.architecture, self.num_classes = a, num_classes
        last = len(a.depths) - 1
        self.patch_embed = DFvTPatchEmbed(a.channels[0])
        self.layers = nn.ModuleList(DFvTStage(a, i) for i in range(len(a.depths)))
        self.convlayers = nn.ModuleList(
            ConvBranch(c, 1 if i == last else 2) for i, c in enumerate(a.channels)
        )
        self.multiresolution_conv = nn.ModuleList(
            nn.Sequential(*_conv_bn(4 * c, 4 * c, 3, groups=4 * c), *_conv_bn(4 * c, c, 1))
            for c in a.channels[:-1]
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.norm = nn.LayerNorm(a.channels[-1])
        self.head = nn.Linear(a.channels[-1], num_classes) if num_classes else nn.Identity()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        map_BCHW = self.patch_embed(images_NCHW)
        for i, stage in enumerate(self.layers[:-1]):
            detailed_BCHW, share_BCHW = self.convlayers[i](map_BCHW)
            local_BCHW = self.multiresolution_conv[i](space_to_depth(detailed_BCHW))
            tokens_BNC = stage(
                map_to_tokens(self.pool(map_BCHW) + share_BCHW), map_to_tokens(local_BCHW)
            )
            map_BCHW = tokens_to_map(tokens_BNC, local_BCHW.shape[2])
        _, share_BCHW = self.convlayers[-1](map_BCHW)
        tokens_BNC = self.layers[-1](map_to_tokens(map_BCHW + share_BCHW), map_to_tokens(map_BCHW))
        return self.head(self.norm(tokens_BNC).mean(dim=1))
