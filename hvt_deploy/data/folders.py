"""Folders of labelled images: the class of the model that each file belongs to.

A label is never guessed: a folder that fits no class is an error that names it, and every report
says how folders were mapped to classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import reading
from hvt_deploy.core.types import SubsetName
from hvt_deploy.data.cifar import is_cifar100, unpack_cifar100
from hvt_deploy.data.class_names import ClassNames, name_by_wnids, number_classes
from hvt_deploy.data.imagenet_subsets import label_folders
from hvt_deploy.data.labels_file import format_names, format_plural, read_labels_file

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)

# The label of an image whose class is unknown or not one of the model's.
NO_LABEL = -1


@dataclass(frozen=True)
class Sample:
    """One image file."""

    path: Path
    """The file."""
    label: int
    """The number of its class, or `NO_LABEL`."""


@dataclass(frozen=True)
class ImageFolder:
    """The labelled images of a folder."""

    path: Path
    """The folder."""
    samples: tuple[Sample, ...]
    """The images, sorted by path."""
    classes: tuple[int, ...]
    """The class numbers that occur, in ascending order."""
    mapping: str
    """A sentence on how the labels were found."""


def open_image_folder(
    path: Path,
    class_names: ClassNames | None,
    num_classes: int,
    labels_file: Path | None = None,
    subset: SubsetName | None = None,
) -> ImageFolder:
    """Find the labelled images in a folder of class folders, or by a file of labels.

    A class folder is matched by wnid, class name or class number. Sorted order is used only if
    there are exactly `num_classes` folders and none of their names is known. With `labels_file`
    (CSV, tabs or spaces; `file label`; files relative to `path`) folder names are ignored. Hidden
    files and files that are not images are ignored, links are followed. Of a folder in the
    `cifar-100-python` format the test images are taken. The class folders of a `subset` are named
    as published. Raises BadInput for a missing or empty folder, for folders or labels that fit no
    class or several, for a flat folder without labels and for labelled files that are missing.
    """
    names = class_names or number_classes(num_classes)
    if len(names) != num_classes:
        raise BadInput(
            f"The model has {num_classes} classes, but {len(names)} class names were given.",
            "Give the names of this model's classes with --class-names FILE.",
        )
    if is_cifar100(path) and labels_file is None and subset is None:
        return _open_cifar100(path, names)
    files = find_images(path)
    if not files:
        raise BadInput(f"No images in {path}.{describe_tree(path)}", DEMO_HINT)
    if labels_file is not None:
        labels, mapping = read_labels_file(labels_file, path, files, names)
    elif subset is not None:
        labels, mapping = _labels_of_subset(files, names, subset)
    else:
        labels, mapping = _labels_from_folders(path, files, names)
    samples = tuple(Sample(path / file, label) for file, label in sorted(labels.items()))
    return ImageFolder(path, samples, tuple(sorted(set(labels.values()))), mapping)


def name_classes_by_folders(path: Path, num_classes: int) -> ClassNames | None:
    """The names of the class folders in `path`, in sorted order, for a model whose classes have
    only numbers; ImageNet's names where they are wnids.

    None unless there are exactly `num_classes` folders, each with images in it, none of which is
    named by a class number.
    """
    if not path.is_dir():
        return None
    with reading(path):
        entries = [e for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")]
        folders = sorted(entry.name for entry in entries)
        if len(folders) != num_classes or not all(map(_holds_images, entries)):
            return None
    if any(number_classes(num_classes).find_all(folders)[1]):
        return None
    return replace(name_by_wnids(folders) or ClassNames(tuple(folders)), source=str(path))


def _holds_images(folder: os.DirEntry[str]) -> bool:
    return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in os.scandir(folder))


DEMO_HINT = "`hvt-deploy demo` works now: it needs no data."


def describe_tree(path: Path) -> str:
    """The expected layout of a folder of labelled images, for error messages."""
    return (
        " Expected one folder of images per class, named by wnid, class name or class number:"
        f"\n  {path}/\n    n01440764/photo1.jpg\n    n01440764/photo2.jpg\n    n01443537/photo3.jpg"
    )


def find_images(path: Path) -> list[str]:
    """The images in a folder and the folders below it: relative paths with "/", sorted.

    Raises BadInput if the folder is missing or not a folder, or naming the file or folder below it
    that cannot be read or is a link to itself.
    """
    with reading(path):
        if not path.is_dir():
            reason = (
                "is not a folder"
                if path.exists()
                else "is a link that leads nowhere"
                if path.is_symlink()
                else "does not exist"
            )
            raise BadInput(f"{path} {reason}.{describe_tree(path)}", DEMO_HINT)
        return sorted(_walk(path, "", frozenset()))


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that contains it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {identity})
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a million times
                yield prefix + entry.name


def find_top_folder(file: str) -> str:
    """The first folder of a relative path; "" if there is none."""
    return file.partition("/")[0] if "/" in file else ""


def _labels_from_folders(
    path: Path, files: Sequence[str], names: ClassNames
) -> tuple[dict[str, int], str]:
    used = sorted({find_top_folder(file) for file in files} - {""})
    if not used:
        raise BadInput(
            f"{path} holds {format_plural(len(files), 'image')} but no class folders, "
            f"so the classes are unknown.{describe_tree(path)}",
            "Or name a file with a line `photo1.jpg LABEL` for each image: --labels FILE",
        )
    matched, hows = names.find_all(used)
    if hows:
        _refuse_misfits(path, used, matched, names)
        classes = {folder: found[0] for folder, found in matched.items()}
        mapping = (
            f"{format_plural(len(used), 'class folder')} matched to classes by {' and '.join(hows)}"
        )
    else:
        folders = sorted(
            e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")
        )
        if len(folders) != len(names):
            _refuse_misfits(path, used, matched, names)
        classes = {folder: i for i, folder in enumerate(folders)}
        mapping = (
            f"No folder name is a known class: the {len(folders)} folders were taken as the "
            f"model's {len(names)} classes in sorted order, from '{folders[0]}' = class 0 to "
            f"'{folders[-1]}' = class {len(names) - 1}"
        )
    labels = {file: classes[find_top_folder(file)] for file in files if "/" in file}
    outside = len(files) - len(labels)
    ignored = (
        f"; {format_plural(outside, 'image')} outside class folders ignored" if outside else ""
    )
    return labels, f"{mapping}{ignored}."


def _labels_of_subset(
    files: Sequence[str], names: ClassNames, subset: SubsetName
) -> tuple[dict[str, int], str]:
    classes = label_folders(subset, sorted({find_top_folder(file) for file in files}), names)
    labels = {file: classes[find_top_folder(file)] for file in files}
    return (
        labels,
        f"{format_plural(len(classes), 'class folder')} of {subset}, named as it is published.",
    )


def _open_cifar100(path: Path, names: ClassNames) -> ImageFolder:
    """The test images of CIFAR-100, labelled by fine or coarse names, else by class number."""
    cifar = unpack_cifar100(path, "test")
    for labels, numbers in ((cifar.fine, range(len(cifar.fine))), (cifar.coarse, cifar.coarse_of)):
        found, _ = names.find_all(labels)
        if len(names) == len(labels) and all(len(classes) == 1 for classes in found.values()):
            class_of = {
                fine: found[labels[n]][0]
                for fine, n in zip(cifar.fine, numbers, strict=True)
                if n >= 0
            }
            kind = "fine" if labels is cifar.fine else "coarse"
            mapping = f"{len(labels)} {kind} labels of CIFAR-100 by class name."
            break
    else:
        if names != number_classes(len(cifar.fine)):
            raise BadInput(
                f"{path} is CIFAR-100, and the {len(names)} classes of the model are neither its "
                f"{len(cifar.fine)} fine nor its {len(cifar.coarse)} coarse labels.",
                "Give the names of this model's classes with --class-names FILE when exporting.",
            )
        class_of = {fine: n for n, fine in enumerate(cifar.fine)}
        mapping = f"{len(cifar.fine)} fine labels of CIFAR-100 by class number."
    files = find_images(cifar.folder)
    samples = tuple(Sample(cifar.folder / file, class_of[find_top_folder(file)]) for file in files)
    return ImageFolder(path, samples, tuple(sorted({s.label for s in samples})), mapping)


def _refuse_misfits(
    path: Path, folders: Sequence[str], matched: dict[str, tuple[int, ...]], names: ClassNames
) -> None:
    unknown = [folder for folder in folders if not matched[folder]]
    if unknown:
        below = next((f for f in unknown if _holds_classes(path / f, names)), None)
        hint = f"Did you mean {path / below}? " if below else ""
        raise BadInput(
            f"{len(unknown)} of {format_plural(len(folders), 'folder')} in {path} fit no class: "
            f"{format_names(unknown)}.",
            f"{hint}Name folders by wnid, class name or class number (0 to {len(names) - 1}), or "
            "give the names of the model's classes with --class-names FILE. Sorted order is used "
            f"only when no name is known and there are exactly {len(names)} folders.",
        )
    names.refuse_ambiguous(f"folder in {path}", matched)
    taken: dict[int, str] = {}
    for folder, (index, *_) in matched.items():
        if index in taken:
            raise BadInput(
                f"The folders '{taken[index]}' and '{folder}' in {path} are the same class {index} "
                f"({names.short(index)}).",
                "Merge them, or rename the wrong one.",
            )
        taken[index] = folder


def _holds_classes(folder: Path, names: ClassNames) -> bool:
    return any(entry.is_dir() and names.find(entry.name) for entry in os.scandir(folder))
