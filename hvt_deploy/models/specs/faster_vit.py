"""FasterViT: hyper-parameters of the paper's models, fixed and any-resolution, and of the small one of the demo.

Hatamizadeh et al., "FasterViT: Fast Vision Transformers with Hierarchical Attention", ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvt_deploy.errors import BadInput
from hvt_deploy.images import Preprocessing
from hvt_deploy.model_options import ModelOptions
from hvt_deploy.models.spec import Checkpoint, Measured, ModelSpec, Published

# Levels 2 and 3 are transformers. Their maps are this many times smaller than the image.
TOKEN_LEVELS = {2: 16, 3: 32}


@dataclass(frozen=True)
class FasterViTArchitecture:
    """Hyper-parameters of FasterViT (paper section 3). Every tuple has one entry per level.

    Level i has `dim` * 2^i channels; the stem goes through `stem_dim`. With `hierarchy`, level 2 has
    `carrier_tokens` x `carrier_tokens` carrier tokens per window; `propagation` adds them to their window's tokens
    after its last block. `layer_scale` scales every residual branch of the transformer blocks.
    """

    image_size: tuple[int, int]
    dim: int
    stem_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window_sizes: tuple[int, int, int, int] = (7, 7, 7, 7)
    carrier_tokens: int = 2
    layer_scale: bool = False
    hierarchy: bool = True
    propagation: bool = False
    mlp_ratio: int = 4

    def windows(self, level: int) -> tuple[int, int]:
        """Rows and columns of windows at level 2 or 3, padding included."""
        window = self.window_sizes[level]
        height, width = (-(-_map_side(side, level) // window) for side in self.image_size)
        return height, width


def _map_side(side: int, level: int) -> int:
    """The side of a level's map: every convolution of stride 2 rounds up."""
    return -(-side // TOKEN_LEVELS[level])


def configure(spec: ModelSpec, image_size: tuple[int, int] | None, options: ModelOptions) -> ModelSpec:
    """An any-resolution spec for this size, window sizes and carrier-token size; None keeps the model's own.

    Raises BadInput for what the official code cannot run, with the rule and the nearest sizes that work.
    """
    architecture = spec.architecture
    if not isinstance(architecture, FasterViTArchitecture):
        raise BadInput(f"{spec.name} is no FasterViT.")
    windows = options.window_size or architecture.window_sizes
    if len(windows) != 4 or min(windows[2:]) < 2:
        raise BadInput(
            f"Window sizes {','.join(map(str, windows))} do not fit {spec.name}.",
            "Give four, one for each level; those of levels 2 and 3 must be 2 or more: --window-size 7,7,12,6",
        )
    size = image_size or spec.image_size
    changed = replace(
        architecture, image_size=size, window_sizes=(windows[0], windows[1], windows[2], windows[3]),
        carrier_tokens=options.carrier_token_size or architecture.carrier_tokens,
    )  # fmt: skip
    for axis, side in zip(("height", "width"), size, strict=True):
        _check_side(axis, side, changed)
    if changed.hierarchy:
        _check_carrier_tokens(changed)
    if changed == architecture:
        return spec
    return replace(
        spec, architecture=changed, preprocessing=replace(spec.preprocessing, image_size=size), measured=None,
        options=options,
    )  # fmt: skip


def _check_side(axis: str, side: int, architecture: FasterViTArchitecture) -> None:
    if _works(side, architecture):
        return
    below = next((s for s in range(side - 1, 0, -1) if _works(s, architecture)), None)
    above = next(s for s in range(side + 1, side + 10_000) if _works(s, architecture))
    nearest = f"{below} and {above}" if below else str(above)
    raise BadInput(
        f"FasterViT cannot run on images of {axis} {side} with windows of {architecture.window_sizes[2]} and "
        f"{architecture.window_sizes[3]}: its official code counts fewer windows than the rounded-up map has.",
        f"The nearest that work: {nearest}. Multiples of 32 always do.",
    )


def _works(side: int, architecture: FasterViTArchitecture) -> bool:
    """The official code counts windows on the rounded-down map; that must be as many as the real map has."""
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
            f"{rows} x {columns} windows with one carrier token each are fewer than 4 carrier tokens, which the "
            "official code cannot place.",
            "Raise --carrier-token-size to 2, or the image size.",
        )


def _official(
    name: str,
    architecture: FasterViTArchitecture,
    published: Published,
    measured: Measured,
    crop: tuple[float, str],
    file: str,
) -> ModelSpec:
    crop_pct, crop_mode = crop
    return ModelSpec(
        name=name,
        family="faster_vit",
        architecture=architecture,
        num_classes=1000,
        preprocessing=Preprocessing(
            image_size=architecture.image_size,
            crop_pct=crop_pct,
            crop_mode="squash" if crop_mode == "squash" else "center",
        ),
        published=published,
        measured=measured,
        checkpoint=Checkpoint(url=f"https://huggingface.co/ahatamiz/FasterViT/resolve/main/{file}.pth.tar"),
        code_licence="NVIDIA Source Code License-NC",
        weights_licence="not stated",
        resizable=name.endswith("_any_res"),
    )


_V0 = FasterViTArchitecture(
    image_size=(224, 224), dim=64, stem_dim=64, depths=(2, 3, 6, 5), heads=(2, 4, 8, 16),
    layer_scale=False, hierarchy=True, propagation=False,
)  # fmt: skip
_V1 = FasterViTArchitecture(
    image_size=(224, 224), dim=80, stem_dim=32, depths=(1, 3, 8, 5), heads=(2, 4, 8, 16),
    layer_scale=False, hierarchy=True, propagation=False,
)  # fmt: skip
_V2 = FasterViTArchitecture(
    image_size=(224, 224), dim=96, stem_dim=64, depths=(3, 3, 8, 5), heads=(2, 4, 8, 16),
    layer_scale=False, hierarchy=True, propagation=False,
)  # fmt: skip
_V3 = FasterViTArchitecture(
    image_size=(224, 224), dim=128, stem_dim=64, depths=(3, 3, 12, 5), heads=(2, 4, 8, 16),
    layer_scale=True, hierarchy=True, propagation=True,
)  # fmt: skip
_V4 = FasterViTArchitecture(
    image_size=(224, 224), dim=196, stem_dim=64, depths=(3, 3, 12, 5), heads=(4, 8, 16, 32),
    layer_scale=True, hierarchy=True, propagation=True,
)  # fmt: skip
_V5 = FasterViTArchitecture(
    image_size=(224, 224), dim=320, stem_dim=64, depths=(3, 3, 12, 5), heads=(4, 8, 16, 32),
    layer_scale=True, hierarchy=True, propagation=True,
)  # fmt: skip
_V6 = FasterViTArchitecture(
    image_size=(224, 224), dim=320, stem_dim=64, depths=(3, 3, 16, 8), heads=(4, 8, 16, 32),
    layer_scale=True, hierarchy=True, propagation=True,
)  # fmt: skip
_21K = FasterViTArchitecture(
    image_size=(224, 224), dim=196, stem_dim=64, depths=(3, 3, 12, 5), heads=(4, 8, 16, 32),
    layer_scale=True, hierarchy=False, propagation=True,
)  # fmt: skip
_DEMO = FasterViTArchitecture(
    image_size=(64, 64), dim=16, stem_dim=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window_sizes=(2, 2, 2, 2),
    carrier_tokens=1, layer_scale=True, propagation=True, mlp_ratio=2,
)  # fmt: skip

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _official(
            "faster_vit_0_224",
            _V0,
            Published(top1=82.1, top5=95.9, params_m=31.4, flops_g=3.3),
            Measured(params=31_404_840, macs=3_492_325_376),
            (0.875, "center"),
            "fastervit_0_224_1k",
        ),
        _official(
            "faster_vit_1_224",
            _V1,
            Published(top1=83.2, top5=96.5, params_m=53.4, flops_g=5.3),
            Measured(params=53_366_696, macs=5_503_054_336),
            (1.0, "center"),
            "fastervit_1_224_1k",
        ),
        _official(
            "faster_vit_2_224",
            _V2,
            Published(top1=84.2, top5=96.8, params_m=75.9, flops_g=8.7),
            Measured(params=75_923_816, macs=8_974_767_104),
            (1.0, "center"),
            "fastervit_2_224_1k",
        ),
        _official(
            "faster_vit_3_224",
            _V3,
            Published(top1=84.9, top5=97.2, params_m=159.5, flops_g=18.2),
            Measured(params=159_547_944, macs=18_707_990_528),
            (1.0, "center"),
            "fastervit_3_224_1k",
        ),
        _official(
            "faster_vit_4_224",
            _V4,
            Published(top1=85.4, top5=97.3, params_m=424.6, flops_g=36.6),
            Measured(params=365_555_712, macs=43_228_364_928),
            (1.0, "center"),
            "fastervit_4_224_1k",
        ),
        _official(
            "faster_vit_5_224",
            _V5,
            Published(top1=85.6, top5=97.4, params_m=975.5, flops_g=113.0),
            Measured(params=957_520_552, macs=113_967_587_328),
            (1.0, "center"),
            "fastervit_5_224_1k",
        ),
        _official(
            "faster_vit_6_224",
            _V6,
            Published(top1=85.8, top5=97.4, params_m=1360.0, flops_g=142.0),
            Measured(params=1_360_328_872, macs=143_993_693_184),
            (1.0, "center"),
            "fastervit_6_224_1k",
        ),
        _official(
            "faster_vit_4_21k_224",
            replace(_21K, window_sizes=(7, 7, 14, 7)),
            Published(top1=86.6, top5=97.8, params_m=271.9, flops_g=40.8),
            Measured(params=271_944_224, macs=41_590_384_704),
            (0.95, "squash"),
            "fastervit_4_21k_224_w14",
        ),
        _official(
            "faster_vit_4_21k_384",
            replace(_21K, image_size=(384, 384), window_sizes=(7, 7, 24, 12)),
            Published(top1=87.6, top5=98.3, params_m=271.9, flops_g=120.1),
            Measured(params=271_944_224, macs=126_564_897_024),
            (1.0, "squash"),
            "fastervit_4_21k_384_w24",
        ),
        _official(
            "faster_vit_4_21k_512",
            replace(_21K, image_size=(512, 512), window_sizes=(7, 7, 32, 16)),
            Published(top1=87.8, top5=98.4, params_m=271.9, flops_g=213.5),
            Measured(params=271_944_224, macs=234_090_918_144),
            (1.0, "squash"),
            "fastervit_4_21k_512_w32",
        ),
        _official(
            "faster_vit_4_21k_768",
            replace(_21K, image_size=(768, 768), window_sizes=(7, 7, 48, 24)),
            Published(top1=87.9, top5=98.5, params_m=271.9, flops_g=480.4),
            Measured(params=271_944_224, macs=585_097_933_056),
            (0.93, "squash"),
            "fastervit_4_21k_768_w48",
        ),
        _official(
            "faster_vit_0_any_res",
            replace(_V0, image_size=(576, 960)),
            Published(top1=82.1, top5=95.9, params_m=31.4, flops_g=3.3),
            Measured(params=30_609_192, macs=43_187_501_568),
            (0.875, "center"),
            "fastervit_0_224_1k",
        ),
        _official(
            "faster_vit_1_any_res",
            replace(_V1, image_size=(576, 960)),
            Published(top1=83.2, top5=96.5, params_m=53.4, flops_g=5.3),
            Measured(params=52_043_688, macs=69_592_261_248),
            (1.0, "center"),
            "fastervit_1_224_1k",
        ),
        _official(
            "faster_vit_2_any_res",
            replace(_V2, image_size=(541, 960)),
            Published(top1=84.2, top5=96.8, params_m=75.9, flops_g=8.7),
            Measured(params=74_338_664, macs=102_373_939_584),
            (1.0, "center"),
            "fastervit_2_224_1k",
        ),
        _official(
            "faster_vit_3_any_res",
            replace(_V3, image_size=(576, 960)),
            Published(top1=84.9, top5=97.2, params_m=159.5, flops_g=18.2),
            Measured(params=156_383_784, macs=237_182_442_496),
            (1.0, "center"),
            "fastervit_3_224_1k",
        ),
        _official(
            "faster_vit_4_any_res",
            replace(_V4, image_size=(576, 960)),
            Published(top1=85.4, top5=97.3, params_m=424.6, flops_g=36.6),
            Measured(params=360_720_384, macs=551_175_960_352),
            (1.0, "center"),
            "fastervit_4_224_1k",
        ),
        _official(
            "faster_vit_5_any_res",
            replace(_V5, image_size=(576, 960)),
            Published(top1=85.6, top5=97.4, params_m=975.5, flops_g=113.0),
            Measured(params=949_637_800, macs=1_459_665_187_328),
            (1.0, "center"),
            "fastervit_5_224_1k",
        ),
        _official(
            "faster_vit_6_any_res",
            replace(_V6, image_size=(576, 960)),
            Published(top1=85.8, top5=97.4, params_m=1360.0, flops_g=142.0),
            Measured(params=1_349_818_536, macs=1_878_084_832_768),
            (1.0, "center"),
            "fastervit_6_224_1k",
        ),
        _official(
            "faster_vit_4_21k_224_any_res",
            replace(_21K, image_size=(576, 960), window_sizes=(7, 7, 14, 7)),
            Published(top1=86.6, top5=97.8, params_m=271.9, flops_g=40.8),
            Measured(params=271_944_224, macs=546_744_574_912),
            (0.95, "squash"),
            "fastervit_4_21k_224_w14",
        ),
        _official(
            "faster_vit_4_21k_384_any_res",
            replace(_21K, image_size=(576, 960), window_sizes=(7, 7, 24, 12)),
            Published(top1=87.6, top5=98.3, params_m=271.9, flops_g=120.1),
            Measured(params=271_944_224, macs=641_857_427_712),
            (1.0, "squash"),
            "fastervit_4_21k_384_w24",
        ),
        _official(
            "faster_vit_4_21k_512_any_res",
            replace(_21K, image_size=(576, 960), window_sizes=(7, 7, 32, 16)),
            Published(top1=87.8, top5=98.4, params_m=271.9, flops_g=213.5),
            Measured(params=271_944_224, macs=768_576_198_912),
            (1.0, "squash"),
            "fastervit_4_21k_512_w32",
        ),
        _official(
            "faster_vit_4_21k_768_any_res",
            replace(_21K, image_size=(576, 960), window_sizes=(7, 7, 48, 24)),
            Published(top1=87.9, top5=98.5, params_m=271.9, flops_g=480.4),
            Measured(params=271_944_224, macs=968_051_431_680),
            (0.93, "squash"),
            "fastervit_4_21k_768_w48",
        ),
        ModelSpec(
            name="faster_vit_demo",
            family="faster_vit",
            architecture=_DEMO,
            num_classes=10,
            preprocessing=Preprocessing(
                image_size=(64, 64), crop_pct=1.0, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
            ),
            published=None,
            measured=Measured(params=609_170, macs=6_809_856),
            checkpoint=Checkpoint(packaged="faster_vit_demo.safetensors"),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
        ),
    )
}
