"""Training of the demo models from scratch, for every data set: seeded, minutes on two cores."""

# PyTorch's tensors are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import Progress
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.folders import open_image_folder
from hvt_deploy.data.images import load_batches
from hvt_deploy.models.registry import create_from
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.training_recipe import Augmentation, TrainingRecipe

_WARM_UP = 0.1
# Weight of FDViT's auto-encoder loss in the published recipe.
_RECONSTRUCTION_RATIO = 0.03


@dataclass(frozen=True)
class LabelledImages:
    """A split in memory."""

    images_NCHW: Tensor  # noqa: N815
    """(N, 3, H, W), preprocessed as at inference."""
    labels_N: Tensor  # noqa: N815
    """(N,), class numbers."""


def load_split(folder: Path, preprocessing: Preprocessing, names: ClassNames) -> LabelledImages:
    """All images of a folder of class folders."""
    samples = open_image_folder(folder, names, len(names)).samples
    (batch,) = load_batches(samples, preprocessing, len(samples), threads=2)
    return LabelledImages(torch.from_numpy(batch.images_NCHW), torch.from_numpy(batch.labels_N))


def train_model(
    spec: ModelSpec,
    train: LabelledImages,
    recipe: TrainingRecipe,
    threads: int,
    progress: Progress,
) -> nn.Module:
    """A model of `spec` in eval mode, trained on the images by AdamW with a warm-up and a cosine.

    It seeds PyTorch's global generator and sets its number of threads.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = create_from(spec)
    images_NCHW, labels_N = train.images_NCHW, train.labels_N
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.05
    )
    batch_size = recipe.batch_size
    batches = len(labels_N) // batch_size
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels_N))[: batches * batch_size]
        for step, chosen in enumerate(order.split(batch_size)):
            for group in optimizer.param_groups:
                done = (epoch + step / batches) / recipe.epochs
                group["lr"] = recipe.peak_rate * _rate_share(done)
            augmented = augment(images_NCHW[chosen], recipe.augmentation)
            loss = _loss_of(model(augmented), labels_N[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress(epoch * batches + step + 1, recipe.epochs * batches)
    return model.eval()


def count_correct(model: nn.Module, held_out: LabelledImages) -> int:
    """How many images the model names right."""
    with torch.inference_mode():
        answers_N = torch.cat([model(part).argmax(1) for part in held_out.images_NCHW.split(100)])
    return int((answers_N == held_out.labels_N).sum())


def augment(images_NCHW: Tensor, by: Augmentation) -> Tensor:
    """A small random affine change of each image, flips where `by` has them, and noise."""
    n = len(images_NCHW)
    angle = by.rotation * (2 * torch.rand(n) - 1)
    shear_x, shear_y = (by.shear * (2 * torch.rand(n) - 1) for _ in range(2))
    scale = by.scale + by.scale_spread * (2 * torch.rand(n) - 1)
    shift_N2 = by.shift * (2 * torch.rand(n, 2) - 1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows_N2x2 = torch.stack(
        (torch.stack((cos, shear_x - sin), 1), torch.stack((sin + shear_y, cos), 1)), 1
    )
    if by.flips:
        rows_N2x2 = rows_N2x2 * (1 - 2 * torch.randint(2, (n, 1, 2)))
    grid = F.affine_grid(
        torch.cat((rows_N2x2, shift_N2[:, :, None]), 2),
        list(images_NCHW.shape),
        align_corners=False,
    )
    moved = F.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)
    return (moved + 0.05 * torch.randn_like(moved)).clamp(-1, 1)


def _rate_share(progress: float) -> float:
    """Linear warm-up to 1, then a cosine down to zero; `progress` runs from 0 to 1."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _loss_of(
    result: Tensor | tuple[Tensor, list[tuple[Tensor, Tensor]]], labels_N: Tensor
) -> Tensor:
    """Cross-entropy with label smoothing of logits (N, K), plus FDViT's auto-encoder loss where
    there are pairs.
    """
    if isinstance(result, Tensor):
        return F.cross_entropy(result, labels_N, label_smoothing=0.1)
    logits_NK, pairs = result
    rebuilt = torch.stack(
        [F.mse_loss(rebuilt, target.detach()) for target, rebuilt in pairs]
    ).mean()
    return (
        F.cross_entropy(logits_NK, labels_N, label_smoothing=0.1) + _RECONSTRUCTION_RATIO * rebuilt
    )
