"""Folders of labelled images: which file belongs to which class of the model.

A label is never guessed: what does not fit is an error that names it, and how folders were mapped
to classes is a sentence that goes into every report.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import SubsetName
from hvt_deploy.data.cifar import is_cifar100, unpack_cifar100
from hvt_deploy.data.class_names import ClassNames, numbered
from hvt_deploy.data.imagenet_subsets import label_folders

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)

# The label of an image whose class is not one of the model's, or not known.
NO_LABEL = -1


@dataclass(frozen=True)
class Sample:
    """One image file and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """The labelled images of a folder, sorted by path.

    `classes` are the class numbers that occur. `mapping` says in a sentence how the labels were
    found.
    """

    path: Path
    samples: tuple[Sample, ...]
    classes: tuple[int, ...]
    mapping: str


def open_image_folder(
    path: Path,
    class_names: ClassNames | None,
    num_classes: int,
    labels_file: Path | None = None,
    subset: SubsetName | None = None,
) -> ImageFolder:
    """Find the labelled images in a folder of class folders, or by a file of labels.

    A class folder is matched by wnid, class name or class number. Sorted order is used only when
    there are exactly `num_classes` folders and none of their names is known. With `labels_file`
    (CSV, tabs or spaces; `file label`; files relative to `path`) the folders mean nothing. Hidden
    files and files that are not images are ignored, links are followed. A folder in the
    `cifar-100-python` form gives its test images. The class folders of a `subset` are named as it
    is published. Raises BadInput for a missing or empty folder, for folders or labels that fit no
    class or several, for a flat folder without labels and for labelled files that are not there.
    """
    names = class_names or numbered(num_classes)
    if len(names) != num_classes:
        raise BadInput(
            f"The model has {num_classes} classes, but {len(names)} class names were given.",
            "Give the names of this model's classes with --class-names FILE.",
        )
    if is_cifar100(path) and labels_file is None and subset is None:
        return _open_cifar100(path, names)
    files = find_images(path)
    if not files:
        raise BadInput(f"No images in {path}.{expected_tree(path)}", WHAT_WORKS_NOW)
    if labels_file is not None:
        labels, mapping = _labels_from_file(labels_file, path, files, names)
    elif subset is not None:
        labels, mapping = _labels_of_subset(files, names, subset)
    else:
        labels, mapping = _labels_from_folders(path, files, names)
    samples = tuple(Sample(path / file, label) for file, label in sorted(labels.items()))
    return ImageFolder(path, samples, tuple(sorted(set(labels.values()))), mapping)


WHAT_WORKS_NOW = "`hvt-deploy demo` works now: it needs no data."


def expected_tree(path: Path) -> str:
    """What a folder of labelled images looks like, for error messages."""
    return (
        " Expected one folder of images per class, named by wnid, class name or class number:"
        f"\n  {path}/\n    n01440764/photo1.jpg\n    n01440764/photo2.jpg\n    n01443537/photo3.jpg"
    )


def find_images(path: Path) -> list[str]:
    """The images in a folder and the folders below it: relative paths with "/", sorted.

    Raises BadInput if the folder is missing, not a folder or not readable.
    """
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}.{expected_tree(path)}", WHAT_WORKS_NOW)
    try:
        return sorted(_walk(path, "", frozenset()))
    except PermissionError as error:
        raise BadInput(
            f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions."
        ) from None


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {identity})
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a million times
                yield prefix + entry.name


def top_folder(file: str) -> str:
    """The first folder of a relative path, "" for a file outside any folder."""
    return file.partition("/")[0] if "/" in file else ""


def _labels_from_folders(
    path: Path, files: Sequence[str], names: ClassNames
) -> tuple[dict[str, int], str]:
    used = sorted({top_folder(file) for file in files} - {""})
    if not used:
        raise BadInput(
            f"{path} holds {_count(len(files), 'image')} but no class folders, so the classes are unknown."
            f"{expected_tree(path)}",
            "Or name a file with a line `photo1.jpg LABEL` for each image: --labels FILE",
        )
    matched, hows = names.find_all(used)
    if hows:
        _refuse_misfits(path, used, matched, names)
        classes = {folder: found[0] for folder, found in matched.items()}
        mapping = f"{_count(len(used), 'class folder')} matched to classes by {' and '.join(hows)}"
    else:
        folders = sorted(
            e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")
        )
        if len(folders) != len(names):
            _refuse_misfits(path, used, matched, names)
        classes = {folder: i for i, folder in enumerate(folders)}
        mapping = (
            f"No folder name is a known class: the {len(folders)} folders were taken as the model's {len(names)} "
            f"classes in sorted order, from '{folders[0]}' = class 0 to '{folders[-1]}' = class {len(names) - 1}"
        )
    labels = {file: classes[top_folder(file)] for file in files if "/" in file}
    outside = len(files) - len(labels)
    ignored = f"; {_count(outside, 'image')} outside class folders ignored" if outside else ""
    return labels, f"{mapping}{ignored}."


def _labels_of_subset(
    files: Sequence[str], names: ClassNames, subset: SubsetName
) -> tuple[dict[str, int], str]:
    classes = label_folders(subset, sorted({top_folder(file) for file in files}), names)
    labels = {file: classes[top_folder(file)] for file in files}
    return labels, f"{_count(len(classes), 'class folder')} of {subset}, named as it is published."


def _open_cifar100(path: Path, names: ClassNames) -> ImageFolder:
    """The test images of CIFAR-100: by fine label names, by coarse ones where the model has these,
    by number.
    """
    cifar = unpack_cifar100(path, "test")
    for labels, numbers in ((cifar.fine, range(len(cifar.fine))), (cifar.coarse, cifar.coarse_of)):
        found, _ = names.find_all(labels)
        if len(names) == len(labels) and all(len(classes) == 1 for classes in found.values()):
            class_of = {
                fine: found[labels[n]][0]
                for fine, n in zip(cifar.fine, numbers, strict=True)
                if n >= 0
            }
            mapping = f"{len(labels)} {'fine' if labels is cifar.fine else 'coarse'} labels of CIFAR-100 by class name."
            break
    else:
        if names != numbered(len(cifar.fine)):
            raise BadInput(
                f"{path} is CIFAR-100, and the {len(names)} classes of the model are neither its {len(cifar.fine)} "
                f"fine nor its {len(cifar.coarse)} coarse labels.",
                "Give the names of this model's classes with --class-names FILE when exporting.",
            )
        class_of = {fine: n for n, fine in enumerate(cifar.fine)}
        mapping = f"{len(cifar.fine)} fine labels of CIFAR-100 by class number."
    files = find_images(cifar.folder)
    samples = tuple(Sample(cifar.folder / file, class_of[top_folder(file)]) for file in files)
    return ImageFolder(path, samples, tuple(sorted({s.label for s in samples})), mapping)


def _refuse_misfits(
    path: Path, folders: Sequence[str], matched: dict[str, tuple[int, ...]], names: ClassNames
) -> None:
    unknown = [folder for folder in folders if not matched[folder]]
    if unknown:
        below = next((f for f in unknown if _holds_classes(path / f, names)), None)
        hint = f"Did you mean {path / below}? " if below else ""
        raise BadInput(
            f"{len(unknown)} of {_count(len(folders), 'folder')} in {path} fit no class: {_some(unknown)}.",
            f"{hint}Name folders by wnid, class name or class number (0 to {len(names) - 1}), or give the names of "
            "the model's classes with --class-names FILE. Sorted order is used only when no name is known and "
            f"there are exactly {len(names)} folders.",
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


def _labels_from_file(
    labels_file: Path, path: Path, files: Sequence[str], names: ClassNames
) -> tuple[dict[str, int], str]:
    rows = _read_rows(labels_file)
    there = set(files)
    if rows and rows[0][0] not in there and names.find(rows[0][1]) is None:  # a header
        rows = rows[1:]
    if not rows:
        raise BadInput(
            f"{labels_file} holds no labels.", "Expected a line `photo1.jpg LABEL` for each image."
        )
    matched, hows = names.find_all([label for _, label in rows])
    unknown = sorted({label for _, label in rows if not matched[label]})
    if unknown:
        raise BadInput(
            f"{_count(len(unknown), 'label')} in {labels_file} fit no class: {_some(unknown)}.",
            f"A label is a wnid, a class name or a class number (0 to {len(names) - 1}).",
        )
    names.refuse_ambiguous(f"label in {labels_file}", matched)
    missing = [file for file, _ in rows if file not in there]
    if missing:
        raise BadInput(
            f"{len(missing)} of {_count(len(rows), 'file')} named in {labels_file} are not images in {path}: "
            f"{_some(missing)}.",
            f"Files are named relative to {path}.",
        )
    labels: dict[str, int] = {}
    for file, label in rows:
        if file in labels:
            raise BadInput(
                f"{labels_file} names '{file}' twice.", "Expected one line for each image."
            )
        labels[file] = matched[label][0]
    left_out = len(files) - len(labels)
    ignored = f"; {_count(left_out, 'image')} without a label left out" if left_out else ""
    return (
        labels,
        f"{_count(len(rows), 'label')} from {labels_file.name}, by {' and '.join(hows)}{ignored}.",
    )


def _read_rows(labels_file: Path) -> list[tuple[str, str]]:
    """(file, label) of every line that is not empty. Commas or tabs separate only if every line has
    one.
    """
    try:
        lines = [
            line
            for line in labels_file.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except FileNotFoundError:
        raise BadInput(
            f"No file of labels at {labels_file}.", "Give one with --labels FILE."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{labels_file} cannot be read as labels: {error}.") from None
    separator = next((s for s in ("\t", ",") if all(s in line for line in lines)), None)
    fields = (
        [line.split(None, 1) for line in lines]
        if separator is None
        else csv.reader(lines, delimiter=separator)
    )
    rows: list[tuple[str, str]] = []
    for line, (file, *label) in zip(lines, fields, strict=True):
        if not label:
            raise BadInput(
                f"{labels_file}: '{line}' has no label.",
                "Expected `photo1.jpg LABEL` on every line.",
            )
        # A name may list synonyms, with or without quotes: `photo1.jpg,tench, Tinca tinca`.
        rows.append((file.strip().removeprefix("./"), ", ".join(part.strip() for part in label)))
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(f"'{item}'" for item in items[:8])
    return f"{shown} and {len(items) - 8} more" if len(items) > 8 else shown
