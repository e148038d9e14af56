"""`predict`: the classes of images and of whole folders, by an exported model."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import reading
from hvt_deploy.core.types import StrPath
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import find_model
from hvt_deploy.data.decoding import UnreadableImage
from hvt_deploy.data.folders import find_images
from hvt_deploy.runtime.classifier import Classifier, Label


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
    model: StrPath | None,
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
    for path in paths:
        _check_no_model(path, root)
    files = list(_files(paths))
    if not files:
        raise BadInput(
            "There is no image to classify.", "Give image files or folders that hold some."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ort fp32 instead")  # said by `ui`
        opened = Classifier(model, backend, workspace=root, device=device)
    with (
        opened as classifier,
        ui.progress("Classifying") as progress,
    ):
        if classifier.note:
            ui.warn(classifier.note)
        if classifier.untrained:
            ui.warn(f"{classifier.model} has random weights: its predictions mean nothing.")
        images: list[PredictedImage] = []
        for path, found in zip(files, classifier.attempt(files, top), strict=True):
            images.append(
                PredictedImage(str(path), (), found.message)
                if isinstance(found, UnreadableImage)
                else PredictedImage(str(path), found.labels)
            )
            progress(len(images), len(files))
        return Predictions(
            classifier.model, classifier.backend, classifier.untrained, tuple(images)
        )


def _check_no_model(path: Path, root: Path) -> None:
    """Raise BadInput for the name of an exported model, which other commands take first."""
    if path.exists():
        return
    try:
        slug = find_model(root, path).slug
    except BadInput:
        return
    raise BadInput(
        f"{path} is an exported model and no image.",
        f"Give it with --model: hvt-deploy predict IMAGE --model {slug}",
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        with reading(path):
            status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            yield from (path / name for name in find_images(path))
        else:
            yield path
