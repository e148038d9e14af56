"""Building blocks that more than one model family shares."""

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
