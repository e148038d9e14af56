"""`predict`: the classes of images and of whole folders, by an exported model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.folders import find_images
from hvt_deploy.data.images import UnreadableImage, decode
from hvt_deploy.runtime.classifier import Classifier, Label

# Whole photographs are in memory at once: some 40 MB each.
AT_A_TIME = 16


@dataclass(frozen=True)
class PredictedImage:
    """One image file with its predicted classes."""

    path: str
    """The file."""
    labels: tuple[Label, ...]
    """Most probable first; empty if the file could not be read."""
    error: str = ""
    """Why there are no labels; empty if there are."""


@dataclass(frozen=True)
class Predictions:
    """The result of `predict`."""

    model: str
    """Name of the model."""
    backend: str
    """Display name of the backend that ran."""
    untrained: bool
    """Whether the weights are random, so that the labels mean nothing."""
    images: tuple[PredictedImage, ...]
    """One for each file, in the order given."""


def predict(
    paths: Sequence[Path],
    model: str | None,
    root: Path,
    backend: str,
    top: int,
    ui: Ui,
    device: str = "auto",
) -> Predictions:
    """Classify files and every image below folders. An unreadable file is reported and the rest
    goes on.

    Raises BadInput for a path that does not exist and where there is no image at all.
    """
    files = list(_files(paths))
    if not files:
        raise BadInput(
            "There is no image to classify.", "Give image files or folders that hold some."
        )
    with (
        Classifier(model, backend, workspace=root, device=device) as classifier,
        ui.progress("Classifying") as progress,
    ):
        if classifier.untrained:
            ui.warn(f"{classifier.model} has random weights: its predictions mean nothing.")
        images: list[PredictedImage] = []
        for start in range(0, len(files), AT_A_TIME):
            images += _classify(classifier, files[start : start + AT_A_TIME], top)
            progress(len(images), len(files))
        return Predictions(
            classifier.model, classifier.backend, classifier.untrained, tuple(images)
        )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (path / name for name in find_images(path))
        elif path.is_file():
            yield path
        else:
            raise BadInput(f"{path} does not exist.", "Give image files or folders that hold some.")


def _classify(classifier: Classifier, files: Sequence[Path], top: int) -> list[PredictedImage]:
    with ThreadPoolExecutor(cpu_count()) as pool:
        decoded = list(pool.map(_decoded, files))
    predictions = iter(classifier([image for image in decoded if not isinstance(image, str)], top))
    return [
        PredictedImage(str(path), (), image)
        if isinstance(image, str)
        else PredictedImage(str(path), next(predictions).labels)
        for path, image in zip(files, decoded, strict=True)
    ]


def _decoded(path: Path) -> Image.Image | str:
    """The image, or why there is none."""
    try:
        return decode(path)
    except UnreadableImage as error:
        return error.message
