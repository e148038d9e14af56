"""DFvT: hyper-parameters of the paper's three models and of the small one that the demo runs.

Gao et al., "Doubly-Fused ViT: Fuse Information from Vision Transformer Doubly with Local
Representation", ECCV 2022.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, ModelCost, ModelSpec, Published, demo_spec, elpv_spec


@dataclass(frozen=True)
class DFvTArchitecture:
    """Hyper-parameters of DFvT; tuples have one entry per stage.

    The map of the first stage has a quarter of the image's side, that of each further stage half
    the side of the one before. Attention runs on a map of the next stage's side.
    """

    image_size: int
    """Side of the square image, pixels."""
    embed_dim: int
    """Channels of the first stage; each further stage has twice as many."""
    depths: tuple[int, ...]
    """Blocks of each stage."""
    heads: tuple[int, ...]
    """Attention heads of each stage."""
    mlp_ratio: int
    """Hidden channels of an MLP over its channels."""
    window_size: int = 7
    """Side of a square attention window, tokens."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each stage's square input map."""
        return tuple(self.image_size // 4 // 2**i for i in range(len(self.depths)))


_SMALL_DEPTHS, _SMALL_HEADS = (1, 1, 2, 1), (3, 6, 12, 24)
_TINY = DFvTArchitecture(224, 48, _SMALL_DEPTHS, _SMALL_HEADS, mlp_ratio=4)
_SMALL = DFvTArchitecture(224, 96, _SMALL_DEPTHS, _SMALL_HEADS, mlp_ratio=2)
_BASE = DFvTArchitecture(224, 128, (2, 2, 6, 2), (4, 8, 16, 32), mlp_ratio=2)
# Three stages with attention at the sides 8, 4 and 4: the second block has shifted windows, the
# others one window.
_DEMO = DFvTArchitecture(64, 32, (2, 1, 2), (2, 4, 8), mlp_ratio=2, window_size=4)
# The same with attention at the sides 12, 6 and 6.
_ELPV = replace(_DEMO, image_size=96, window_size=6)
_FLOPS_NOTE = "by a formula in the official code, not counted"
# Published top-1 (%), parameters (millions) and MACs (1e9); counted parameters and MACs; the file.
_ROWS = {
    "dfvt_tiny": (_TINY, 72.95, 4.0, 0.3, 3_967_627, 306_050_784, "DFvT_T_7295.pth"),
    "dfvt_small": (_SMALL, 78.29, 11.2, 0.8, 11_225_485, 940_912_896, "DFvT_S_7829.pth"),
    "dfvt_base": (_BASE, 81.98, 37.3, 2.5, 37_331_136, 2_707_269_120, "DFvT_B_8198.pth"),
}


def _official(name: str) -> ModelSpec:
    architecture, top1, params_m, flops_g, params, macs, file = _ROWS[name]
    return ModelSpec(
        name=name,
        family="dfvt",
        architecture=architecture,
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=Published(top1, None, params_m, flops_g, _FLOPS_NOTE),
        measured=ModelCost(params, macs),
        checkpoint=Checkpoint(
            url=f"https://github.com/ginobilinie/DFvT/releases/download/Classification/{file}"
        ),
        code_licence="none stated",
        weights_licence="not stated",
    )


DFVT_SPECS: dict[str, ModelSpec] = {
    **{name: _official(name) for name in _ROWS},
    "dfvt_demo": demo_spec("dfvt", _DEMO, _DEMO.image_size, ModelCost(416_114, 10_080_256)),
    "dfvt_elpv": elpv_spec("dfvt", _ELPV, _ELPV.image_size, ModelCost(417_068, 23_501_568)),
}
