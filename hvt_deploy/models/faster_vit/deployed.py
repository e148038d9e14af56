"""FasterViT's deployed form: positions evaluated, scales folded, tokens in windows for a level.

Shapes as in `model`: R x S windows per image, T carrier tokens in front of the N tokens of
each window.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from hvt_deploy.models.faster_vit.convs import ConvLevel
from hvt_deploy.models.faster_vit.deployed_convs import DeployedConvLevel, DeployedStem
from hvt_deploy.models.faster_vit.model import (
    Carriers,
    FasterViT,
    TokenBlock,
    TokenInitializer,
    TokenLevel,
)
from hvt_deploy.models.layers import (
    DeployedAttention,
    Mlp,
    batch_norm_affine,
    linear_from,
    map_to_sequence,
    position_to_sequence,
)


class DeployedTokenInitializer(nn.Module):
    """`TokenInitializer` as one depthwise convolution: an average of shifted 3x3 windows is one
    wider window.
    """

    def __init__(self, reference: TokenInitializer) -> None:
        super().__init__()
        conv, pool, self.layout = reference.pos_embed, reference.pool, reference.layout
        height, width = cast("tuple[int, int]", pool.kernel_size)
        average = conv.weight.new_full((1, 1, height, width), 1 / (height * width))
        # Correlating with both kernels in a row is correlating once with their full convolution.
        kernel = F.conv2d(conv.weight.detach(), average, padding=(height - 1, width - 1))
        stride = cast("tuple[int, int]", pool.stride)
        size = (kernel.shape[2], kernel.shape[3])
        self.pos_embed = nn.Conv2d(
            len(kernel), len(kernel), size, stride, 1, groups=len(kernel), device="meta"
        )
        self.pos_embed.weight = nn.Parameter(kernel)
        self.pos_embed.bias = nn.Parameter(cast("Tensor", conv.bias).detach().clone())

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The padded map (B, C, H, W) to each window's carrier tokens (T, R*S*B, C)."""
        side = self.layout.side
        grid_BCHW = self.pos_embed(map_BCHW)
        return rearrange(grid_BCHW, "b c (r i) (s j) -> (i j) (r s b) c", i=side, j=side)


class DeployedTokenBlock(nn.Module):
    """`TokenBlock` for inference. Carrier tokens stay in the order that cutting into
    windows leaves: the first of each window, then the second of each.

    Attention does not care for the order of its tokens, so positions and biases are put into that
    order once, instead of the tokens into raster order and back in every block.
    """

    pos_embed: Tensor
    hat_pos_embed: Tensor | None
    order: Tensor | None

    def __init__(self, reference: TokenBlock) -> None:
        super().__init__()
        layout = self.layout = reference.layout
        tokens = reference.window**2 + (0 if layout is None else layout.side**2)
        self.register_buffer(
            "pos_embed", position_to_sequence(reference.pos_embed(reference.window))
        )
        bias_ENN = reference.attn.pos_emb_funct(tokens)
        self.attn = DeployedAttention(reference.norm1, reference.attn, bias_ENN, reference.gamma3)
        self.norm2 = copy.deepcopy(reference.norm2)
        self.mlp = _scaled_mlp(reference.mlp, reference.gamma4)
        if layout is not None:
            self._add_carriers(reference, layout)

    def _add_carriers(self, reference: TokenBlock, layout: Carriers) -> None:
        places = torch.arange(layout.count)[None, :, None]
        raster = layout.to_raster(places).flatten()
        # Of each token here: its index window by window, and in raster order.
        by_window = rearrange(places.flatten(), "(g t) -> (t g)", t=layout.side**2)
        in_raster = raster.argsort()[by_window]
        bias = reference.hat_attn.pos_emb_funct(layout.count)[:, in_raster][:, :, in_raster]
        position = reference.hat_pos_embed
        term = (
            None
            if position is None
            else position_to_sequence(position(layout.rows * layout.side))[in_raster]
        )
        self.register_buffer("hat_pos_embed", term)
        self.hat_attn = DeployedAttention(
            reference.hat_norm1, reference.hat_attn, bias, reference.gamma1
        )
        self.hat_norm2 = copy.deepcopy(reference.hat_norm2)
        self.hat_mlp = _scaled_mlp(reference.hat_mlp, reference.gamma2)
        # Where the official code gives tokens to other windows than they came from.
        moved = raster[layout.to_windows(places).flatten()]
        swapped = layout.rows != layout.columns
        self.register_buffer("order", by_window.argsort()[moved[by_window]] if swapped else None)

    def forward(self, carriers: Tensor | None, tokens: Tensor) -> Tensor:
        """Carriers (T, R*S*B, C), where there are any, and tokens (N, R*S*B, C) to both in one
        sequence.
        """
        tokens = tokens + self.pos_embed
        if carriers is not None:
            tokens = torch.cat([self._mix_carriers(carriers), tokens])
        tokens = tokens + self.attn(tokens)
        return tokens + self.mlp(self.norm2(tokens))

    def _mix_carriers(self, carriers: Tensor) -> Tensor:
        layout = cast("Carriers", self.layout)
        windows = layout.rows * layout.columns
        mixed = rearrange(carriers, "t (g b) c -> (t g) b c", g=windows)
        if self.hat_pos_embed is not None:
            mixed = mixed + self.hat_pos_embed
        mixed = mixed + self.hat_attn(mixed)
        mixed = mixed + self.hat_mlp(self.hat_norm2(mixed))
        if self.order is not None:
            mixed = mixed.index_select(0, self.order)
        return rearrange(mixed, "(t g) b c -> t (g b) c", g=windows)


class DeployedPropagation(nn.Module):
    """A window's carrier tokens, enlarged by nearest neighbour and scaled, added to its tokens."""

    nearest: Tensor
    gamma1: Tensor | None

    def __init__(self, reference: TokenBlock, layout: Carriers) -> None:
        super().__init__()
        own = torch.arange(layout.side**2)[None, :, None]
        self.register_buffer("nearest", reference.enlarge(own, layout.side).flatten())
        self.register_buffer(
            "gamma1", None if reference.gamma1 is None else reference.gamma1.detach().clone()
        )

    def forward(self, carriers: Tensor, tokens: Tensor) -> Tensor:
        """Carriers (T, R*S*B, C) and tokens (N, R*S*B, C) to tokens."""
        scaled = carriers if self.gamma1 is None else carriers * self.gamma1
        return tokens + scaled.index_select(0, self.nearest)


class DeployedTokenLevel(nn.Module):
    """`TokenLevel`; the last level ends with features (B, C), averaged over its map."""

    def __init__(self, reference: TokenLevel, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.window, self.grid = size, reference.window, reference.grid
        self.padded = tuple(count * self.window for count in self.grid)
        blocks = [cast("TokenBlock", block) for block in reference.blocks]
        layout = self.layout = blocks[0].layout
        self.blocks = nn.ModuleList(DeployedTokenBlock(block) for block in blocks)
        self.global_tokenizer = self.propagation = None
        if layout is not None and reference.global_tokenizer is not None:
            self.global_tokenizer = DeployedTokenInitializer(reference.global_tokenizer)
            self.propagation = (
                DeployedPropagation(blocks[-1], layout) if blocks[-1].propagate else None
            )
        self.downsample = copy.deepcopy(reference.downsample)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H/2, W/2), rounded up; at the last level to features (B, C)."""
        if self.padded != self.size:
            (height, width), (new_height, new_width) = self.size, self.padded
            map_BCHW = F.pad(map_BCHW, (0, new_width - width, 0, new_height - height))
        carriers = None if self.global_tokenizer is None else self.global_tokenizer(map_BCHW)
        tokens = self._to_windows(map_BCHW)
        for i, block in enumerate(self.blocks):
            tokens = cast("Tensor", block(carriers, tokens))
            if self.layout is not None:
                share = self.layout.side**2
                carriers, tokens = tokens[:share], tokens[share:]
                if self.propagation is not None and i == len(self.blocks) - 1:
                    tokens = self.propagation(carriers, tokens)
        if self.downsample is None:
            return self._averaged(tokens)
        # The norm works on each token, so it comes before the windows are put together.
        return self.downsample.reduction(self._to_map(self.downsample.norm(tokens)))

    def _to_windows(self, map_BCHW: Tensor) -> Tensor:
        window = self.window
        if self.grid == (1, 1):
            return map_to_sequence(map_BCHW)
        return rearrange(map_BCHW, "b c (r i) (s j) -> (i j) (r s b) c", i=window, j=window)

    def _to_map(self, tokens: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.grid, self.size
        padded_BCHW = rearrange(
            tokens, "(i j) (r s b) c -> b c (r i) (s j)", r=rows, s=columns, i=self.window
        )
        return padded_BCHW if self.padded == self.size else padded_BCHW[:, :, :height, :width]

    def _averaged(self, tokens: Tensor) -> Tensor:
        if self.padded == self.size:
            rows, columns = self.grid
            return rearrange(tokens, "n (g b) c -> (n g) b c", g=rows * columns).mean(dim=0)
        return self._to_map(tokens).mean(dim=(2, 3))


class ScaledFeatures(nn.Module):
    """The final BatchNorm where there is no head to fold it into."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, features_NC: Tensor) -> Tensor:
        """Features (B, C) to features (B, C)."""
        return features_NC * self.scale + self.shift


class DeployedFasterViT(nn.Module):
    """The deployed form: equal to the reference form in eval mode; no reshape mentions the batch
    size.
    """

    def __init__(self, reference: FasterViT) -> None:
        super().__init__()
        self.num_classes = reference.num_classes
        self.patch_embed = DeployedStem(reference.patch_embed.conv_down)
        size = cast(
            "tuple[int, int]", tuple(-(-side // 4) for side in reference.architecture.image_size)
        )
        self.levels = nn.ModuleList()
        for level in reference.levels:
            if isinstance(level, ConvLevel):
                self.levels.append(DeployedConvLevel(level))
            else:
                self.levels.append(DeployedTokenLevel(cast("TokenLevel", level), size))
            size = (-(-size[0] // 2), -(-size[1] // 2))
        # The average over the map comes after the BatchNorm, which is linear, so it may come
        # before.
        scale, shift = batch_norm_affine(reference.norm)
        head = reference.head
        if isinstance(head, nn.Linear):
            self.head: nn.Module = linear_from(
                head.weight.detach() * scale, head.weight @ shift + head.bias
            )
        else:
            self.head = ScaledFeatures(scale, shift)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        features = self.patch_embed(images_NCHW)
        for level in self.levels:
            features = level(features)
        return self.head(features)


def _scaled_mlp(reference: Mlp, gamma: Tensor | None) -> Mlp:
    """The MLP with the layer scale of its result folded into fc2."""
    deployed = copy.deepcopy(reference)
    if gamma is not None:
        scale = gamma.detach()
        deployed.fc2 = linear_from(
            reference.fc2.weight.detach() * scale[:, None], reference.fc2.bias.detach() * scale
        )
    return deployed
