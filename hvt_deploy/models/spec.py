"""What is known of a model before it is built: the shape of this shelf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.types import Preprocessing

if TYPE_CHECKING:
    from torch import nn


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


@dataclass(frozen=True)
class Family:
    """The code behind the specs of one paper: `build(spec, num_classes)` makes the reference form
    with random weights, `deploy(reference)` the deployed form.

    Checkpoint keys with one of `train_only_prefixes` have no use at inference; buffers with one of
    `recomputed_suffixes` are computed by the model even where a file holds them. Both are dropped
    on loading. `aliases` are pairs of key endings (alias, canonical): a file that holds both means
    the alias. `size_dependent` are parts of keys that a resizable model has at some image sizes
    only: a file may hold more of them than the model has. `builds_light` says that `build` works
    where parameters have no memory. `stored_shapes` gives the shapes that some of the computed
    buffers have in the official file: they tell models apart whose parameters are alike.
    """

    build: Callable[[ModelSpec, int], nn.Module]
    deploy: Callable[[nn.Module], nn.Module]
    train_only_prefixes: tuple[str, ...] = ()
    recomputed_suffixes: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    size_dependent: tuple[str, ...] = ()
    builds_light: bool = True
    stored_shapes: Callable[[ModelSpec], Mapping[str, tuple[int, ...]]] | None = None
