"""FDViT's deployed form: scales folded, heads padded, resampling as a matrix. Shapes as in `model`."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from hvt_deploy.models.fdvit.model import Attention, Block, FDViT, Pool, as_map, as_tokens
from hvt_deploy.models.layers import (
    LinearMap,
    MatrixProduct,
    align_corners_matrix,
    depthwise_from,
    linear_from,
    pad_heads,
)


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
            mixed_BNC + as_tokens(self.get_v(as_map(qkv_BN3C[:, :, 2 * channels :], self.side)))
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
        return self.conv(as_map(self.resample(self.ln(tokens_BNC)), self.out_side))


class DeployedFDViT(nn.Module):
    """The deployed form: equal to the reference form in eval mode, made of what an inference engine
    runs well.

    No reshape mentions the batch size, so the exported graph is right for every batch.
    """

    def __init__(self, reference: FDViT) -> None:
        super().__init__()
        self.num_classes = reference.num_classes
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
        tokens_BNC = as_tokens(self.patch_embed(images_NCHW) + self.pos_embed)
        for i, stage in enumerate(self.transformers):
            tokens_BNC = stage(tokens_BNC)
            if i < len(self.pools):
                tokens_BNC = as_tokens(self.pools[i](tokens_BNC))
        return self.head(self.norm(tokens_BNC).mean(dim=1))
