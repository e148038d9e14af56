"""DFvT: hyper-parameters of the paper's three models and of the small one that the demo runs.

Gao et al., "Doubly-Fused ViT: Fuse Information from Vision Transformer Doubly with Local
Representation", ECCV 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, Measured, ModelSpec, Published


@dataclass(frozen=True)
class DFvTArchitecture:
    """Hyper-parameters of DFvT. `depths` and `heads` have one entry per stage.

    The first stage has `embed_dim` channels on a map four times smaller than the image; each
    further one twice the channels on half the side. Attention runs at the side of the next stage,
    in square windows of `window_size`.
    """

    image_size: int
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: int
    window_size: int = 7

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each stage's square input map."""
        return tuple(self.image_size // 4 // 2**i for i in range(len(self.depths)))


def _official(
    name: str, architecture: DFvTArchitecture, published: Published, measured: Measured, file: str
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="dfvt",
        architecture=architecture,
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=published,
        measured=measured,
        checkpoint=Checkpoint(
            url=f"https://github.com/ginobilinie/DFvT/releases/download/Classification/{file}"
        ),
        code_licence="none stated",
        weights_licence="not stated",
    )


_TINY = DFvTArchitecture(
    image_size=224, embed_dim=48, depths=(1, 1, 2, 1), heads=(3, 6, 12, 24), mlp_ratio=4
)
_SMALL = DFvTArchitecture(
    image_size=224, embed_dim=96, depths=(1, 1, 2, 1), heads=(3, 6, 12, 24), mlp_ratio=2
)
_BASE = DFvTArchitecture(
    image_size=224, embed_dim=128, depths=(2, 2, 6, 2), heads=(4, 8, 16, 32), mlp_ratio=2
)
# Three stages with attention at the sides 8, 4 and 4: the second block has shifted windows, the
# others one window.
_DEMO = DFvTArchitecture(
    image_size=64, embed_dim=32, depths=(2, 1, 2), heads=(2, 4, 8), mlp_ratio=2, window_size=4
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _official(
            "dfvt_tiny",
            _TINY,
            Published(top1=72.95, top5=None, params_m=4.0, flops_g=0.3),
            Measured(params=3_967_627, macs=306_050_784),
            "DFvT_T_7295.pth",
        ),
        _official(
            "dfvt_small",
            _SMALL,
            Published(top1=78.29, top5=None, params_m=11.2, flops_g=0.8),
            Measured(params=11_225_485, macs=940_912_896),
            "DFvT_S_7829.pth",
        ),
        _official(
            "dfvt_base",
            _BASE,
            Published(top1=81.98, top5=None, params_m=37.3, flops_g=2.5),
            Measured(params=37_331_136, macs=2_707_269_120),
            "DFvT_B_8198.pth",
        ),
        ModelSpec(
            name="dfvt_demo",
            family="dfvt",
            architecture=_DEMO,
            num_classes=10,
            preprocessing=Preprocessing(
                image_size=(64, 64),
                crop_pct=1.0,
                interpolation="bilinear",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            published=None,
            measured=Measured(params=416_114, macs=10_080_256),
            checkpoint=Checkpoint(packaged="dfvt_demo.safetensors"),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
        ),
    )
}
