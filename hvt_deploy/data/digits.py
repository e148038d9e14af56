"""Real images without a download: scikit-learn's 1797 handwritten digits as image folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import new_folder
from hvt_deploy.data.sampling import order_stratified

DIGITS_SIDE = 32
SPLIT_SIZES = {"train": 1000, "calibration": 297, "validation": 500}
_SEED = 20240229


@dataclass(frozen=True)
class DigitsFolders:
    """Three image folders without a common image, each with the class folders 0 to 9."""

    train: Path
    """1000 images."""
    calibration: Path
    """297 images."""
    validation: Path
    """500 images."""


class _Digits(Protocol):
    images: NDArray[np.float64]
    target: NDArray[np.int64]


def write_digits(folder: Path) -> DigitsFolders:
    """Write the digits under `folder` as 32x32 grey PNG files, enlarged from 8x8 by a bicubic
    filter.

    The split is fixed and stratified by class. `folder` is created atomically; if it is already
    complete, nothing is written. Raises MissingEnvironment without scikit-learn and BadInput if
    `folder` holds anything else.
    """
    folders = DigitsFolders(*(folder / split for split in SPLIT_SIZES))
    if _is_complete(folder):
        return folders
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(
            f"{folder} exists and is not the complete set of digits.",
            "Delete it or give another folder.",
        )
    require("sklearn", extra="demo")
    from sklearn.datasets import load_digits

    with new_folder(folder) as temporary:
        _write_images(cast("_Digits", load_digits()), temporary)
    return folders


def _is_complete(folder: Path) -> bool:
    return all(
        len(list((folder / split).glob("[0-9]/*.png"))) == size
        for split, size in SPLIT_SIZES.items()
    )


def _write_images(digits: _Digits, folder: Path) -> None:
    order = order_stratified(digits.target, _SEED)
    start = 0
    for split, size in SPLIT_SIZES.items():
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
        for index in order[start : start + size]:
            pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(pixels).resize(
                (DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC
            )
            image.save(folder / split / str(digits.target[index]) / f"{index:04d}.png")
        start += size
