"""The specification of a model: all that is known before it is built. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.elpv import ELPV_CLASSES, ELPV_LICENCE
from hvt_deploy.models.training_recipe import ELPV_RECIPES, TrainingRecipe


@dataclass(frozen=True)
class Published:
    """A line of a paper's table: it holds at the spec's own image size and preprocessing only.

    Attributes:
        top1: Accuracy in percent; None where the paper states none.
        top5: Likewise.
        params_m: Parameters in millions.
        flops_g: FLOPs as in the papers: multiply-accumulates of one image, in 1e9.
        flops_note: How they differ from the MACs of the whole model; "" where they agree.
    """

    top1: float | None
    top5: float | None
    params_m: float
    flops_g: float
    flops_note: str = ""


@dataclass(frozen=True)
class ModelCost:
    """The size of a model at inference, counted on the reference form.

    Exact rewrites of the deployed form (padded heads, resampling as a matrix) may add a few
    percent.

    Attributes:
        params: Parameters without train-only branches.
        macs: Multiply-accumulates of one image in convolutions, Linears and attention products, as
            papers count them.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Checkpoint:
    """Where the trained weights are.

    Attributes:
        url: Where the authors published them; None where they did not.
        packaged: A file in hvt_deploy/data/assets that holds them instead.
        trained: How `demo` trains them into the cache, where nobody may publish them.
        how: Whether `url` answers with the file or with a page of Google Drive.
        own_file: A file that is network and weights in one.
        with_code: Whether the network has its weights as soon as it is made.
    """

    url: str | None = None
    packaged: str | None = None
    trained: TrainingRecipe | None = None
    how: Literal["direct", "google-drive"] = "direct"
    with_code: bool = False
    own_file: Path | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Attributes:
        name: By which `create_model` finds it.
        family: The folder in `models/` with its code.
        architecture: The family's own frozen dataclass of hyper-parameters.
        num_classes: Of the published classifier.
        preprocessing: Of the published evaluation; its image size is the model's input.
        published: The paper's figures; None for models outside the papers, and for those that have
            no line of their own: any-resolution models.
        measured: Its size; None for timm's models, other image sizes and own configurations.
        checkpoint: Where the trained weights are.
        code_licence: Of the official code.
        weights_licence: Of the official weights; "not stated" where nothing is.
        resizable: Whether it takes other image sizes.
        options: With which it was made.
        heads: Module paths of its classifiers, the one that labels taught first: distilled models
            have two; empty where it is not known.
        opset: That it is exported with unless another is asked for.
        batch: A fixed batch size that it has; None means any.
    """

    name: str
    family: str
    architecture: object
    num_classes: int
    preprocessing: Preprocessing
    published: Published | None
    measured: ModelCost | None
    checkpoint: Checkpoint
    code_licence: str
    weights_licence: str
    resizable: bool = False
    options: ModelOptions = DEFAULT_OPTIONS
    heads: tuple[str, ...] = ("head",)
    opset: int = 17
    batch: int | None = None

    @property
    def is_demo(self) -> bool:
        """Whether it is a small model of no paper, which `demo` runs."""
        return bool(self.checkpoint.packaged or self.checkpoint.trained)

    @property
    def image_size(self) -> tuple[int, int]:
        """Input (height, width) in pixels."""
        return self.preprocessing.image_size

    @property
    def slug(self) -> str:
        """The name of its folder in a workspace."""
        plain = self.name.replace(":", "-").replace("/", "-")
        if self.checkpoint.own_file is not None:
            plain = self.checkpoint.own_file.stem
        return f"{plain}-{self.image_size[0]}x{self.image_size[1]}" if self.resizable else plain


def demo_spec(family: str, architecture: object, side: int, cost: ModelCost) -> ModelSpec:
    """A family's demo model: ten digits, images of `side` x `side` pixels, packaged weights."""
    return ModelSpec(
        name=f"{family}_demo",
        family=family,
        architecture=architecture,
        num_classes=10,
        preprocessing=_whole_image(side),
        published=None,
        measured=cost,
        checkpoint=Checkpoint(packaged=f"{family}_demo.safetensors"),
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
    )


def elpv_spec(family: str, architecture: object, side: int, cost: ModelCost) -> ModelSpec:
    """A family's model of four classes of solar cells: `demo --data elpv` trains it."""
    return ModelSpec(
        name=f"{family}_elpv",
        family=family,
        architecture=architecture,
        num_classes=len(ELPV_CLASSES),
        preprocessing=_whole_image(side),
        published=None,
        measured=cost,
        checkpoint=Checkpoint(trained=ELPV_RECIPES[family]),
        code_licence="Apache-2.0",
        weights_licence=ELPV_LICENCE,
    )


def _whole_image(side: int) -> Preprocessing:
    return Preprocessing(
        image_size=(side, side),
        crop_pct=1.0,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
