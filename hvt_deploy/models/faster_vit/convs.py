"""FasterViT's convolutions, reference form: the stem and levels 0 and 1. Shapes as in `model`."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

_STEM_EPS = 1e-4
_DOWNSAMPLE_EPS = 1e-6


class Stem(nn.Module):
    """The stem: two 3x3 convolutions of stride 2 with BatchNorm and ReLU."""

    def __init__(self, stem_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, stem_dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem_dim, eps=_STEM_EPS),
            nn.ReLU(),
            nn.Conv2d(stem_dim, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim, eps=_STEM_EPS),
            nn.ReLU(),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first map (B, C, H/4, W/4), rounded up."""
        return self.conv_down(images_NCHW)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a residual (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return map_BCHW + self.norm2(self.conv2(self.act1(self.norm1(self.conv1(map_BCHW)))))


class Downsample(nn.Module):
    """LayerNorm over channels, then a 3x3 convolution of stride 2 that doubles them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=_DOWNSAMPLE_EPS)
        self.reduction = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H/2, W/2), rounded up."""
        normed_BHWC = self.norm(rearrange(map_BCHW, "b c h w -> b h w c"))
        return self.reduction(rearrange(normed_BHWC, "b h w c -> b c h w"))


class ConvLevel(nn.Module):
    """Levels 0 and 1."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ConvBlock(channels) for _ in range(depth)))
        self.downsample = Downsample(channels)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H/2, W/2), rounded up."""
        return self.downsample(self.blocks(map_BCHW))
