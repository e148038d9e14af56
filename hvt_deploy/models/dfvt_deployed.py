"""DFvT's deployed form: equal to the reference form in eval mode, made of what an inference engine runs well.

Shapes as in `dfvt`. Between entering and leaving a stage the tokens are in the order of the windows, one window
after the other: every step but attention works on each token alone or on all of them.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from hvt_deploy.models.dfvt import Block, ConvBranch, DFvT, Select, Stage, WindowAttention, window_order
from hvt_deploy.models.layers import MatrixProduct, fold_batch_norm, linear_from


class Reorder(nn.Module):
    """Tokens (B, N, C) in another order: output token i is input token `order[i]`."""

    order: Tensor

    def __init__(self, order_N: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order_N)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return tokens_BNC.index_select(1, self.order)


class DeployedWindowAttention(nn.Module):
    """`WindowAttention` on tokens in the order of the windows.

    The scale is folded into the query weights; the key bias is zero, since it adds the same number to all scores of a
    query; position bias and mask are one constant. Shifted windows are a constant reordering before and after.
    """

    bias: Tensor

    def __init__(self, reference: WindowAttention) -> None:
        super().__init__()
        self.heads, self.head_dim, self.tokens = reference.heads, reference.head_dim, reference.window**2
        weight, bias = reference.qkv.weight.detach().clone(), reference.qkv.bias.detach().clone()
        channels = self.heads * self.head_dim
        weight[:channels] *= self.head_dim**-0.5
        bias[:channels] *= self.head_dim**-0.5
        bias[channels : 2 * channels] = 0
        self.qkv, self.proj = linear_from(weight, bias), copy.deepcopy(reference.proj)
        self.score, self.softmax, self.value = MatrixProduct(), nn.Softmax(dim=3), MatrixProduct()
        bias_GEWW = reference.bias().detach()
        self.windows = bias_GEWW.shape[0]
        self.register_buffer("bias", bias_GEWW.flatten(0, 1)[None])
        self.shift, self.unshift = nn.Identity(), nn.Identity()
        if reference.shift:
            plain = window_order(reference.side, reference.window, 0)
            order = plain.argsort()[window_order(reference.side, reference.window, reference.shift)]
            self.shift, self.unshift = Reorder(order), Reorder(order.argsort())

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        q, k, v = self.qkv(self.shift(tokens_BNC)).chunk(3, dim=2)
        scores = self.score(self._split(q), self._split(k).transpose(2, 3)) + self.bias
        mixed = self.value(self.softmax(scores), self._split(v))
        return self.unshift(self.proj(self._merge(mixed, *tokens_BNC.shape[1:])))

    def _split(self, tokens_BNC: Tensor) -> Tensor:
        """(B, N, C) to (B*G, E, W, D), or to (B, G*E, W, D) where each window has its own bias."""
        if self.windows == 1:
            return tokens_BNC.reshape(-1, self.tokens, self.heads, self.head_dim).transpose(1, 2)
        split = tokens_BNC.reshape(-1, self.windows, self.tokens, self.heads, self.head_dim).transpose(2, 3)
        return split.reshape(-1, self.windows * self.heads, self.tokens, self.head_dim)

    def _merge(self, mixed: Tensor, tokens: int, channels: int) -> Tensor:
        """The way back of `_split`."""
        if self.windows > 1:
            mixed = mixed.reshape(-1, self.heads, self.tokens, self.head_dim)
        return mixed.transpose(1, 2).reshape(-1, tokens, channels)


class DeployedSelect(nn.Module):
    """`Select` with its gate per token given: the stage computes those of all its blocks at once."""

    def __init__(self, reference: Select) -> None:
        super().__init__()
        reduce, act, norm, expand = copy.deepcopy(reference.fc_channel)
        self.fc_channel = nn.Sequential(reduce, act, *_without_affine(norm, expand))

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor, gate_BN1: Tensor) -> Tensor:
        """Tokens (B, N, C), local features (B, N, C) and gates (B, N, 1) to tokens (B, N, C)."""
        gate_B1C = self.fc_channel(tokens_BNC.mean(dim=1, keepdim=True))
        return tokens_BNC + (gate_BN1 + gate_B1C).sigmoid() * (local_BNC - tokens_BNC)


def _without_affine(norm: nn.Module, linear: nn.Module) -> tuple[nn.LayerNorm, nn.Linear]:
    """A LayerNorm and the Linear behind it, with the norm's weight and bias moved into the Linear."""
    norm, linear = cast("nn.LayerNorm", norm), cast("nn.Linear", linear)
    plain = nn.LayerNorm(linear.in_features, norm.eps, elementwise_affine=False)
    return plain, linear_from(linear.weight.detach() * norm.weight.detach(), (linear.weight @ norm.bias).detach())


class DeployedBlock(nn.Module):
    """`Block` with its gates per token given."""

    def __init__(self, reference: Block) -> None:
        super().__init__()
        self.norm1, self.attn = copy.deepcopy(reference.norm1), DeployedWindowAttention(reference.attn)
        self.select = DeployedSelect(reference.select)
        self.norm2, self.mlp = copy.deepcopy(reference.norm2), copy.deepcopy(reference.mlp)

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor, gate_BN1: Tensor) -> Tensor:
        """Tokens (B, N, C), local features (B, N, C) and gates (B, N, 1) to tokens (B, N, C)."""
        tokens_BNC = self.select(tokens_BNC + self.attn(self.norm1(tokens_BNC)), local_BNC, gate_BN1)
        return tokens_BNC + self.mlp(self.norm2(tokens_BNC))


class DeployedStage(nn.Module):
    """`Stage` on tokens in the order of the windows. The gates per token of all blocks come from one Linear."""

    def __init__(self, reference: Stage) -> None:
        super().__init__()
        blocks = [cast("Block", block) for block in reference.blocks]
        self.side, self.window = reference.side, blocks[0].attn.window
        self.blocks = nn.ModuleList(DeployedBlock(block) for block in blocks)
        gates = [_without_affine(*block.select.fc_spatial) for block in blocks]
        weight, bias = (torch.cat([gate[1].get_parameter(p).detach() for gate in gates]) for p in ("weight", "bias"))
        self.spatial_norm, self.fc_spatial = gates[0][0], linear_from(weight, bias)
        self.downsample = copy.deepcopy(reference.downsample)

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, 2C), or (B, N, C) of the last stage."""
        gates = self.fc_spatial(self.spatial_norm(local_BNC)).split(1, dim=2)
        for block, gate_BN1 in zip(self.blocks, gates, strict=True):
            tokens_BNC = block(tokens_BNC, local_BNC, gate_BN1)
        return self.downsample(tokens_BNC)

    def enter(self, map_BCHW: Tensor) -> Tensor:
        """A map (B, C, n, n) as tokens (B, N, C) in the order of the windows."""
        channels, side, window = map_BCHW.shape[1], self.side, self.window
        grid = side // window
        if grid == 1:
            return map_BCHW.reshape(-1, channels, side * side).transpose(1, 2)
        cells = map_BCHW.reshape(-1, channels, grid, window, grid, window)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, channels)

    def leave(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) in the order of the windows as a map (B, C, n, n)."""
        channels, side, window = tokens_BNC.shape[2], self.side, self.window
        grid = side // window
        if grid == 1:
            return tokens_BNC.transpose(1, 2).reshape(-1, channels, side, side)
        cells = tokens_BNC.reshape(-1, grid, grid, window, window, channels)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side, side)


def _channel_first(rows: Tensor, channels: int) -> Tensor:
    """Rows (4 * C, ...), parity by parity, as rows (C * 4, ...), channel by channel."""
    return rows.detach().reshape(4, channels, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _fold(layers: nn.Sequential) -> nn.Sequential:
    """The same layers with each BatchNorm folded into the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fold_batch_norm(cast("nn.Conv2d", folded[-1]), layer)
        else:
            folded.append(copy.deepcopy(layer))
    return nn.Sequential(*folded)


class SpaceToDepthConv(nn.Module):
    """Space to depth and the convolution per channel behind it in one: a strided convolution with a sparse kernel.

    Tap (y, x) of parity (row, column) reads pixel (2y + row, 2x + column) of the large map, so that each of the four
    3x3 kernels of a channel is every second tap of a 6x6 kernel. The 1x1 convolution follows.
    """

    def __init__(self, reference: nn.Sequential) -> None:
        super().__init__()
        depthwise, pointwise = (cast("nn.Conv2d", layer) for layer in _fold(reference))
        channels = pointwise.out_channels
        kernel_4C133 = depthwise.weight.detach()
        kernel_C466 = kernel_4C133.new_zeros(channels, 4, 6, 6)
        for parity, kernel_C33 in enumerate(kernel_4C133.reshape(4, channels, 3, 3)):
            kernel_C466[:, parity, parity % 2 :: 2, parity // 2 :: 2] = kernel_C33
        self.strided = nn.Conv2d(channels, 4 * channels, 6, 2, 2, groups=channels, device="meta")
        self.strided.weight = nn.Parameter(kernel_C466.reshape(4 * channels, 1, 6, 6))
        self.strided.bias = nn.Parameter(_channel_first(depthwise.get_parameter("bias"), channels))
        self.pointwise = pointwise
        weight_4CC = _channel_first(pointwise.weight.detach()[:, :, 0, 0].T, channels)
        self.pointwise.weight = nn.Parameter(weight_4CC.T.contiguous()[:, :, None, None])

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """A map (B, C, n, n) to local features (B, C, n/2, n/2)."""
        return self.pointwise(self.strided(map_BCHW))


class DeployedDFvT(nn.Module):
    """The deployed form. No reshape mentions the batch size, so the exported graph is right for every batch."""

    def __init__(self, reference: DFvT) -> None:
        super().__init__()
        self.name, self.num_classes, self.image_size = reference.name, reference.num_classes, reference.image_size
        p = reference.patch_embed
        self.patch_embed = _fold(nn.Sequential(p.proj1, p.norm1, p.act, p.proj2, p.norm, p.act))
        self.layers = nn.ModuleList(DeployedStage(cast("Stage", stage)) for stage in reference.layers)
        self.convlayers = copy.deepcopy(reference.convlayers)
        for branch in self.convlayers:
            branch = cast("ConvBranch", branch)
            branch.conv1x1_1, branch.conv1 = _fold(branch.conv1x1_1), _fold(branch.conv1)
            branch.conv1x1_2 = _fold(branch.conv1x1_2)
        self.multiresolution_conv = nn.ModuleList(
            SpaceToDepthConv(cast("nn.Sequential", layers)) for layers in reference.multiresolution_conv
        )
        self.pool = copy.deepcopy(reference.pool)
        self.norm, self.head = copy.deepcopy(reference.norm), copy.deepcopy(reference.head)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        map_BCHW = self.patch_embed(images_NCHW)
        for i in range(len(self.layers) - 1):
            detailed_BCHW, share_BCHW = self.convlayers[i](map_BCHW)
            local_BCHW = self.multiresolution_conv[i](detailed_BCHW)
            stage = cast("DeployedStage", self.layers[i])
            tokens_BNC = stage(stage.enter(self.pool(map_BCHW) + share_BCHW), stage.enter(local_BCHW))
            map_BCHW = stage.leave(tokens_BNC)
        _, share_BCHW = self.convlayers[-1](map_BCHW)
        stage = cast("DeployedStage", self.layers[-1])
        tokens_BNC = stage(stage.enter(map_BCHW + share_BCHW), stage.enter(map_BCHW))
        return self.head(self.norm(tokens_BNC).mean(dim=1))
