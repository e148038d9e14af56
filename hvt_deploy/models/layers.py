"""Building blocks that model families share, and the exact rewrites that a deployed form is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear C -> ratio*C, exact (erf) GELU, Linear back, on tokens (B, N, C)."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return self.fc2(self.act(self.fc1(tokens_BNC)))


class MatrixProduct(nn.Module):
    """`left @ right` as a module, so that the exported node carries a module path."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Matrices (..., I, K) and (..., K, J) to (..., I, J)."""
        return left @ right


class LinearMap(nn.Module):
    """A constant matrix (M, N) applied along the tokens of (B, N, C)."""

    matrix: Tensor

    def __init__(self, matrix_MN: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix_MN)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, M, C)."""
        return self.matrix @ tokens_BNC


def align_corners_matrix(source: int, target: int) -> Tensor:
    """The (target, source) float64 matrix of 1-D linear resampling with aligned corners.

    Output i lies at i * (source - 1) / (target - 1) of the input and mixes its two neighbours.
    """
    position = torch.arange(target, dtype=torch.float64) * (source - 1) / max(target - 1, 1)
    left = position.floor().long().clamp(max=max(source - 2, 0))
    share = position - left
    matrix = torch.zeros(target, source, dtype=torch.float64)
    rows = torch.arange(target)
    matrix[rows, left] = 1 - share
    matrix[rows, (left + 1).clamp(max=source - 1)] += share
    return matrix


def linear_from(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear with this weight (out, in) and bias (out), on their device and in their dtype."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def depthwise_from(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A depthwise convolution that keeps the map's size, with this weight (C, 1, k, k), odd k, and bias (C)."""
    channels, _, kernel, _ = weight.shape
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def pad_heads(rows: Tensor, heads: int, width: int) -> Tensor:
    """Rows (heads * D, ...) with zero rows put behind each head's own: (heads * width, ...)."""
    own, rest = rows.shape[0] // heads, rows.shape[1:]
    padded = rows.new_zeros(heads, width, *rest)
    padded[:, :own] = rows.detach().reshape(heads, own, *rest)
    return padded.reshape(heads * width, *rest)
