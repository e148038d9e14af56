"""Images that benchmarks measure on without a data set: digits for the demo models, crops of
photographs for the rest.

The photographs are the two that scikit-learn carries. Calibration sees crops of their left halves,
evaluation crops of their right halves: random weights have no accuracy, but ranges and noise are
those of real pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from hvt_deploy.core.tensors import ImagesNCHW, LabelsN, LogitsNK, PixelsHWC
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.images import load_batches

_SMALLEST, _SIDE = 96, 320
_BATCH = 8


@dataclass(frozen=True)
class Pictures:
    """Two folders of class folders with no image in common.

    Attributes:
        calibration: images to calibrate on.
        evaluation: images to measure on.
        labelled: whether the folders are classes that the model was trained on.
    """

    calibration: Path
    evaluation: Path
    labelled: bool


def make_pictures(model: str, folder: Path, crops: int) -> Pictures:
    """The pictures of a model, written into `folder` at the first call; `crops` of each
    photograph's half.
    """
    if model.endswith("_demo"):
        digits = write_digits(folder / "digits")
        return Pictures(digits.calibration, digits.validation, labelled=True)
    halves = tuple(folder / "photographs" / name for name in ("left", "right"))
    for i, half in enumerate(halves):
        if not half.is_dir():
            _write_crops(half, i, crops)
    return Pictures(*halves, labelled=False)


def read_pictures(
    pictures: Pictures, preprocessing: Preprocessing, count: int, *, calibration: bool = False
) -> tuple[ImagesNCHW, LabelsN]:
    """`count` images (N, 3, H, W) of the evaluation set, or those that hvt-deploy calibrates on,
    and their folders' numbers (N,).
    """
    chosen = choose_calibration(
        pictures.calibration if calibration else pictures.evaluation, count, seed=0
    )
    batches = list(load_batches(chosen.samples(), preprocessing, _BATCH, threads=2))
    labels_N = np.array([int(file.class_name) for file in chosen.files], np.int64)
    return np.concatenate([batch.images_NCHW for batch in batches]), labels_N


def infer_in_batches(infer: Callable[[ImagesNCHW], LogitsNK], images_NCHW: ImagesNCHW) -> LogitsNK:
    """Logits (N, K) by eight images: a session keeps the memory of its largest batch."""
    return np.concatenate(
        [infer(images_NCHW[i : i + _BATCH]) for i in range(0, len(images_NCHW), _BATCH)]
    )


def _write_crops(folder: Path, half: int, crops: int) -> None:
    """Square crops of seeded place and size from one half of every photograph, in a folder for
    each.
    """
    rng = np.random.default_rng(half)
    photographs = cast("list[PixelsHWC]", load_sample_images()["images"])
    for number, pixels in enumerate(photographs):
        (folder / str(number)).mkdir(parents=True)
        height, width = len(pixels), len(pixels[0]) // 2
        for i in range(crops):
            side = int(rng.integers(_SMALLEST, min(height, width) + 1))
            top = int(rng.integers(height - side + 1))
            left = half * width + int(rng.integers(width - side + 1))
            crop = Image.fromarray(pixels[top : top + side, left : left + side])
            crop.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(
                folder / str(number) / f"{i}.png"
            )
