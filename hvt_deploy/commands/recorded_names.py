"""The class names that a manifest records: given, learned from folders, kept by another export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import Manifest, WeightsRecord
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.class_names import ClassNames, default_class_names, find_stated_names
from hvt_deploy.data.folders import name_classes_by_folders


def names_of(manifest: Manifest) -> ClassNames:
    """The names of a model's classes."""
    return ClassNames(manifest.class_names, manifest.wnids, manifest.class_names_source)


def with_names(manifest: Manifest, names: ClassNames) -> Manifest:
    """The manifest with other names."""
    return replace(
        manifest, class_names=names.names, wnids=names.wnids, class_names_source=names.source
    )


def choose_class_names(
    folder: ModelFolder, num_classes: int, given: Path | None, weights: WeightsRecord
) -> ClassNames:
    """The names for an export: those that were given, else those of the last export of the same
    weights, else ImageNet's or numbers.

    Raises BadInput as `find_stated_names` does.
    """
    checkpoint = Path(weights.path) if weights.path else None
    stated = find_stated_names(num_classes, given, checkpoint)
    if stated is not None:
        return stated
    earlier = _read_earlier(folder)
    if earlier is not None and earlier.signature.num_classes == num_classes:
        recorded = earlier.weights
        if (recorded.source, recorded.sha256) == (weights.source, weights.sha256):
            return names_of(earlier)
    return default_class_names(num_classes)


def keep_names(folder: ModelFolder, manifest: Manifest) -> Manifest:
    """The manifest that is to be in `folder`, with the names that are recorded there if its classes
    have only numbers.
    """
    earlier = _read_earlier(folder)
    if earlier is None or not names_of(manifest).are_numbers:
        return manifest
    same = earlier.signature.num_classes == manifest.signature.num_classes
    return with_names(manifest, names_of(earlier)) if same else manifest


def _read_earlier(folder: ModelFolder) -> Manifest | None:
    try:
        return folder.read()
    except BadInput:  # there is none, or it is damaged
        return None


def learn_class_names(manifest: Manifest, images: Path, ui: Ui) -> Manifest:
    """The manifest with the names of the class folders in `images`, where classes have only numbers
    and the folders can be all of them: sorted, as training scripts number them. It is said.
    """
    if not names_of(manifest).are_numbers:
        return manifest
    names = name_classes_by_folders(images, manifest.signature.num_classes)
    if names is None:
        return manifest
    ui.say(
        f"The classes of {manifest.slug} are named by the folders of {images} in sorted order, "
        f"from '{names.short(0)}' = class 0 to '{names.short(len(names) - 1)}' = class "
        f"{len(names) - 1}. If that is wrong, give the names: --class-names FILE."
    )
    return with_names(manifest, names)


def record_class_names(folder: ModelFolder, file: Path, ui: Ui) -> None:
    """Give an exported model the names of a file; graphs and engines stay as they are.

    Raises BadInput if the file cannot be read or has another number of classes.
    """
    with folder.lock():
        manifest = folder.read()
        names = find_stated_names(manifest.signature.num_classes, file)
        named = manifest if names is None else with_names(manifest, names)
        if named != manifest:
            folder.commit(named)
            ui.say(f"The classes of {folder.slug} are named by {file} from now on.")
