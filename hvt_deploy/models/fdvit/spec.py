"""FDViT: hyper-parameters of the paper's three models and of the small one that the demo runs.

Xu et al., "FDViT: Improve the Hierarchical Architecture of Vision Transformer", ICCV 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, ModelCost, ModelSpec, Published, demo_spec, elpv_spec


@dataclass(frozen=True)
class FDViTArchitecture:
    """Hyper-parameters of FDViT (paper section 3); tuples have one entry per stage."""

    image_size: int
    """Side of the square image, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    stride: int
    """Distance between two patches, pixels."""
    head_dims: tuple[int, ...]
    """Channels of one attention head in each stage."""
    heads: tuple[int, ...]
    """Attention heads of each stage."""
    depths: tuple[int, ...]
    """Blocks of each stage."""
    map_sizes: tuple[int, ...]
    """Side of the square map in each stage, tokens; about sqrt(2) smaller each time."""
    mlp_ratio: int = 4
    """Hidden channels of an MLP over its channels."""
    mask_threshold: float = 0.2
    """Share of tokens hidden from the pools in the train-only auto-encoder branch."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage: heads times head dimension."""
        return tuple(h * d for h, d in zip(self.heads, self.head_dims, strict=True))


_DEPTHS, _SIDES = (2, 3, 3, 2, 2), (27, 19, 14, 10, 7)
_ARCHITECTURES = {
    "fdvit_ti": FDViTArchitecture(
        224, 16, 8, (32, 23, 21, 23, 26), (2, 4, 6, 8, 10), _DEPTHS, _SIDES
    ),
    "fdvit_s": FDViTArchitecture(
        224, 16, 8, (48, 34, 32, 34, 38), (3, 6, 9, 12, 15), _DEPTHS, _SIDES
    ),
    "fdvit_b": FDViTArchitecture(
        224, 14, 7, (64, 45, 64, 45, 64), (4, 8, 8, 16, 16), (3, 3, 3, 2, 2), (31, 22, 16, 11, 8)
    ),
}
_DEMO = FDViTArchitecture(
    32, 4, 2, (16, 16, 20, 24), (2, 3, 3, 4), (1, 1, 2, 2), map_sizes=(15, 11, 8, 6)
)
_ELPV = replace(_DEMO, image_size=64, patch_size=8, stride=4)
_FLOPS_NOTE = "without attention products"
# Published top-1 (%), parameters (millions) and MACs (1e9); counted parameters and MACs; the id of
# the checkpoint on Google Drive.
_ROWS = {
    "fdvit_ti": (73.74, 4.6, 0.6, 4_603_420, 821_917_532, "1JTm1nJnKrQVEMF19uAKbwFqKR5wv6z4a"),
    "fdvit_s": (81.45, 21.6, 2.8, 21_595_258, 3_319_511_976, "1Dmg-EB4x_ke2XxcHEnCNSuRYwGddKG0Q"),
    "fdvit_b": (82.39, 68.1, 11.9, 68_099_320, 14_057_749_952, "1qhRSCeNgS_ZWXNLq2peSu7ubYBP-9Yqv"),
}  # fmt: skip


def _official(name: str) -> ModelSpec:
    top1, params_m, flops_g, params, macs, drive_id = _ROWS[name]
    return ModelSpec(
        name=name,
        family="fdvit",
        architecture=_ARCHITECTURES[name],
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=Published(top1, None, params_m, flops_g, _FLOPS_NOTE),
        measured=ModelCost(params, macs),
        checkpoint=Checkpoint(
            url=f"https://drive.google.com/file/d/{drive_id}/view", how="google-drive"
        ),
        code_licence="Apache-2.0",
        weights_licence="not stated",
    )


FDVIT_SPECS: dict[str, ModelSpec] = {
    **{name: _official(name) for name in _ROWS},
    "fdvit_demo": demo_spec("fdvit", _DEMO, _DEMO.image_size, ModelCost(458_534, 31_521_456)),
    "fdvit_elpv": elpv_spec("fdvit", _ELPV, _ELPV.image_size, ModelCost(462_560, 32_557_680)),
}
