"""FDViT: hyper-parameters of the paper's three models and of the small one that the demo runs.

Xu et al., "FDViT: Improve the Hierarchical Architecture of Vision Transformer", ICCV 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, Measured, ModelSpec, Published


@dataclass(frozen=True)
class FDViTArchitecture:
    """Hyper-parameters of FDViT (paper section 3). Every tuple has one entry per stage.

    `map_sizes` are the sides of the square maps: about sqrt(2) smaller from stage to stage.
    `mask_threshold` is the share of tokens hidden from the pools in the train-only auto-encoder
    branch.
    """

    image_size: int
    patch_size: int
    stride: int
    head_dims: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    map_sizes: tuple[int, ...]
    mlp_ratio: int = 4
    mask_threshold: float = 0.2

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage: heads times head dimension."""
        return tuple(h * d for h, d in zip(self.heads, self.head_dims, strict=True))


def _official(
    name: str,
    architecture: FDViTArchitecture,
    published: Published,
    measured: Measured,
    drive_id: str,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="fdvit",
        architecture=architecture,
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=published,
        measured=measured,
        checkpoint=Checkpoint(
            url=f"https://drive.google.com/file/d/{drive_id}/view", how="google-drive"
        ),
        code_licence="Apache-2.0",
        weights_licence="not stated",
    )


_TI = FDViTArchitecture(
    image_size=224,
    patch_size=16,
    stride=8,
    head_dims=(32, 23, 21, 23, 26),
    heads=(2, 4, 6, 8, 10),
    depths=(2, 3, 3, 2, 2),
    map_sizes=(27, 19, 14, 10, 7),
)
_S = FDViTArchitecture(
    image_size=224,
    patch_size=16,
    stride=8,
    head_dims=(48, 34, 32, 34, 38),
    heads=(3, 6, 9, 12, 15),
    depths=(2, 3, 3, 2, 2),
    map_sizes=(27, 19, 14, 10, 7),
)
_B = FDViTArchitecture(
    image_size=224,
    patch_size=14,
    stride=7,
    head_dims=(64, 45, 64, 45, 64),
    heads=(4, 8, 8, 16, 16),
    depths=(3, 3, 3, 2, 2),
    map_sizes=(31, 22, 16, 11, 8),
)
_DEMO = FDViTArchitecture(
    image_size=32,
    patch_size=4,
    stride=2,
    head_dims=(16, 16, 20, 24),
    heads=(2, 3, 3, 4),
    depths=(1, 1, 2, 2),
    map_sizes=(15, 11, 8, 6),
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _official(
            "fdvit_ti",
            _TI,
            Published(top1=73.74, top5=None, params_m=4.6, flops_g=0.6),
            Measured(params=4_603_420, macs=821_917_532),
            "1JTm1nJnKrQVEMF19uAKbwFqKR5wv6z4a",
        ),
        _official(
            "fdvit_s",
            _S,
            Published(top1=81.45, top5=None, params_m=21.6, flops_g=2.8),
            Measured(params=21_595_258, macs=3_319_511_976),
            "1Dmg-EB4x_ke2XxcHEnCNSuRYwGddKG0Q",
        ),
        _official(
            "fdvit_b",
            _B,
            Published(top1=82.39, top5=None, params_m=68.1, flops_g=11.9),
            Measured(params=68_099_320, macs=14_057_749_952),
            "1qhRSCeNgS_ZWXNLq2peSu7ubYBP-9Yqv",
        ),
        ModelSpec(
            name="fdvit_demo",
            family="fdvit",
            architecture=_DEMO,
            num_classes=10,
            preprocessing=Preprocessing(
                image_size=(32, 32),
                crop_pct=1.0,
                interpolation="bilinear",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            published=None,
            measured=Measured(params=458_534, macs=31_521_456),
            checkpoint=Checkpoint(packaged="fdvit_demo.safetensors"),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
        ),
    )
}
