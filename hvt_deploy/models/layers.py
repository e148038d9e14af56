"""Building blocks that model families share, and the exact rewrites of deployed forms."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

# The shift of a LayerNorm that carries the biases behind it.
_NORM_SHIFT = 0.125


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

    def forward(self, tokens_BNC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (..., N, C) to tokens (..., N, C)."""
        return self.proj(self.mix_values(self.qkv(tokens_BNC), bias))

    def mix_values(self, qkv_BNF: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries, keys and values (..., N, 3C) to mixed values (..., N, C).

        `bias`, where given, is added to the scaled scores (..., E, N, N).
        """
        q_BEND, k_BEND, v_BEND = rearrange(
            qkv_BNF, "... n (part e d) -> part ... e n d", part=3, e=self.heads
        ).unbind(0)
        scores_BENN = (q_BEND * self.head_dim**-0.5) @ k_BEND.transpose(-2, -1)
        if bias is not None:
            scores_BENN = scores_BENN + bias
        return rearrange(scores_BENN.softmax(dim=-1) @ v_BEND, "... e n d -> ... n (e d)")


class DeployedAttention(nn.Module):
    """A LayerNorm and the `SelfAttention` behind it for inference, with exact rewrites.

    With tokens before images and q, k and v without bias (`fold_norm`), an FP16 engine's product
    writes what its attention kernel reads, where they were copied before
    (`graph.split_products`). Zero channels widen each head to a multiple of 8, which tensor cores
    need.
    `bias`, a constant, is added to the scores (..., E, N, N); `gamma_C`, a layer scale of the
    result, is folded into `proj`. `local`, a depthwise convolution of the values as a square map,
    is added before `proj`.
    """

    bias: Tensor | None

    def __init__(
        self,
        norm: nn.LayerNorm,
        reference: SelfAttention,
        bias: Tensor | None = None,
        gamma_C: Tensor | None = None,
        local: nn.Conv2d | None = None,
    ) -> None:
        super().__init__()
        self.heads, width = reference.heads, -(-reference.head_dim // 8) * 8
        self.norm, weight = fold_norm(norm, reference.qkv)
        q, k, v = weight.chunk(3)
        scaled = (q * reference.head_dim**-0.5, k, v)
        self.qkv = linear_from(torch.cat([pad_heads(rows, self.heads, width) for rows in scaled]))
        self.score, self.softmax, self.value = MatrixProduct(), nn.Softmax(dim=-1), MatrixProduct()
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.get_v = None
        if local is not None:
            self.get_v = depthwise_from(
                *(pad_heads(p, self.heads, width) for p in local.parameters())
            )
        scale_C = torch.ones_like(reference.proj.bias) if gamma_C is None else gamma_C.detach()
        weight_FC = pad_heads(reference.proj.weight.T, self.heads, width) * scale_C
        self.proj = linear_from(weight_FC.T.contiguous(), reference.proj.bias.detach() * scale_C)

    def forward(self, tokens_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) to tokens (N, B, C)."""
        qkv_NBF = self.qkv(self.norm(tokens_NBC))
        # Transposed as one and then cut: INT8 engines need one copy for q, k and v. Cut first, they
        # need three.
        heads_BEND = rearrange(qkv_NBF, "n ... (e d) -> ... e n d", e=3 * self.heads)
        q_BEND, k_BEND, v_BEND = heads_BEND.chunk(3, dim=-3)
        scores_BENN = self.score(q_BEND, k_BEND.transpose(-2, -1))
        if self.bias is not None:
            scores_BENN = scores_BENN + self.bias
        mixed_BEND = self.value(self.softmax(scores_BENN), v_BEND)
        mixed_NBC = rearrange(mixed_BEND, "... e n d -> n ... (e d)")
        if self.get_v is not None:
            side = math.isqrt(len(tokens_NBC))
            map_BCHW = rearrange(v_BEND, "b e (h w) d -> b (e d) h w", h=side)
            mixed_NBC = mixed_NBC + map_to_sequence(self.get_v(map_BCHW))
        return self.proj(mixed_NBC)


def map_to_tokens(map_BCHW: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H*W, C) in raster order."""
    # Flattened before it is transposed: transposed with four axes, dfvt_demo has a kernel more.
    return rearrange(map_BCHW, "b c h w -> b c (h w)").transpose(1, 2)


def map_to_sequence(map_BCHW: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (H*W, B, C) in raster order."""
    return rearrange(map_BCHW, "b c h w -> (h w) b c")


def position_to_sequence(position_1NC: Tensor) -> Tensor:
    """A copy of what is added to tokens (1, N, C) for tokens (N, B, C): (N, 1, C)."""
    return position_1NC.detach().transpose(0, 1).clone()


def sequence_to_map(tokens_NBC: Tensor, side: int) -> Tensor:
    """Tokens (n*n, B, C) in raster order as a square map (B, C, n, n)."""
    return rearrange(tokens_NBC, "(h w) b c -> b c h w", h=side)


def tokens_to_map(tokens_BNC: Tensor, side: int) -> Tensor:
    """Tokens (B, n*n, C) in raster order as a square map (B, C, n, n)."""
    return rearrange(tokens_BNC, "b (h w) c -> b c h w", h=side)


def fold_norm(norm: nn.LayerNorm, qkv: nn.Linear) -> tuple[nn.LayerNorm, Tensor]:
    """A LayerNorm and a weight (3C, C) without bias, for the Linear `qkv` (C -> 3C) behind `norm`.

    The channels of a normalized token sum to zero before the norm's scale and shift. The scale is
    folded into the weight. With one shift s for all channels they sum to C * s: so b / (C * s) in
    each column of a row, whose own mean is taken off, adds a bias b. That of the keys is left out:
    it adds the same number to all scores of a query, which softmax ignores.
    """
    channels, weight = qkv.in_features, qkv.weight.detach()
    q_bias, _, v_bias = (weight @ norm.bias.detach() + qkv.bias.detach()).chunk(3)
    bias = torch.cat((q_bias, torch.zeros_like(q_bias), v_bias))
    scaled = weight * norm.weight.detach()
    spread = bias / (channels * _NORM_SHIFT) - scaled.mean(dim=1)
    folded = copy.deepcopy(norm)
    folded.weight = nn.Parameter(torch.ones_like(norm.weight))
    folded.bias = nn.Parameter(torch.full_like(norm.bias, _NORM_SHIFT))
    return folded, scaled + spread[:, None]


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
    """A constant matrix (M, N) applied to columns (N, K)."""

    matrix: Tensor

    def __init__(self, matrix_MN: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix_MN)

    def forward(self, columns_NK: Tensor) -> Tensor:
        """Columns (N, K) to columns (M, K)."""
        return self.matrix @ columns_NK


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


def linear_from(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A Linear with this weight (out, in) and bias (out), on their device and in their dtype."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
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
