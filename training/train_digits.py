"""Train a demo model on scikit-learn's handwritten digits: the checkpoint that `hvt-deploy demo`
deploys.

    python training/train_digits.py --model fdvit_demo

Seeded, a few minutes on two cores. Trains on the `train` split alone and looks at `validation`
once, at the end. Writes hvt_deploy/data/assets/<model>.safetensors and, beside this script, what
was measured.
"""

# ruff: noqa: T201 - a script that tells how far it is

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hvt_deploy.core.files import hash_file
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.folders import open_image_folder
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.models import create_model, get_spec
from hvt_deploy.models.weights.load import save_reference

MODELS = ("fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo")
HERE = Path(__file__).parent
DATA = HERE.parent / "hvt_deploy" / "data" / "assets"
BATCH = 50
PEAK_RATE = 1.5e-3
WARM_UP = 0.1
# Weight of FDViT's auto-encoder loss in the published recipe.
RECONSTRUCTION_RATIO = 0.03


def load_split(folder: Path, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """All images (N, 3, H, W) of a split, preprocessed as at inference, and their labels (N)."""
    samples = open_image_folder(folder, None, 10).samples
    (batch,) = load_batches(samples, preprocessing, len(samples), threads=2)
    return torch.from_numpy(batch.images_NCHW), torch.from_numpy(batch.labels_N)


def augment(images_NCHW: Tensor) -> Tensor:
    """A small random rotation, scale, shear and shift of each image, and noise: no digit becomes
    another one.
    """
    n = len(images_NCHW)
    angle, shear_x, shear_y = (0.2 * (2 * torch.rand(n) - 1) for _ in range(3))
    scale = 1 + 0.15 * (2 * torch.rand(n) - 1)
    shift_N2 = 0.2 * (2 * torch.rand(n, 2) - 1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows_N2x2 = torch.stack(
        (torch.stack((cos, shear_x - sin), 1), torch.stack((sin + shear_y, cos), 1)), 1
    )
    grid = F.affine_grid(
        torch.cat((rows_N2x2, shift_N2[:, :, None]), 2),
        list(images_NCHW.shape),
        align_corners=False,
    )
    moved = F.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)
    return (moved + 0.05 * torch.randn_like(moved)).clamp(-1, 1)


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to zero; `progress` runs from 0 to 1."""
    if progress < WARM_UP:
        return PEAK_RATE * progress / WARM_UP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def loss_of(
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
        F.cross_entropy(logits_NK, labels_N, label_smoothing=0.1) + RECONSTRUCTION_RATIO * rebuilt
    )


def train(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, epochs: int) -> None:
    """Minimise `loss_of` over the images (N, 3, H, W) by AdamW."""
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.05
    )
    batches = len(labels_N) // BATCH
    started = time.monotonic()
    for epoch in range(epochs):
        total = 0.0
        for step, chosen in enumerate(
            torch.randperm(len(labels_N))[: batches * BATCH].split(BATCH)
        ):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch + step / batches) / epochs)
            loss = loss_of(model(augment(images_NCHW[chosen])), labels_N[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total / batches:.3f}, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    model.eval()


def main() -> None:
    """Train, measure once, write the checkpoint and the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint", type=Path, help="where to write it, if not into the package"
    )
    parser.add_argument("--record", type=Path, help="where to write it, if not beside this script")
    options = parser.parse_args()
    checkpoint = options.checkpoint or DATA / f"{options.model}.safetensors"
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    preprocessing = get_spec(options.model).preprocessing
    with tempfile.TemporaryDirectory() as folder:
        digits = write_digits(Path(folder) / "digits")
        images_NCHW, labels_N = load_split(digits.train, preprocessing)
        validation_NCHW, truth_N = load_split(digits.validation, preprocessing)
    model = create_model(options.model)
    train(model, images_NCHW, labels_N, options.epochs)
    with torch.inference_mode():
        correct = int((model(validation_NCHW).argmax(1) == truth_N).sum())
    save_reference(model, checkpoint)
    accuracy = wilson_interval(correct, len(truth_N))
    record = {
        "model": options.model,
        "top1_percent": round(accuracy.estimate, 2),
        "wilson_95_percent": [round(accuracy.low, 2), round(accuracy.high, 2)],
        "correct": correct,
        "validation_images": len(truth_N),
        "train_images": len(labels_N),
        "epochs": options.epochs,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started),
        "threads": 2,
        "torch": torch.__version__,
        "sha256": hash_file(checkpoint),
    }
    text = json.dumps(record, indent=1)
    (options.record or HERE / f"{options.model}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
