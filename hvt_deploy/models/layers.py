"""Building blocks that model families share, and the exact rewrites that a deployed form is made
of.
"""

from __future__ import annotations

from typing import cast

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


class SelfAttention(nn.Module):
    """Multi-head attention over tokens (B, N, C): one Linear for q, k and v, scale head_dim^-0.5.

    `bias` (E, N, N), where it is given, is added to the scaled scores of every image.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_BNC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        qkv = (
            self.qkv(tokens_BNC).unflatten(2, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        )
        q_BEND, k_BEND, v_BEND = qkv.unbind(0)
        scores_BENN = (q_BEND * self.head_dim**-0.5) @ k_BEND.transpose(2, 3)
        if bias is not None:
            scores_BENN = scores_BENN + bias
        return self.proj((scores_BENN.softmax(dim=3) @ v_BEND).transpose(1, 2).flatten(2))


class DeployedSelfAttention(nn.Module):
    """`SelfAttention` for inference, with exact rewrites.

    The scale is folded into the query weights. The key bias is zero: it adds the same number to all
    scores of a query, which softmax ignores. Zero channels widen each head to a multiple of 8,
    which tensor cores want. `bias` (E, N, N) is a constant; `gamma` (C), a layer scale of the
    result, is folded into `proj`.
    """

    bias: Tensor | None

    def __init__(
        self, reference: SelfAttention, bias: Tensor | None = None, gamma: Tensor | None = None
    ) -> None:
        super().__init__()
        heads, head_dim = reference.heads, reference.head_dim
        self.heads, self.head_dim = heads, -(-head_dim // 8) * 8
        weights = list(reference.qkv.weight.detach().chunk(3))
        biases = list(reference.qkv.bias.detach().chunk(3))
        weights[0], biases[0], biases[1] = (
            weights[0] * head_dim**-0.5,
            biases[0] * head_dim**-0.5,
            biases[1] * 0,
        )
        self.qkv = linear_from(
            *(torch.cat([self._widen(t) for t in parts]) for parts in (weights, biases))
        )
        self.score, self.softmax, self.value = MatrixProduct(), nn.Softmax(dim=3), MatrixProduct()
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        scale = torch.ones_like(reference.proj.bias) if gamma is None else gamma.detach()
        weight_CE = self._widen(reference.proj.weight.detach().T).T * scale[:, None]
        self.proj = linear_from(weight_CE.contiguous(), reference.proj.bias.detach() * scale)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        # Transposed as one and then cut: TensorRT-RTX needs one copy for q, k and v. Cut first, it
        # needs three; a 5-D reshape crashes its compiler.
        tokens = tokens_BNC.shape[1]
        heads_BEND = (
            self.qkv(tokens_BNC).reshape(-1, tokens, 3 * self.heads, self.head_dim).transpose(1, 2)
        )
        q_BEND, k_BEND, v_BEND = heads_BEND.chunk(3, dim=1)
        scores_BENN = self.score(q_BEND, k_BEND.transpose(2, 3))
        if self.bias is not None:
            scores_BENN = scores_BENN + self.bias
        mixed_BEND = self.value(self.softmax(scores_BENN), v_BEND)
        return self.proj(mixed_BEND.transpose(1, 2).reshape(-1, tokens, self.heads * self.head_dim))

    def _widen(self, rows: Tensor) -> Tensor:
        return pad_heads(rows, self.heads, self.head_dim)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what `conv` followed by `norm` does at inference."""
    scale, shift = batch_norm_affine(norm)
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.detach()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        cast("tuple[int, int]", conv.kernel_size),
        cast("tuple[int, int]", conv.stride),
        cast("tuple[int, int]", conv.padding),
        groups=conv.groups,
        device="meta",
    )
    folded.weight = nn.Parameter(conv.weight.detach() * scale[:, None, None, None])
    folded.bias = nn.Parameter(bias * scale + shift)
    return folded


def batch_norm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift) per channel of a BatchNorm at inference: y = x * scale + shift."""
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight.detach() * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias.detach() - mean * scale


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
    """A depthwise convolution that keeps the map's size, with this weight (C, 1, k, k), odd k, and
    bias (C).
    """
    channels, _, kernel, _ = weight.shape
    layer = nn.Conv2d(
        channels, channels, kernel, padding=kernel // 2, groups=channels, device="meta"
    )
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def pad_heads(rows: Tensor, heads: int, width: int) -> Tensor:
    """Rows (heads * D, ...) with zero rows put behind each head's own: (heads * width, ...)."""
    own, rest = rows.shape[0] // heads, rows.shape[1:]
    padded = rows.new_zeros(heads, width, *rest)
    padded[:, :own] = rows.detach().reshape(heads, own, *rest)
    return padded.reshape(heads * width, *rest)
