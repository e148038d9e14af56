"""DFvT's deployed form: norms, scales and masks folded, tokens kept window by window.

Shapes as in `model`. Within a stage the tokens are in the order of the windows: every step but
attention works on each token alone or on all of them. No reshape fixes the batch size.
"""

from __future__ import annotations

import copy
from typing import cast

from einops import rearrange
from torch import Tensor, nn

from hvt_deploy.models.dfvt.model import (
    ConvBranch,
    DFvT,
    DFvTBlock,
    DFvTSelect,
    DFvTStage,
    WindowAttention,
    space_to_depth,
    window_order,
)
from hvt_deploy.models.layers import (
    MatrixProduct,
    fold_batch_norm,
    fold_score_scale,
    map_to_tokens,
    tokens_to_map,
)


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
    """`WindowAttention` on tokens in the order of the windows, with exact rewrites.

    The scale is folded into the query weights. The key bias is zero: it adds the same number to all
    scores of a query, which softmax ignores. Position bias and mask are one constant, (G, E, W, W)
    for shifted windows and (E, W, W) for others; the shift is a constant reordering of the tokens
    before and after.
    """

    bias: Tensor

    def __init__(self, reference: WindowAttention) -> None:
        super().__init__()
        self.heads, self.head_dim, self.tokens = (
            reference.heads,
            reference.head_dim,
            reference.window**2,
        )
        self.qkv = fold_score_scale(reference.qkv, self.heads, self.head_dim)
        self.proj = copy.deepcopy(reference.proj)
        self.score, self.softmax, self.value = MatrixProduct(), nn.Softmax(dim=-1), MatrixProduct()
        bias_GEWW = reference.bias().detach()
        self.register_buffer("bias", bias_GEWW if reference.shift else bias_GEWW[0])
        # Only the bias of shifted windows differs from window to window.
        self.windows = "b g" if reference.shift else "(b g)"
        self.shift = self.unshift = nn.Identity()
        if reference.shift:
            plain = window_order(reference.side, reference.window, 0)
            order = plain.argsort()[window_order(reference.side, reference.window, reference.shift)]
            self.shift, self.unshift = Reorder(order), Reorder(order.argsort())

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        # One transposition of q, k and v together, split by heads after it: two kernels less than
        # one for each.
        qkv = rearrange(
            self.qkv(self.shift(tokens_BNC)),
            f"b (g w) (e d) -> {self.windows} e w d",
            w=self.tokens,
            e=3 * self.heads,
        )
        q, k, v = qkv.chunk(3, dim=-3)
        mixed = self.value(self.softmax(self.score(q, k.transpose(-2, -1)) + self.bias), v)
        mixed_BNC = rearrange(
            mixed, f"{self.windows} e w d -> b (g w) (e d)", g=tokens_BNC.shape[1] // self.tokens
        )
        return self.unshift(self.proj(mixed_BNC))


class DeployedSelect(nn.Module):
    """`Select` with its gate per token as one LayerNorm and a sum.

    The weights of the Linear C -> 1 are folded into the norm's: an engine then computes the gate
    within a neighbouring kernel, where a product with one column took two or three of its own.
    """

    def __init__(self, reference: DFvTSelect) -> None:
        super().__init__()
        norm, linear = (cast("nn.LayerNorm | nn.Linear", layer) for layer in reference.fc_spatial)
        weight_C = linear.weight.detach()[0]
        self.spatial = copy.deepcopy(norm)
        self.spatial.weight = nn.Parameter(norm.weight.detach() * weight_C)
        self.spatial.bias = nn.Parameter(norm.bias.detach() * weight_C)
        self.fc_channel = copy.deepcopy(reference.fc_channel)

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, C)."""
        gate_B1C = self.fc_channel(tokens_BNC.mean(dim=1, keepdim=True))
        gate_BN1 = self.spatial(local_BNC).sum(dim=2, keepdim=True)
        return tokens_BNC + (gate_BN1 + gate_B1C).sigmoid() * (local_BNC - tokens_BNC)


class DeployedStage(nn.Module):
    """`Stage` between maps: inside, the tokens are in the order of the windows."""

    def __init__(self, reference: DFvTStage) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(reference.blocks)
        for block in self.blocks:
            block = cast("DFvTBlock", block)
            block.attn = DeployedWindowAttention(cast("WindowAttention", block.attn))
            block.select = DeployedSelect(cast("DFvTSelect", block.select))
        self.downsample = copy.deepcopy(reference.downsample)
        self.arrange = self.restore = nn.Identity()
        if reference.window < reference.side:
            order = window_order(reference.side, reference.window, 0)
            self.arrange, self.restore = Reorder(order), Reorder(order.argsort())

    def forward(self, tokens_BNC: Tensor, local_BNC: Tensor) -> Tensor:
        """Tokens (B, N, C) and local features (B, N, C) to tokens (B, N, 2C), or (B, N, C) of the
        last stage.
        """
        tokens_BNC, local_BNC = self.arrange(tokens_BNC), self.arrange(local_BNC)
        for block in self.blocks:
            tokens_BNC = block(tokens_BNC, local_BNC)
        return self.restore(self.downsample(tokens_BNC))


def _fold(layers: nn.Sequential) -> nn.Sequential:
    """The same layers with each BatchNorm folded into the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fold_batch_norm(cast("nn.Conv2d", folded[-1]), layer)
        else:
            folded.append(copy.deepcopy(layer))
    return nn.Sequential(*folded)


class DeployedLocalConv(nn.Module):
    """A stage's `multiresolution_conv` with the space to depth before it: one transposition and two
    convolutions.
    """

    def __init__(self, reference: nn.Sequential) -> None:
        super().__init__()
        self.depthwise, self.pointwise = _fold(reference)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """A map (B, C, n, n) to local features (B, C, n/2, n/2)."""
        return self.pointwise(self.depthwise(space_to_depth(map_BCHW)))


class DeployedDFvT(nn.Module):
    """The deployed form: images (B, 3, H, W) to logits (B, K); the reference form's function."""

    def __init__(self, reference: DFvT) -> None:
        super().__init__()
        self.num_classes = reference.num_classes
        p = reference.patch_embed
        self.patch_embed = _fold(nn.Sequential(p.proj1, p.norm1, p.act, p.proj2, p.norm, p.act))
        self.layers = nn.ModuleList(
            DeployedStage(cast("DFvTStage", stage)) for stage in reference.layers
        )
        self.convlayers = copy.deepcopy(reference.convlayers)
        for branch in self.convlayers:
            branch = cast("ConvBranch", branch)
            branch.conv1x1_1, branch.conv1 = _fold(branch.conv1x1_1), _fold(branch.conv1)
            branch.conv1x1_2 = _fold(branch.conv1x1_2)
        self.multiresolution_conv = nn.ModuleList(
            DeployedLocalConv(cast("nn.Sequential", layers))
            for layers in reference.multiresolution_conv
        )
        self.pool = copy.deepcopy(reference.pool)
        self.norm, self.head = copy.deepcopy(reference.norm), copy.deepcopy(reference.head)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        map_BCHW = self.patch_embed(images_NCHW)
        for i, stage in enumerate(list(self.layers)[:-1]):
            detailed_BCHW, share_BCHW = self.convlayers[i](map_BCHW)
            local_BCHW = self.multiresolution_conv[i](detailed_BCHW)
            local_BNC = stage(
                map_to_tokens(self.pool(map_BCHW) + share_BCHW), map_to_tokens(local_BCHW)
            )
            map_BCHW = tokens_to_map(local_BNC, local_BCHW.shape[2])
        _, share_BCHW = self.convlayers[-1](map_BCHW)
        local_BNC = map_to_tokens(map_BCHW)
        tokens_BNC = self.layers[-1](local_BNC + map_to_tokens(share_BCHW), local_BNC)
        return self.head(self.norm(tokens_BNC).mean(dim=1))
