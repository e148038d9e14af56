"""HVT: hyper-parameters of the paper's models, of the small one of the demo, and of a user's own
configuration file.

Pan et al., "Scalable Vision Transformers with Hierarchical Pooling", ICCV 2021.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import HVTConfiguration, ModelOptions
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, Measured, ModelSpec, Published

# The official code pools by two whatever its configuration says.
POOL_STRIDE = 2
HEAD_DIM = 64


@dataclass(frozen=True)
class HVTArchitecture:
    """Hyper-parameters of HVT (paper section 3). Sizes in pixels, pooling in tokens.

    Tokens are pooled at the end of every block whose index is a multiple of `pool_every`, never
    where that is None.
    """

    image_size: int
    patch_size: int
    heads: int
    blocks: int
    pool_every: int | None
    pool_kernel: int = 3
    head_dim: int = HEAD_DIM
    mlp_ratio: int = 4

    @property
    def channels(self) -> int:
        """Heads times head dimension."""
        return self.heads * self.head_dim

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens that each block takes, and the last one those that leave the last block."""
        counts = [(self.image_size // self.patch_size) ** 2]
        for block in range(self.blocks):
            pooled = self.pool_every is not None and block % self.pool_every == 0
            counts.append(
                (counts[-1] - self.pool_kernel) // POOL_STRIDE + 1 if pooled else counts[-1]
            )
        return tuple(counts)


def spec_of(configuration: HVTConfiguration) -> ModelSpec:
    """The spec of an HVT that has no name. Raises BadInput for values that make no model, with the
    rule.
    """
    c = configuration
    if (
        min(
            c.input_size,
            c.patch_size,
            c.num_heads,
            c.num_blocks,
            c.pool_kernel_size,
            c.pool_block_width,
        )
        < 1
    ):
        raise BadInput(
            "An HVT configuration has a value below 1.",
            "Every size and number in it must be positive.",
        )
    if c.pool_stride != POOL_STRIDE:
        raise BadInput(
            f"pool_stride is {c.pool_stride}; the official code pools by 2 whatever the file says.",
            "Write 2: a checkpoint trained with this file was trained with 2.",
        )
    if c.input_size % c.patch_size:
        below = c.input_size // c.patch_size * c.patch_size
        raise BadInput(
            f"input_size {c.input_size} is not a multiple of patch_size {c.patch_size}.",
            f"The nearest that are: {' and '.join(str(s) for s in (below, below + c.patch_size) if s)}.",
        )
    architecture = HVTArchitecture(
        c.input_size,
        c.patch_size,
        c.num_heads,
        c.num_blocks,
        c.pool_block_width,
        c.pool_kernel_size,
    )
    if min(architecture.token_counts) < 1:
        raise BadInput(
            f"Pooling every {c.pool_block_width} of {c.num_blocks} blocks leaves no token.",
            "Raise pool_block_width, or input_size.",
        )
    return ModelSpec(
        name="hvt", family="hvt", architecture=architecture, num_classes=1000,
        preprocessing=Preprocessing(image_size=(c.input_size, c.input_size), crop_pct=0.875),
        published=None, measured=None, checkpoint=Checkpoint(), code_licence="Apache-2.0", weights_licence="not stated",
        options=ModelOptions(hvt=c),
    )  # fmt: skip


def read_configuration(path: Path) -> HVTConfiguration:
    """An HVT's own configuration file: JSON with the official key names. Raises BadInput for
    anything else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"There is no configuration file {path}.", "Give an HVT's JSON file."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not JSON: {error}.", "Give an HVT's JSON file.") from None
    return from_plain(HVTConfiguration, data, str(path))


def _official(
    name: str,
    heads: int,
    pool_every: int | None,
    published: Published,
    measured: Measured,
    url: str | None,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="hvt",
        architecture=HVTArchitecture(
            image_size=224, patch_size=16, heads=heads, blocks=12, pool_every=pool_every
        ),
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=published,
        measured=measured,
        checkpoint=Checkpoint(url=url),
        code_licence="Apache-2.0",
        weights_licence="not stated",
    )


SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _official(
            "hvt_ti_1",
            3,
            12,
            Published(top1=69.64, top5=89.4, params_m=5.74, flops_g=0.64),
            Measured(params=5_735_656, macs=642_299_520),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/hvt_ti_1.pth",
        ),
        _official(
            "scale_hvt_ti_4",
            6,
            3,
            Published(top1=75.23, top5=92.3, params_m=22.12, flops_g=1.39),
            Measured(params=22_118_632, macs=1_393_640_448),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/scale_hvt_ti_4.pth",
        ),
        _official(
            "hvt_s_0",
            6,
            None,
            Published(top1=80.39, top5=95.13, params_m=22.05, flops_g=4.57),
            Measured(params=22_049_896, macs=4_574_026_752),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/hvt_s_0.pth",
        ),
        _official(
            "hvt_s_1",
            6,
            12,
            Published(top1=78.0, top5=93.83, params_m=22.09, flops_g=2.4),
            Measured(params=22_087_144, macs=2_402_020_608),
            "https://github.com/zhuang-group/HVT/releases/download/v1.1/hvt_s_1.pth",
        ),
        _official(
            "hvt_s_2",
            6,
            6,
            Published(top1=77.36, top5=93.55, params_m=22.11, flops_g=1.94),
            Measured(params=22_105_576, macs=1_941_216_768),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/hvt_s_2.pth",
        ),
        _official(
            "hvt_s_3",
            6,
            4,
            Published(top1=76.32, top5=92.9, params_m=22.11, flops_g=1.62),
            Measured(params=22_114_408, macs=1_620_095_232),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/hvt_s_3.pth",
        ),
        _official(
            "hvt_s_4",
            6,
            3,
            Published(top1=75.23, top5=92.3, params_m=22.12, flops_g=1.39),
            Measured(params=22_118_632, macs=1_393_640_448),
            "https://github.com/zhuang-group/HVT/releases/download/v1.0/scale_hvt_ti_4.pth",
        ),
        ModelSpec(
            name="hvt_demo",
            family="hvt",
            architecture=HVTArchitecture(
                image_size=32,
                patch_size=4,
                heads=3,
                blocks=6,
                pool_every=3,
                head_dim=32,
                mlp_ratio=4,
            ),
            num_classes=10,
            preprocessing=Preprocessing(
                image_size=(32, 32),
                crop_pct=1.0,
                interpolation="bilinear",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            published=None,
            measured=Measured(params=687_466, macs=22_402_944),
            checkpoint=Checkpoint(packaged="hvt_demo.safetensors"),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
        ),
    )
}
