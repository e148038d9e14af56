"""FasterViT's convolutions, deployed form: BatchNorm folded. Shapes as in `model`."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn

from hvt_deploy.models.faster_vit.convs import ConvBlock, ConvLevel, Downsample
from hvt_deploy.models.layers import fold_batch_norm


class DeployedStem(nn.Module):
    """`Stem` with BatchNorm folded."""

    def __init__(self, reference: nn.Sequential) -> None:
        super().__init__()
        conv1, norm1, _, conv2, norm2, _ = reference
        self.conv_down = nn.Sequential(
            _fold_norm(conv1, norm1), nn.ReLU(), _fold_norm(conv2, norm2), nn.ReLU()
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first map (B, C, H/4, W/4), rounded up."""
        return self.conv_down(images_NCHW)


class DeployedConvBlock(nn.Module):
    """`ConvBlock` with BatchNorm folded."""

    def __init__(self, reference: ConvBlock) -> None:
        super().__init__()
        self.conv1, self.act1 = fold_batch_norm(reference.conv1, reference.norm1), nn.GELU()
        self.conv2 = fold_batch_norm(reference.conv2, reference.norm2)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return map_BCHW + self.conv2(self.act1(self.conv1(map_BCHW)))


class DeployedConvLevel(nn.Module):
    """`ConvLevel` with BatchNorm folded."""

    def __init__(self, reference: ConvLevel) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(DeployedConvBlock(cast("ConvBlock", block)) for block in reference.blocks)
        )
        self.downsample: Downsample = copy.deepcopy(reference.downsample)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H/2, W/2), rounded up."""
        return self.downsample(self.blocks(map_BCHW))


def _fold_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    return fold_batch_norm(cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm))
