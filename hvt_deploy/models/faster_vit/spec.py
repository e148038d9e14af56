"""FasterViT: hyper-parameters of the paper's models, fixed and any-resolution, and of the demo's.

Hatamizadeh et al., "FasterViT: Fast Vision Transformers with Hierarchical Attention", ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import ModelOptions
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, ModelCost, ModelSpec, Published, demo_spec, elpv_spec

# Levels 2 and 3 are transformers. Their maps are this many times smaller than the image.
TOKEN_LEVELS = {2: 16, 3: 32}


@dataclass(frozen=True)
class FasterViTArchitecture:
    """Hyper-parameters of FasterViT (paper section 3); tuples have one entry per level."""

    image_size: tuple[int, int]
    """Height and width, pixels."""
    dim: int
    """Channels of level 0; level i has `dim` * 2^i."""
    stem_dim: int
    """Channels between the two convolutions of the stem."""
    depths: tuple[int, int, int, int]
    """Blocks of each level."""
    heads: tuple[int, int, int, int]
    """Attention heads of each level."""
    window_sizes: tuple[int, int, int, int] = (7, 7, 7, 7)
    """Side of a square attention window in each level, tokens."""
    carrier_tokens: int = 2
    """Side of the square of carrier tokens per window of level 2."""
    layer_scale: bool = False
    """Whether the residual branches of transformer blocks are scaled per channel."""
    hierarchy: bool = True
    """Whether level 2 has carrier tokens."""
    propagation: bool = False
    """Whether carrier tokens are added to their window's tokens after the last block."""
    mlp_ratio: int = 4
    """Hidden channels of an MLP over its channels."""

    def windows(self, level: int) -> tuple[int, int]:
        """Rows and columns of windows at level 2 or 3, padding included."""
        window = self.window_sizes[level]
        height, width = (-(-_map_side(side, level) // window) for side in self.image_size)
        return height, width


def _map_side(side: int, level: int) -> int:
    """The side of a level's map: every convolution of stride 2 rounds up."""
    return -(-side // TOKEN_LEVELS[level])


def configure(
    spec: ModelSpec, image_size: tuple[int, int] | None, options: ModelOptions
) -> ModelSpec:
    """An any-resolution spec for this size, window sizes and carrier-token size; None keeps the
    model's own.

    Raises BadInput for what the official code cannot run, with the rule and the nearest sizes that
    work.
    """
    architecture = spec.architecture
    if not isinstance(architecture, FasterViTArchitecture):
        raise BadInput(f"{spec.name} is no FasterViT.")
    windows = options.window_size or architecture.window_sizes
    if len(windows) != 4 or min(windows[2:]) < 2:
        raise BadInput(
            f"Window sizes {','.join(map(str, windows))} do not fit {spec.name}.",
            "Give four, one for each level; those of levels 2 and 3 must be 2 or more: "
            "--window-size 7,7,12,6",
        )
    size = image_size or spec.image_size
    changed = replace(
        architecture,
        image_size=size,
        window_sizes=(windows[0], windows[1], windows[2], windows[3]),
        carrier_tokens=options.carrier_token_size or architecture.carrier_tokens,
    )
    for axis, side in zip(("height", "width"), size, strict=True):
        _check_side(axis, side, changed)
    if changed.hierarchy:
        _check_carrier_tokens(changed)
    if changed == architecture:
        return spec
    return replace(
        spec,
        architecture=changed,
        preprocessing=replace(spec.preprocessing, image_size=size),
        measured=None,
        options=options,
    )


def _check_side(axis: str, side: int, architecture: FasterViTArchitecture) -> None:
    if _works(side, architecture):
        return
    below = next((s for s in range(side - 1, 0, -1) if _works(s, architecture)), None)
    above = next(s for s in range(side + 1, side + 10_000) if _works(s, architecture))
    nearest = f"{below} and {above}" if below else str(above)
    raise BadInput(
        f"FasterViT cannot run on images of {axis} {side} with windows of "
        f"{architecture.window_sizes[2]} and {architecture.window_sizes[3]}: its official code "
        "counts fewer windows than the rounded-up map has.",
        f"The nearest that work: {nearest}. Multiples of 32 always do.",
    )


def _works(side: int, architecture: FasterViTArchitecture) -> bool:
    """The official code counts windows on the rounded-down map; the real map must have as many."""
    for level, reduction in TOKEN_LEVELS.items():
        window, counted = architecture.window_sizes[level], side // reduction
        if counted == 0 or -(-counted // window) != -(-_map_side(side, level) // window):
            return False
    return True


def _check_carrier_tokens(architecture: FasterViTArchitecture) -> None:
    side, window = architecture.carrier_tokens, architecture.window_sizes[2]
    if not 1 <= side <= window:
        raise BadInput(
            f"The carrier-token size is {side}, the windows of level 2 are {window} x {window}.",
            f"Give a number from 1 to {window}: it is the side of a window's carrier tokens.",
        )
    rows, columns = architecture.windows(2)
    if rows * columns > 1 and rows * columns * side * side < 4:
        raise BadInput(
            f"{rows} x {columns} windows with one carrier token each are fewer than 4 carrier "
            "tokens, which the official code cannot place.",
            "Raise --carrier-token-size to 2, or the image size.",
        )


_HUB = "https://huggingface.co/ahatamiz/FasterViT/resolve/main"
_SQUARE = (224, 224)
_NARROW, _WIDE = (2, 4, 8, 16), (4, 8, 16, 32)
_V0 = FasterViTArchitecture(_SQUARE, 64, 64, (2, 3, 6, 5), _NARROW)
_V1 = FasterViTArchitecture(_SQUARE, 80, 32, (1, 3, 8, 5), _NARROW)
_V2 = FasterViTArchitecture(_SQUARE, 96, 64, (3, 3, 8, 5), _NARROW)
_V3 = FasterViTArchitecture(
    _SQUARE, 128, 64, (3, 3, 12, 5), _NARROW, layer_scale=True, propagation=True
)
_V4 = FasterViTArchitecture(
    _SQUARE, 196, 64, (3, 3, 12, 5), _WIDE, layer_scale=True, propagation=True
)
_V5 = FasterViTArchitecture(
    _SQUARE, 320, 64, (3, 3, 12, 5), _WIDE, layer_scale=True, propagation=True
)
_V6 = FasterViTArchitecture(
    _SQUARE, 320, 64, (3, 3, 16, 8), _WIDE, layer_scale=True, propagation=True
)


def _v4_21k(side: int, window: int) -> FasterViTArchitecture:
    """FasterViT-4 trained on ImageNet-21k first: without carrier tokens, with larger windows."""
    architecture = replace(_V4, image_size=(side, side), hierarchy=False)
    return replace(architecture, window_sizes=(7, 7, window, window // 2))


_DEMO = FasterViTArchitecture(
    image_size=(64, 64),
    dim=16,
    stem_dim=8,
    depths=(1, 1, 2, 1),
    heads=(1, 2, 2, 4),
    window_sizes=(2, 2, 2, 2),
    carrier_tokens=1,
    layer_scale=True,
    propagation=True,
    mlp_ratio=2,
)
_ELPV = replace(_DEMO, image_size=(96, 96), dim=24, stem_dim=16, window_sizes=(3, 3, 3, 3))

_FLOPS_NOTE = "without attention products and position MLPs"
_FLOPS_NOTE_OF_21K = "without attention products"
_FLOPS_NOTE_OF_4 = "not those of the model that the official code builds"
# Published top-1, top-5 (%), parameters (millions) and MACs (1e9); the evaluation's crop_pct; the
# file.
_ROWS = {
    "faster_vit_0_224": (_V0, 82.1, 95.9, 31.4, 3.3, 0.875, "0_224_1k"),
    "faster_vit_1_224": (_V1, 83.2, 96.5, 53.4, 5.3, 1.0, "1_224_1k"),
    "faster_vit_2_224": (_V2, 84.2, 96.8, 75.9, 8.7, 1.0, "2_224_1k"),
    "faster_vit_3_224": (_V3, 84.9, 97.2, 159.5, 18.2, 1.0, "3_224_1k"),
    "faster_vit_4_224": (_V4, 85.4, 97.3, 424.6, 36.6, 1.0, "4_224_1k"),
    "faster_vit_5_224": (_V5, 85.6, 97.4, 975.5, 113.0, 1.0, "5_224_1k"),
    "faster_vit_6_224": (_V6, 85.8, 97.4, 1360.0, 142.0, 1.0, "6_224_1k"),
    "faster_vit_4_21k_224": (_v4_21k(224, 14), 86.6, 97.8, 271.9, 40.8, 0.95, "4_21k_224_w14"),
    "faster_vit_4_21k_384": (_v4_21k(384, 24), 87.6, 98.3, 271.9, 120.1, 1.0, "4_21k_384_w24"),
    "faster_vit_4_21k_512": (_v4_21k(512, 32), 87.8, 98.4, 271.9, 213.5, 1.0, "4_21k_512_w32"),
    "faster_vit_4_21k_768": (_v4_21k(768, 48), 87.9, 98.5, 271.9, 480.4, 0.93, "4_21k_768_w48"),
}
# Of the any-resolution models, whose official default size is not that of their checkpoints.
_ANY_RES_SIZE, _ANY_RES_SIZE_OF_2 = (576, 960), (541, 960)
# Parameters and multiply-accumulates of the official code at its own size, counted by running it.
_COUNTED = {
    "faster_vit_0_224": (31_404_840, 3_492_325_376),
    "faster_vit_1_224": (53_366_696, 5_503_054_336),
    "faster_vit_2_224": (75_923_816, 8_974_767_104),
    "faster_vit_3_224": (159_547_944, 18_707_990_528),
    "faster_vit_4_224": (365_555_712, 43_228_364_928),
    "faster_vit_5_224": (957_520_552, 113_967_587_328),
    "faster_vit_6_224": (1_360_328_872, 143_993_693_184),
    "faster_vit_4_21k_224": (271_944_224, 41_590_384_704),
    "faster_vit_4_21k_384": (271_944_224, 126_564_897_024),
    "faster_vit_4_21k_512": (271_944_224, 234_090_918_144),
    "faster_vit_4_21k_768": (271_944_224, 585_097_933_056),
    "faster_vit_0_any_res": (30_609_192, 43_187_501_568),
    "faster_vit_1_any_res": (52_043_688, 69_592_261_248),
    "faster_vit_2_any_res": (74_338_664, 102_373_939_584),
    "faster_vit_3_any_res": (156_383_784, 237_182_442_496),
    "faster_vit_4_any_res": (360_720_384, 551_175_960_352),
    "faster_vit_5_any_res": (949_637_800, 1_459_665_187_328),
    "faster_vit_6_any_res": (1_349_818_536, 1_878_084_832_768),
    "faster_vit_4_21k_224_any_res": (271_944_224, 546_744_574_912),
    "faster_vit_4_21k_384_any_res": (271_944_224, 641_857_427_712),
    "faster_vit_4_21k_512_any_res": (271_944_224, 768_576_198_912),
    "faster_vit_4_21k_768_any_res": (271_944_224, 968_051_431_680),
}


def _official(name: str, row: str, image_size: tuple[int, int]) -> ModelSpec:
    """The model `name`: the architecture and checkpoint of a row at this image size."""
    architecture, top1, top5, params_m, flops_g, crop_pct, file = _ROWS[row]
    params, macs = _COUNTED[name]
    note = _FLOPS_NOTE_OF_21K if "_21k_" in row else _FLOPS_NOTE
    if row == "faster_vit_4_224":
        note = _FLOPS_NOTE_OF_4
    return ModelSpec(
        name=name,
        family="faster_vit",
        architecture=replace(architecture, image_size=image_size),
        num_classes=1000,
        preprocessing=Preprocessing(
            image_size=image_size,
            crop_pct=crop_pct,
            # The official evaluation of the models trained on ImageNet-21k takes no centre crop.
            crop_mode="squash" if "_21k_" in row else "center",
        ),
        published=Published(top1, top5, params_m, flops_g, note) if name == row else None,
        measured=ModelCost(params, macs),
        checkpoint=Checkpoint(url=f"{_HUB}/fastervit_{file}.pth.tar"),
        code_licence="NVIDIA Source Code License-NC",
        weights_licence="not stated",
        resizable=name.endswith("_any_res"),
    )


def _any_res(row: str) -> ModelSpec:
    name = row if "_21k_" in row else row.removesuffix("_224")
    size = _ANY_RES_SIZE_OF_2 if row == "faster_vit_2_224" else _ANY_RES_SIZE
    return _official(f"{name}_any_res", row, size)


FASTER_VIT_SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        *(_official(name, name, row[0].image_size) for name, row in _ROWS.items()),
        *(_any_res(name) for name in _ROWS),
        demo_spec("faster_vit", _DEMO, 64, ModelCost(609_170, 6_809_856)),
        elpv_spec("faster_vit", _ELPV, 96, ModelCost(1_190_148, 31_188_480)),
    )
}
