"""FasterViT's learned positions: MLPs of coordinates (Swin V2: Liu et al., CVPR 2022, sec. 3.3)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

_POSITION_CHANNELS = 512
# The range of the relative bias: 16 * sigmoid (continuous position bias of Swin V2, as the official
# code has it).
_BIAS_RANGE = 16


def _position_mlp(channels: int) -> nn.Sequential:
    """Coordinates (..., 2) to (..., channels)."""
    return nn.Sequential(
        nn.Linear(2, _POSITION_CHANNELS),
        nn.ReLU(),
        nn.Linear(_POSITION_CHANNELS, channels, bias=False),
    )


class AbsolutePosition(nn.Module):
    """A learned function of a token's place in a square grid, added to the tokens of each block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cpb_mlp = _position_mlp(channels)

    def forward(self, side: int) -> Tensor:
        """The term (1, side * side, C). Coordinates start at -1; an odd `side` reaches 1."""
        weight = cast("Tensor", self.cpb_mlp[0].weight)
        places = ((torch.arange(side, device=weight.device) - side // 2) / (side // 2)).to(
            weight.dtype
        )
        grid = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=2)
        return self.cpb_mlp(grid.flatten(0, 1))[None]


class RelativeBias(nn.Module):
    """A learned function of the offset between query and key in a square window, added to the
    scores.
    """

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.cpb_mlp = _position_mlp(heads)

    def forward(self, tokens: int) -> Tensor:
        """The bias (E, tokens, tokens). It belongs to the last window^2 tokens; for pairs with any
        other it is 0.
        """
        window, weight = self.window, cast("Tensor", self.cpb_mlp[0].weight)
        offsets = torch.arange(1 - window, window, device=weight.device, dtype=torch.float32) * (
            8 / (window - 1)
        )
        scaled = (offsets.sign() * (offsets.abs() + 1).log2() / 3).to(weight.dtype)
        table = torch.stack(torch.meshgrid(scaled, scaled, indexing="ij"), dim=2)
        values = _BIAS_RANGE * self.cpb_mlp(table).flatten(0, 1).sigmoid()
        rows = torch.arange(window * window, device=weight.device) // window
        columns = torch.arange(window * window, device=weight.device) % window
        down = rows[:, None] - rows + window - 1
        right = columns[:, None] - columns + window - 1
        bias_ENN = values[(down * (2 * window - 1) + right).flatten()].T.unflatten(
            1, (window**2, window**2)
        )
        first = tokens - window**2
        return F.pad(bias_ENN, (first, 0, first, 0))
