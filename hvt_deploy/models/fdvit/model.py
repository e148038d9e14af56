"""FDViT in two forms: the reference form that loads official checkpoints, the deployed form that is
exported.

Xu et al., "FDViT: Improve the Hierarchical Architecture of Vision Transformer", ICCV 2023. Shapes:
B images, N = n*n tokens of a square map with side n in raster order, C channels, E heads of D
channels each.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.fdvit.spec import FDViTArchitecture
from hvt_deploy.models.layers import (
    LinearMap,
    MatrixProduct,
    Mlp,
    align_corners_matrix,
    depthwise_from,
    linear_from,
    pad_heads,
)
from hvt_deploy.models.spec import Family, ModelSpec

_BLOCK_EPS = 1e-6
_POOL_EPS = 1e-5


def _as_map(tokens_BNC: Tensor, side: int) -> Tensor:
    """Tokens (B, n*n, C) as a map (B, C, n, n)."""
    return tokens_BNC.transpose(1, 2).reshape(-1, tokens_BNC.shape[2], side, side)


def _as_tokens(map_BCHW: Tensor) -> Tensor:
    """A map (B, C, n, n) as tokens (B, n*n, C)."""
    channels, height, width = map_BCHW.shape[1:]
    return map_BCHW.reshape(-1, channels, height * width).transpose(1, 2)


def _resample(map_BCHW: Tensor, side: int) -> Tensor:
    return F.interpolate(map_BCHW, (side, side), mode="bilinear", align_corners=True)


class PatchEmbed(nn.Module):
    """Overlapping patches: one strided convolution, images (B, 3, H, W) to a map (B, C, n, n)."""

    def __init__(self, channels: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, patch_size, stride)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first map (B, C, n, n)."""
        return self.conv(images_NCHW)


class Attention(nn.Module):
    """Global attention with a local term: a depthwise convolution of the values, added before
    `proj`.
    """

    def __init__(self, heads: int, head_dim: int, side: int) -> None:
        super().__init__()
        channels = heads * head_dim
        self.heads, self.head_dim, self.side = heads, head_dim, side
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        q, k, v = self.qkv(tokens_BNC).chunk(3, dim=2)
        q_BEND, k_BEND, v_BEND = (
            t.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2) for t in (q, k, v)
        )
        scores_BENN = (q_BEND * self.head_dim**-0.5) @ k_BEND.transpose(2, 3)
        mixed_BNC = (scores_BENN.softmax(dim=3) @ v_BEND).transpose(1, 2).flatten(2)
        local_BNC = _as_tokens(self.get_v(_as_map(v, self.side)))
        return self.proj(mixed_BNC + local_BNC)


class Block(nn.Module):
    """Pre-norm transformer block on tokens (B, N, C)."""

    def __init__(self, heads: int, head_dim: int, side: int, mlp_ratio: int) -> None:
        super().__init__()
        channels = heads * head_dim
        self.norm1 = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.attn: nn.Module = Attention(heads, head_dim, side)
        self.norm2 = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.mlp = Mlp(channels, mlp_ratio)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        tokens_BNC = tokens_BNC + self.attn(self.norm1(tokens_BNC))
        return tokens_BNC + self.mlp(self.norm2(tokens_BNC))


class Stage(nn.Module):
    """The blocks of one resolution; a module of its own because official keys say
    `transformers.i.blocks.j`.
    """

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return self.blocks(tokens_BNC)


class Pool(nn.Module):
    """Flexible downsampling (paper section 3.2): LayerNorm, bilinear resampling to any size, 3x3
    convolution.
    """

    def __init__(self, channels: int, out_channels: int, side: int, out_side: int) -> None:
        super().__init__()
        self.side, self.out_side = side, out_side
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.ln = nn.LayerNorm(channels, eps=_POOL_EPS)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, n*n, C) to a map (B, C', n', n')."""
        return self.conv(_resample(_as_map(self.ln(tokens_BNC), self.side), self.out_side))


class Decoder(nn.Module):
    """Train-only: rebuilds a stage's map from its pooled map (paper section 3.3)."""

    def __init__(self, channels: int, out_channels: int, out_side: int) -> None:
        super().__init__()
        self.out_side = out_side
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The pooled map (B, C', n', n') to the stage's map (B, C, n, n)."""
        return _resample(self.conv(map_BCHW), self.out_side)


class FDViT(nn.Module):
    """The reference form. Parameters carry the official names; it computes in the dtype of its
    weights.

    In eval mode images (B, 3, H, W) become logits (B, K); in train mode the result is (logits,
    pairs), one pair (target, reconstruction) of maps (B, C, n, n) per pool for the auto-encoder
    loss. Stochastic depth is left out.
    """

    def __init__(self, name: str, architecture: FDViTArchitecture, num_classes: int) -> None:
        super().__init__()
        a = architecture
        self.name, self.architecture, self.num_classes = name, a, num_classes
        self.image_size = (a.image_size, a.image_size)
        self.pos_embed = nn.Parameter(
            0.02 * torch.randn(1, a.channels[0], a.map_sizes[0], a.map_sizes[0])
        )
        self.patch_embed = PatchEmbed(a.channels[0], a.patch_size, a.stride)
        stages = zip(a.heads, a.head_dims, a.map_sizes, a.depths, strict=True)
        self.transformers = nn.ModuleList(
            Stage([Block(heads, head_dim, side, a.mlp_ratio) for _ in range(depth)])
            for heads, head_dim, side, depth in stages
        )
        steps = list(zip(pairwise(a.channels), pairwise(a.map_sizes), strict=True))
        self.pools = nn.ModuleList(Pool(c, c_next, n, n_next) for (c, c_next), (n, n_next) in steps)
        self.decoders = nn.ModuleList(Decoder(c_next, c, n) for (c, c_next), (n, _) in steps)
        self.norm = nn.LayerNorm(a.channels[-1], eps=_BLOCK_EPS)
        self.head = nn.Linear(a.channels[-1], num_classes) if num_classes else nn.Identity()

    def forward(self, images_NCHW: Tensor) -> Tensor | tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Images (B, 3, H, W) to logits (B, K), with the auto-encoder pairs in train mode."""
        pairs: list[tuple[Tensor, Tensor]] = []
        tokens_BNC = _as_tokens(self.patch_embed(images_NCHW) + self.pos_embed)
        for i, stage in enumerate(self.transformers):
            tokens_BNC = stage(tokens_BNC)
            if i < len(self.pools):
                if self.training:
                    pairs.append(self._auto_encode(i, tokens_BNC))
                tokens_BNC = _as_tokens(self.pools[i](tokens_BNC))
        logits_NK = self.head(self.norm(tokens_BNC).mean(dim=1))
        return (logits_NK, pairs) if self.training else logits_NK

    def _auto_encode(self, index: int, tokens_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """(target, reconstruction): the stage's map, and what the decoder makes of its masked,
        pooled tokens.
        """
        threshold = self.architecture.mask_threshold
        kept_BN1 = (torch.rand_like(tokens_BNC[:, :, :1]) >= threshold).to(tokens_BNC.dtype) / (
            1 - threshold
        )
        target = _as_map(tokens_BNC, self.architecture.map_sizes[index])
        return target, self.decoders[index](self.pools[index](tokens_BNC * kept_BN1))


class DeployedAttention(nn.Module):
    """`Attention` for inference, with three exact rewrites.

    The scale is folded into the query weights. The key bias is zero: it adds the same number to all
    scores of a query, which softmax ignores. Zero channels widen each head to a multiple of 8,
    which tensor cores want: without them TensorRT-RTX copies q, k, v and the result into padded
    buffers, one more kernel in each such block.
    """

    def __init__(self, reference: Attention) -> None:
        super().__init__()
        heads, head_dim = reference.heads, reference.head_dim
        self.heads, self.side, self.head_dim = heads, reference.side, -(-head_dim // 8) * 8
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
        self.get_v = depthwise_from(
            *(self._widen(reference.get_parameter(f"get_v.{p}")) for p in ("weight", "bias"))
        )
        weight_CE = self._widen(reference.proj.weight.T).T.contiguous()
        self.proj = linear_from(weight_CE, reference.proj.bias.detach().clone())

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        # The form with the fewest kernels in TensorRT-RTX: one Linear, not three; chunks, not a 5-D
        # reshape (which its compiler crashes on); and the values cut out a second time for the
        # convolution (two kernels a block less).
        qkv_BN3C = self.qkv(tokens_BNC)
        q, k, v = qkv_BN3C.chunk(3, dim=2)
        tokens, channels = v.shape[1:]
        scores_BENN = self.score(self._split(q), self._split(k).transpose(2, 3))
        mixed_BEND = self.value(self.softmax(scores_BENN), self._split(v))
        mixed_BNC = mixed_BEND.transpose(1, 2).reshape(-1, tokens, channels)
        return self.proj(
            mixed_BNC + _as_tokens(self.get_v(_as_map(qkv_BN3C[:, :, 2 * channels :], self.side)))
        )

    def _split(self, tokens_BNC: Tensor) -> Tensor:
        """(B, N, C) to (B, E, N, D)."""
        return tokens_BNC.reshape(-1, tokens_BNC.shape[1], self.heads, self.head_dim).transpose(
            1, 2
        )

    def _widen(self, rows: Tensor) -> Tensor:
        return pad_heads(rows, self.heads, self.head_dim)


class DeployedPool(nn.Module):
    """`Pool` with the bilinear resampling as what it is: one constant matrix over the tokens."""

    def __init__(self, reference: Pool) -> None:
        super().__init__()
        self.out_side = reference.out_side
        along = align_corners_matrix(reference.side, reference.out_side)
        self.ln, self.conv = copy.deepcopy(reference.ln), copy.deepcopy(reference.conv)
        # One matrix for both axes costs 1 to 3 % more multiplications than one per axis and half
        # the kernels.
        self.resample = LinearMap(torch.kron(along, along).to(self.conv.weight))

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, n*n, C) to a map (B, C', n', n')."""
        return self.conv(_as_map(self.resample(self.ln(tokens_BNC)), self.out_side))


class DeployedFDViT(nn.Module):
    """The deployed form: equal to the reference form in eval mode, made of what an inference engine
    runs well.

    No reshape mentions the batch size, so the exported graph is right for every batch.
    """

    def __init__(self, reference: FDViT) -> None:
        super().__init__()
        self.name, self.num_classes, self.image_size = (
            reference.name,
            reference.num_classes,
            reference.image_size,
        )
        self.pos_embed = copy.deepcopy(reference.pos_embed)
        self.patch_embed = copy.deepcopy(reference.patch_embed)
        self.transformers = copy.deepcopy(reference.transformers)
        for block in list(self.transformers.modules()):
            if isinstance(block, Block) and isinstance(block.attn, Attention):
                block.attn = DeployedAttention(block.attn)
        self.pools = nn.ModuleList(DeployedPool(cast("Pool", pool)) for pool in reference.pools)
        self.norm, self.head = copy.deepcopy(reference.norm), copy.deepcopy(reference.head)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        tokens_BNC = _as_tokens(self.patch_embed(images_NCHW) + self.pos_embed)
        for i, stage in enumerate(self.transformers):
            tokens_BNC = stage(tokens_BNC)
            if i < len(self.pools):
                tokens_BNC = _as_tokens(self.pools[i](tokens_BNC))
        return self.head(self.norm(tokens_BNC).mean(dim=1))


def _build(spec: ModelSpec, num_classes: int) -> FDViT:
    return FDViT(spec.name, cast("FDViTArchitecture", spec.architecture), num_classes)


def _deploy(model: nn.Module) -> DeployedFDViT:
    if not isinstance(model, FDViT):
        raise BadInput(
            f"{type(model).__name__} is not the reference form of an FDViT.",
            "Pass what create_model made.",
        )
    return DeployedFDViT(model)


FDVIT = Family(_build, _deploy, train_only_prefixes=("decoders.",))
