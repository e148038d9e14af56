"""Calibration sets: the images that INT8 ranges are measured on, chosen by seed and hashed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes, reading
from hvt_deploy.core.records import parse_json, read_content
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.data.cifar import is_cifar100, unpack_cifar100
from hvt_deploy.data.folders import NO_LABEL, Sample, find_images, find_top_folder
from hvt_deploy.data.sampling import draw_stratified, hash_contents

Use = Literal["calibration", "search", "confirm"]


@dataclass(frozen=True)
class CalibrationFile:
    """One image file of the set."""

    file: str
    """Its path, relative to the set's folder."""
    sha256: str
    """The hash of its content."""
    size_bytes: int
    """The size of the file."""
    class_name: str
    """The name of its class folder; "" in a flat folder."""
    use: Use = "calibration"
    """`calibration`: for ranges. `search`: to search a recipe. `confirm`: to measure the recipe."""


@dataclass(frozen=True)
class CalibrationSet:
    """The calibration manifest. The classes need not be the model's: calibration uses no labels."""

    folder: str
    """The absolute path of the folder."""
    seed: int
    """The seed that the files were drawn with."""
    files: tuple[CalibrationFile, ...]
    """The files that were drawn."""

    def samples(self) -> tuple[Sample, ...]:
        """The files to load, without labels."""
        return tuple(
            Sample(Path(self.folder) / f.file, NO_LABEL)
            for f in self.files
            if f.use == "calibration"
        )

    @property
    def content_key(self) -> str:
        """A sha256 over the content of all files, independent of their names and order."""
        return hash_bytes("\n".join(sorted(f.sha256 for f in self.files)).encode())

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_text(json.dumps(to_plain(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> CalibrationSet:
        """Read a manifest; raises BadInput if it is missing or invalid."""
        try:
            data = parse_json(read_content(path))
        except FileNotFoundError:
            raise BadInput(
                f"No calibration manifest at {path}.", "Make it: hvt-deploy quantize --calib DIR"
            ) from None
        except ValueError as error:
            raise BadInput(f"{path} is not a calibration manifest: {error}.") from None
        return from_plain(CalibrationSet, data, str(path))


def choose_calibration(
    folder: Path,
    images: int,
    seed: int,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationSet:
    """Draw `images` files by `seed`, as evenly as possible from all class folders, and hash them.

    A flat folder is one class. If the folder has fewer images, all are taken. Of a folder in the
    `cifar-100-python` format the training images are taken. Raises BadInput for a missing or empty
    folder, a file that cannot be read or fewer than 1 image.
    """
    if images < 1:
        raise BadInput(
            f"{images} calibration images are too few.", "Give 1 or more; 512 is the default."
        )
    advice = (
        "Give a folder of images like those the model will see, but not the validation images: "
        "--calib DIR"
    )
    with reading(folder):
        is_folder = folder.is_dir()
    if not is_folder:
        raise BadInput(
            f"There is no calibration folder {folder}; INT8 ranges are measured on real images.",
            advice,
        )
    if is_cifar100(folder):
        folder = unpack_cifar100(folder, "train").folder
    files = find_images(folder)
    if not files:
        raise BadInput(f"The calibration folder {folder} holds no images.", advice)
    chosen = [
        files[i] for i in draw_stratified([(find_top_folder(f), f, f) for f in files], images, seed)
    ]
    paths = [folder / file for file in chosen]
    hashes = hash_contents(paths, threads, progress)
    return CalibrationSet(
        str(folder.absolute()),
        seed,
        tuple(
            CalibrationFile(file, sha256, path.stat().st_size, find_top_folder(file))
            for file, path, sha256 in zip(chosen, paths, hashes, strict=True)
        ),
    )


def hash_samples(
    samples: Sequence[Sample], use: Use, threads: int = 4
) -> tuple[CalibrationFile, ...]:
    """The entries of a calibration manifest for labelled images.

    Raises BadInput for a file that cannot be read.
    """
    hashes = hash_contents([sample.path for sample in samples], threads)
    return tuple(
        CalibrationFile(
            str(s.path.absolute()), sha256, s.path.stat().st_size, s.path.parent.name, use
        )
        for s, sha256 in zip(samples, hashes, strict=True)
    )


def find_overlap(
    calibration: CalibrationSet,
    samples: Sequence[Sample],
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """The files among `samples` with the content of a calibration image, whatever their names.

    Only files of the same size as a calibration image are read; missing files are ignored.
    """
    sizes = {f.size_bytes for f in calibration.files}
    suspects = [sample.path for sample in samples if _size(sample.path) in sizes]
    calibrated = {f.sha256 for f in calibration.files}
    hashes = hash_contents(suspects, threads, progress)
    return [path for path, sha256 in zip(suspects, hashes, strict=True) if sha256 in calibrated]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
