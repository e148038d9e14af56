"""DFvT's deployed form: norms, scales and masks folded, tokens kept window by window.

Shapes as in `model`, tokens (N, B, C). Within a stage the first token of every window comes before
the second of any, so cutting into windows moves nothing: every step but attention works on each
token alone or on all of them. No reshape fixes the batch size.
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
    window_order,
)
from hvt_deploy.models.layers import (
    DeployedAttention,
    fold_batch_norm,
    map_to_sequence,
    sequence_to_map,
)


class Reorder(nn.Module):
    """Tokens (N, B, C) in another order: output token i is input token `order[i]`."""

    order: Tensor

    def __init__(self, order_N: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order_N)

    def forward(self, tokens_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) to tokens (N, B, C)."""
        return tokens_NBC.index_select(0, self.order)


class DeployedWindowAttention(DeployedAttention):
    """A LayerNorm and the `WindowAttention` behind it on tokens in the order of the stage.

    Position bias and mask are one constant, (G, 1, E, W, W) for shifted windows and (E, W, W) for
    others; the shift is a constant reordering of the tokens before and after.
    """

    def __init__(self, norm: nn.LayerNorm, reference: WindowAttention) -> None:
        bias_GEWW = reference.relative_bias()
        super().__init__(norm, reference, bias_GEWW[:, None] if reference.shift else bias_GEWW[0])
        self.tokens = reference.window**2
        # Only the bias of shifted windows differs from window to window.
        self.windows = "g b" if reference.shift else "(g b)"
        self.shift = self.unshift = nn.Identity()
        if reference.shift:
            plain = _sequence_order(reference.side, reference.window, 0)
            shifted = _sequence_order(reference.side, reference.window, reference.shift)
            order = plain.argsort()[shifted]
            self.shift, self.unshift = Reorder(order), Reorder(order.argsort())

    def forward(self, tokens_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) to tokens (N, B, C)."""
        windows, count = self.windows, len(tokens_NBC) // self.tokens
        shifted_NBC = self.shift(tokens_NBC)
        mixed = super().forward(rearrange(shifted_NBC, f"(w g) b c -> w {windows} c", g=count))
        return self.unshift(rearrange(mixed, f"w {windows} c -> (w g) b c", g=count))


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

    def forward(self, tokens_NBC: Tensor, local_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) and local features (N, B, C) to tokens (N, B, C)."""
        gate_1BC = self.fc_channel(tokens_NBC.mean(dim=0, keepdim=True))
        gate_NB1 = self.spatial(local_NBC).sum(dim=2, keepdim=True)
        return tokens_NBC + (gate_NB1 + gate_1BC).sigmoid() * (local_NBC - tokens_NBC)


class DeployedStage(nn.Module):
    """`Stage` between maps: inside, the tokens are in the order of their places in windows."""

    def __init__(self, reference: DFvTStage) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(reference.blocks)
        for block in self.blocks:
            block = cast("DFvTBlock", block)
            attention = cast("WindowAttention", block.attn)
            block.attn = DeployedWindowAttention(cast("nn.LayerNorm", block.norm1), attention)
            block.norm1 = nn.Identity()
            block.select = DeployedSelect(cast("DFvTSelect", block.select))
        self.downsample = copy.deepcopy(reference.downsample)
        self.arrange = self.restore = nn.Identity()
        if reference.window < reference.side:
            order = _sequence_order(reference.side, reference.window, 0)
            self.arrange, self.restore = Reorder(order), Reorder(order.argsort())

    def forward(self, tokens_NBC: Tensor, local_NBC: Tensor) -> Tensor:
        """Tokens (N, B, C) and local features (N, B, C) to tokens (N, B, 2C), or (N, B, C) of the
        last stage.
        """
        tokens_NBC, local_NBC = self.arrange(tokens_NBC), self.arrange(local_NBC)
        for block in self.blocks:
            tokens_NBC = block(tokens_NBC, local_NBC)
        return self.restore(self.downsample(tokens_NBC))


def _sequence_order(side: int, window: int, shift: int) -> Tensor:
    """Raster positions (n*n): the first token of each window, the second of each, and so on."""
    return rearrange(window_order(side, window, shift), "(g w) -> (w g)", w=window**2)


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
    """A stage's `multiresolution_conv` with the space to depth before it: rows, columns and two
    convolutions.

    In one step ONNX Runtime moves one number at a time, in two whole rows and then pairs: a fifth
    of the time. Engines make one kernel of both.
    """

    def __init__(self, reference: nn.Sequential) -> None:
        super().__init__()
        self.depthwise, self.pointwise = _fold(reference)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """A map (B, C, n, n) to local features (B, C, n/2, n/2)."""
        rows = rearrange(map_BCHW, "b c (h i) w -> b i (c h w)", i=2)
        columns = rearrange(rows, "b i (n j) -> b j (i n)", j=2)
        _, channels, side, _ = map_BCHW.shape
        sizes = {"i": 2, "c": channels, "h": side // 2}
        depth_BCHW = rearrange(columns, "b j (i c h w) -> b (j i c) h w", **sizes)
        return self.pointwise(self.depthwise(depth_BCHW))


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
            local_NBC = stage(
                map_to_sequence(self.pool(map_BCHW) + share_BCHW), map_to_sequence(local_BCHW)
            )
            map_BCHW = sequence_to_map(local_NBC, local_BCHW.shape[2])
        _, share_BCHW = self.convlayers[-1](map_BCHW)
        local_NBC = map_to_sequence(map_BCHW)
        tokens_NBC = self.layers[-1](local_NBC + map_to_sequence(share_BCHW), local_NBC)
        return self.head(self.norm(tokens_NBC).mean(dim=0))
