"""Building blocks that model families share, and the exact rewrites of deployed forms."""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
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
    """Multi-head attention over tokens: one Linear for q, k and v, scale head_dim^-0.5."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_BNC: Tensor, bias_ENN: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return self.proj(self.mix_values(self.qkv(tokens_BNC), bias_ENN))

    def mix_values(self, qkv_BNF: Tensor, bias_ENN: Tensor | None = None) -> Tensor:
        """Queries, keys and values (B, N, 3C) to mixed values (B, N, C).

        `bias_ENN` (E, N, N), where given, is added to the scaled scores of every image.
        """
        q_BEND, k_BEND, v_BEND = rearrange(
            qkv_BNF, "b n (part e d) -> part b e n d", part=3, e=self.heads
        ).unbind(0)
        scores_BENN = (q_BEND * self.head_dim**-0.5) @ k_BEND.transpose(2, 3)
        if bias_ENN is not None:
            scores_BENN = scores_BENN + bias_ENN
        return rearrange(scores_BENN.softmax(dim=3) @ v_BEND, "b e n d -> b n (e d)")


class DeployedAttention(nn.Module):
    """`SelfAttention` for inference, with exact rewrites.

    Scale and key bias are folded by `fold_score_scale`. Zero channels widen each head to a multiple
    of 8, which tensor cores need: without them TensorRT-RTX copies q, k, v and the result into
    padded buffers, one more kernel in each block. `bias_ENN` (E, N, N) is a constant; `gamma_C`, a
    layer scale of the result, is folded into `proj`. `local`, a depthwise convolution of the values
    as a square map, is added before `proj`.
    """

    bias: Tensor | None

    def __init__(
        self,
        reference: SelfAttention,
        bias_ENN: Tensor | None = None,
        gamma_C: Tensor | None = None,
        local: nn.Conv2d | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = reference.heads, -(-reference.head_dim // 8) * 8
        self.qkv = fold_score_scale(reference.qkv, self.heads, self.head_dim)
        self.score, self.softmax, self.value = MatrixProduct(), nn.Softmax(dim=3), MatrixProduct()
        self.register_buffer("bias", None if bias_ENN is None else bias_ENN.detach().clone())
        self.get_v = None
        if local is not None:
            self.get_v = depthwise_from(
                *(pad_heads(p, self.heads, self.head_dim) for p in local.parameters())
            )
        scale_C = torch.ones_like(reference.proj.bias) if gamma_C is None else gamma_C.detach()
        weight_FC = pad_heads(reference.proj.weight.T, self.heads, self.head_dim) * scale_C
        self.proj = linear_from(weight_FC.T.contiguous(), reference.proj.bias.detach() * scale_C)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        qkv_BNF = self.qkv(tokens_BNC)
        if self.get_v is None:
            # Transposed as one and then cut: TensorRT-RTX needs one copy for q, k and v. Cut first,
            # it needs three; a 5-D reshape crashes its compiler.
            heads_BEND = rearrange(qkv_BNF, "b n (e d) -> b e n d", e=3 * self.heads)
            q_BEND, k_BEND, v_BEND = heads_BEND.chunk(3, dim=1)
        else:
            # Where the values are read as a map too, cut first is one kernel less.
            q_BEND, k_BEND, v_BEND = (
                rearrange(part_BNC, "b n (e d) -> b e n d", e=self.heads)
                for part_BNC in qkv_BNF.chunk(3, dim=2)
            )
        scores_BENN = self.score(q_BEND, k_BEND.transpose(2, 3))
        if self.bias is not None:
            scores_BENN = scores_BENN + self.bias
        mixed_BEND = self.value(self.softmax(scores_BENN), v_BEND)
        mixed_BNC = rearrange(mixed_BEND, "b e n d -> b n (e d)")
        if self.get_v is not None:
            # The values cut out a second time: two kernels less than with `v_BEND`'s.
            values_BNC = qkv_BNF[:, :, -mixed_BNC.shape[2] :]
            side = math.isqrt(tokens_BNC.shape[1])
            mixed_BNC = mixed_BNC + map_to_tokens(self.get_v(tokens_to_map(values_BNC, side)))
        return self.proj(mixed_BNC)


def map_to_tokens(map_BCHW: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H*W, C) in raster order."""
    # Flattened before it is transposed: transposed with four axes, dfvt_demo has a kernel more.
    return rearrange(map_BCHW, "b c h w -> b c (h w)").transpose(1, 2)


def tokens_to_map(tokens_BNC: Tensor, side: int) -> Tensor:
    """Tokens (B, n*n, C) in raster order as a square map (B, C, n, n)."""
    return rearrange(tokens_BNC, "b (h w) c -> b c h w", h=side)


def fold_score_scale(qkv: nn.Linear, heads: int, head_dim: int) -> nn.Linear:
    """The Linear of q, k and v (C -> 3C) for unscaled scores, heads padded to `head_dim`.

    The scale, 1 / sqrt of the own head dimension, is folded into the query weights. The key bias is
    zero: it adds the same number to all scores of a query, which softmax ignores.
    """
    scale = (qkv.in_features // heads) ** -0.5
    weights, biases = list(qkv.weight.detach().chunk(3)), list(qkv.bias.detach().chunk(3))
    weights[0], biases[0], biases[1] = weights[0] * scale, biases[0] * scale, biases[1] * 0
    padded = (
        torch.cat([pad_heads(rows, heads, head_dim) for rows in parts])
        for parts in (weights, biases)
    )
    return linear_from(*padded)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution equal to `conv` followed by `norm` at inference."""
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
    """A size-preserving depthwise convolution: weight (C, 1, k, k) with odd k, bias (C)."""
    channels, _, kernel, _ = weight.shape
    layer = nn.Conv2d(
        channels, channels, kernel, padding=kernel // 2, groups=channels, device="meta"
    )
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def pad_heads(rows: Tensor, heads: int, width: int) -> Tensor:
    """Rows (heads * D, ...) with zero rows behind each head's own: (heads * width, ...)."""
    own = rearrange(rows.detach(), "(e d) ... -> e d ...", e=heads)
    padded = own.new_zeros(heads, width, *rows.shape[1:])
    padded[:, : own.shape[1]] = own
    return rearrange(padded, "e d ... -> (e d) ...")
