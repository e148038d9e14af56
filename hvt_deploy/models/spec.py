"""What is known of a model before it is built: the shape of this shelf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.types import Preprocessing


@dataclass(frozen=True)
class Published:
    """Figures of the paper's table. `top1`/`top5` in percent, parameters in millions, FLOPs in 1e9
    (MACs).
    """

    top1: float | None
    top5: float | None
    params_m: float
    flops_g: float


@dataclass(frozen=True)
class Measured:
    """What a model has at inference: parameters without train-only branches, and
    multiply-accumulates of one image.

    `macs` counts convolutions, Linears and attention products of the reference form, as papers do.
    Exact rewrites of the deployed form (padded heads, resampling as a matrix) may add a few
    percent.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Checkpoint:
    """Where the official weights are published. `packaged` names a file in hvt_deploy/data/assets
    instead.
    """

    url: str | None = None
    packaged: str | None = None
    how: Literal["direct", "google-drive"] = "direct"


@dataclass(frozen=True)
class ModelSpec:
    """One model. `architecture` is the family's own frozen dataclass of hyper-parameters.

    `measured` is None where nobody has measured it: timm's models, other sizes, a user's own
    configuration. A `resizable` model takes other image sizes; `options` are those it was made
    with. `heads` are the paths of its classifiers: distilled models have two.
    """

    name: str
    family: str
    architecture: object
    num_classes: int
    preprocessing: Preprocessing
    published: Published | None
    measured: Measured | None
    checkpoint: Checkpoint
    code_licence: str
    weights_licence: str
    resizable: bool = False
    options: ModelOptions = DEFAULT_OPTIONS
    heads: tuple[str, ...] = ("head",)

    @property
    def head(self) -> str:
        """The path of the classifier that labels taught."""
        return self.heads[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Input (height, width) in pixels."""
        return self.preprocessing.image_size

    @property
    def slug(self) -> str:
        """The name of its folder in a workspace."""
        plain = self.name.replace(":", "-").replace("/", "-")
        return f"{plain}-{self.image_size[0]}x{self.image_size[1]}" if self.resizable else plain
