"""HVT: hyper-parameters of the paper's models, the demo model and users' configuration files.

Pan et al., "Scalable Vision Transformers with Hierarchical Pooling", ICCV 2021.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import HVTConfiguration, ModelOptions
from hvt_deploy.core.records import parse_json, read_content
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, ModelCost, ModelSpec, Published, demo_spec, elpv_spec

# The official code pools by two whatever its configuration says.
POOL_STRIDE = 2
HEAD_DIM = 64


@dataclass(frozen=True)
class HVTArchitecture:
    """Hyper-parameters of HVT (paper section 3)."""

    image_size: int
    """Side of the square image, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    heads: int
    """Attention heads of each block."""
    blocks: int
    """Number of blocks."""
    pool_every: int | None
    """Tokens are pooled after each block whose index is a multiple of it; None: never."""
    pool_kernel: int = 3
    """Tokens under the pooling kernel."""
    head_dim: int = HEAD_DIM
    """Channels of one attention head."""
    mlp_ratio: int = 4
    """Hidden channels of an MLP over its channels."""

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


def spec_of_configuration(configuration: HVTConfiguration) -> ModelSpec:
    """The spec of an HVT that has no name. Raises BadInput for values that make no model."""
    c = configuration
    _check_configuration(c)
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
        name="hvt",
        family="hvt",
        architecture=architecture,
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(c.input_size, c.input_size), crop_pct=0.875),
        published=None,
        measured=None,
        checkpoint=Checkpoint(),
        code_licence="Apache-2.0",
        weights_licence="not stated",
        options=ModelOptions(hvt=c),
    )


def _check_configuration(c: HVTConfiguration) -> None:
    if min(asdict(c).values()) < 1:
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
        nearest = " and ".join(str(size) for size in (below, below + c.patch_size) if size)
        raise BadInput(
            f"input_size {c.input_size} is not a multiple of patch_size {c.patch_size}.",
            f"The nearest that are: {nearest}.",
        )


def read_configuration(path: Path) -> HVTConfiguration:
    """Read an HVT's configuration file: JSON with the official keys. Raises BadInput otherwise."""
    advice = "Give an HVT's JSON file."
    try:
        data = parse_json(read_content(path))
    except FileNotFoundError:
        raise BadInput(f"There is no configuration file {path}.", advice) from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", advice) from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.", advice) from None
    return from_plain(HVTConfiguration, data, str(path))


_DEMO = HVTArchitecture(image_size=32, patch_size=4, heads=3, blocks=6, pool_every=3, head_dim=32)
_ELPV = replace(_DEMO, image_size=96, patch_size=12)
_RELEASES = "https://github.com/zhuang-group/HVT/releases/download"
# Heads, blocks from one pooling to the next; published top-1, top-5 (%), parameters (millions) and
# MACs (1e9); counted parameters and MACs; the file among the releases.
_ROWS = {
    "hvt_ti_1": (3, 12, 69.64, 89.4, 5.74, 0.64, 5_735_656, 642_299_520, "v1.0/hvt_ti_1"),
    "scale_hvt_ti_4": (
        6, 3, 75.23, 92.3, 22.12, 1.39, 22_118_632, 1_393_640_448, "v1.0/scale_hvt_ti_4",
    ),
    "hvt_s_0": (6, None, 80.39, 95.13, 22.05, 4.57, 22_049_896, 4_574_026_752, "v1.0/hvt_s_0"),
    "hvt_s_1": (6, 12, 78.0, 93.83, 22.09, 2.4, 22_087_144, 2_402_020_608, "v1.1/hvt_s_1"),
    "hvt_s_2": (6, 6, 77.36, 93.55, 22.11, 1.94, 22_105_576, 1_941_216_768, "v1.0/hvt_s_2"),
    "hvt_s_3": (6, 4, 76.32, 92.9, 22.11, 1.62, 22_114_408, 1_620_095_232, "v1.0/hvt_s_3"),
    "hvt_s_4": (6, 3, 75.23, 92.3, 22.12, 1.39, 22_118_632, 1_393_640_448, "v1.0/scale_hvt_ti_4"),
}  # fmt: skip


def _official(name: str) -> ModelSpec:
    heads, pool_every, top1, top5, params_m, flops_g, params, macs, file = _ROWS[name]
    return ModelSpec(
        name=name,
        family="hvt",
        architecture=HVTArchitecture(224, 16, heads, blocks=12, pool_every=pool_every),
        num_classes=1000,
        preprocessing=Preprocessing(image_size=(224, 224), crop_pct=0.875),
        published=Published(top1, top5, params_m, flops_g),
        measured=ModelCost(params, macs),
        checkpoint=Checkpoint(url=f"{_RELEASES}/{file}.pth"),
        code_licence="Apache-2.0",
        weights_licence="not stated",
    )


HVT_SPECS: dict[str, ModelSpec] = {
    **{name: _official(name) for name in _ROWS},
    "hvt_demo": demo_spec("hvt", _DEMO, _DEMO.image_size, ModelCost(687_466, 22_402_944)),
    "hvt_elpv": elpv_spec("hvt", _ELPV, _ELPV.image_size, ModelCost(723_748, 24_761_664)),
}
