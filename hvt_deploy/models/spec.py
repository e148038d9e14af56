"""What is known of a model before it is built: the shape of this shelf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.images import Preprocessing


@dataclass(frozen=True)
class Published:
    """Figures of the paper's table. `top1`/`top5` in percent, parameters in millions, FLOPs in 1e9 (MACs)."""

    top1: float | None
    top5: float | None
    params_m: float
    flops_g: float


@dataclass(frozen=True)
class Measured:
    """What the deployed form has: parameters, and multiply-accumulates for one image with attention matmuls."""

    params: int
    macs: int


@dataclass(frozen=True)
class Checkpoint:
    """Where the official weights are published. `packaged` names a file in hvt_deploy/data instead."""

    url: str | None = None
    packaged: str | None = None
    how: Literal["direct", "google-drive"] = "direct"


@dataclass(frozen=True)
class ModelSpec:
    """One named model. `architecture` is the family's own frozen dataclass of hyper-parameters."""

    name: str
    family: str
    architecture: object
    num_classes: int
    preprocessing: Preprocessing
    published: Published | None
    measured: Measured
    checkpoint: Checkpoint
    code_licence: str
    weights_licence: str

    @property
    def image_size(self) -> tuple[int, int]:
        """Input (height, width) in pixels."""
        return self.preprocessing.image_size
