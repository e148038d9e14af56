"""Real images that are hard: the solar cells of the package elpv-dataset as image folders.

Electroluminescence images of 2624 cells of 44 modules, functional or with defects. Deitsch et al.,
"Automatic classification of defective photovoltaic module cells in electroluminescence images",
Solar Energy 185, 2019.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file, new_folder
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.sampling import order_stratified

ELPV_LICENCE = "CC-BY-NC-SA-4.0"
ELPV_CLASSES = ClassNames(
    ("functional_mono", "functional_poly", "defective_mono", "defective_poly")
)
ELPV_SPLITS = {"train": 1000, "calibration": 256, "search": 500, "test": 573}
ELPV_NOTICE = (
    f"Solar cells: elpv-dataset, {ELPV_LICENCE} (no commercial use; share alike). Neither the "
    "images nor weights trained on them are part of hvt-deploy."
)
_VERSION = "1.0.0.post1"
# Of labels.csv and the images that it names, one after the other.
_SHA256 = "78ce8c6eb2b8fb03e9d864c92380dde91c030f2a7ee99f72186a42e27ad20ad0"
# Of a defect, as the experts' answers were summed up: neither functional nor defective.
_UNDECIDED = "0.3333333333333333"
_SEED = 20240229


@dataclass(frozen=True)
class ElpvFolders:
    """Four image folders without a common image, each with the folders of `ELPV_CLASSES`."""

    train: Path
    """1000 images."""
    calibration: Path
    """256 images."""
    search: Path
    """500 images to search a recipe on and to confirm it on."""
    test: Path
    """573 images, on which nothing is chosen."""


@dataclass(frozen=True)
class _Cell:
    image: Path
    """The file."""
    label: int
    """The number of its class."""


def identify_elpv() -> list[object]:
    """What decides which images the splits have: the data's sha256, the splits and their seed."""
    return [_SHA256, ELPV_SPLITS, _SEED]


def write_elpv(folder: Path) -> ElpvFolders:
    """Copy the images of the installed package under `folder`, with their licence.

    The split is fixed and stratified by class; cells whose defect probability is 0.33 are left
    out, those of 0.67 are defective. `folder` is created atomically; if it is already complete,
    nothing is written. Raises MissingEnvironment without the package, BadInput where that is not
    the known version or damaged, or if `folder` holds anything else.
    """
    folders = ElpvFolders(*(folder / split for split in ELPV_SPLITS))
    if _is_written(folder):
        return folders
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(
            f"{folder} exists and is not the complete set of solar cells.",
            "Delete it or give another folder.",
        )
    cells = _read_cells()
    order = order_stratified(np.array([cell.label for cell in cells]), _SEED)
    ordered = [cells[int(i)] for i in order]
    with new_folder(folder) as temporary:
        start = 0
        for split, size in ELPV_SPLITS.items():
            for name in ELPV_CLASSES.names:
                (temporary / split / name).mkdir(parents=True)
            for cell in ordered[start : start + size]:
                target = temporary / split / ELPV_CLASSES.names[cell.label] / cell.image.name
                shutil.copyfile(cell.image, target)
            start += size
        (temporary / "LICENCE.txt").write_text(ELPV_NOTICE + "\n", encoding="utf-8")
    return folders


def _is_written(folder: Path) -> bool:
    return all(
        len(list((folder / split).glob("*/*.png"))) == size for split, size in ELPV_SPLITS.items()
    )


def _read_cells() -> list[_Cell]:
    """The cells that are functional, or probably or surely defective, in the package's order."""
    folder = _find_data()
    rows = [line.split() for line in (folder / "labels.csv").read_text("ascii").splitlines()]
    return [
        _Cell(
            folder / file,
            ELPV_CLASSES.names.index(
                f"{'functional' if float(probability) == 0 else 'defective'}_{module}"
            ),
        )
        for file, probability, module in rows
        if probability != _UNDECIDED
    ]


def _find_data() -> Path:
    """The package's folder of data, after a check of its content; the package is not imported."""
    require("elpv_dataset", extra="elpv")
    found = importlib.util.find_spec("elpv_dataset")
    folder = Path((found and found.origin) or "").parent / "data"
    labels = folder / "labels.csv"
    version = importlib.metadata.version("elpv-dataset")
    hint = f"Install it again: pip uninstall -y elpv-dataset; pip install elpv-dataset=={_VERSION}"
    named = labels.read_text("ascii", "replace").splitlines() if labels.is_file() else []
    files = [labels, *(folder / line.split()[0] for line in named if line.strip())]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise BadInput(
            f"elpv-dataset {version} lacks {len(missing)} of its files, the first is {missing[0]}.",
            hint,
        )
    sha256 = hash_file(*files)
    if sha256 != _SHA256:
        raise BadInput(
            f"The images and labels of elpv-dataset {version} in {folder} are not those of "
            f"{_VERSION}: their sha256 is {sha256}, expected is {_SHA256}.",
            hint,
        )
    return folder
