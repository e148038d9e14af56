"""A file of labels: which class each image of a folder belongs to, one line for each image."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import read_text, reading
from hvt_deploy.data.class_names import ClassNames

# Millions of labels; of a larger file no more is read into memory.
MAX_LABELS_BYTES = 256 << 20


def read_labels_file(
    labels_file: Path, path: Path, files: Sequence[str], names: ClassNames
) -> tuple[dict[str, int], str]:
    """The class of each file that `labels_file` names, and a sentence on how labels were matched.

    `files` are the images in `path`, relative to it. Raises BadInput for a file that is missing or
    not readable, lines without a label, labels that fit no class or several, and images that are
    missing or named twice.
    """
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
            f"{format_plural(len(unknown), 'label')} in {labels_file} fit no class: "
            f"{format_names(unknown)}.",
            f"A label is a wnid, a class name or a class number (0 to {len(names) - 1}).",
        )
    names.refuse_ambiguous(f"label in {labels_file}", matched)
    missing = [file for file, _ in rows if file not in there]
    if missing:
        raise BadInput(
            f"{len(missing)} of {format_plural(len(rows), 'file')} named in {labels_file} "
            f"are not images in {path}: {format_names(missing)}.",
            f"Files are named relative to {path}.",
        )
    labels: dict[str, int] = {}
    for file, label in rows:
        if file in labels:
            raise BadInput(
                f"{labels_file} names {_shorten(file)} twice.", "Expected one line for each image."
            )
        labels[file] = matched[label][0]
    left_out = len(files) - len(labels)
    ignored = f"; {format_plural(left_out, 'image')} without a label left out" if left_out else ""
    found = f"{format_plural(len(rows), 'label')} from {labels_file.name}, by {' and '.join(hows)}"
    return labels, f"{found}{ignored}."


def list_labels(labels_file: Path, files: Sequence[str]) -> list[str]:
    """The label of each of the images `files` that the file names. Raises BadInput as
    `read_labels_file` does for lines, and where it names none of the images.
    """
    there = set(files)
    labels = [label for file, label in _read_rows(labels_file) if file in there]
    if not labels:
        raise BadInput(
            f"{labels_file} names none of the images.", "Files are named relative to the folder."
        )
    return labels


def _read_rows(labels_file: Path) -> list[tuple[str, str]]:
    """(file, label) of every line that is not empty.

    Tabs or commas are separators only if every line has one; otherwise spaces are.
    """
    with reading(labels_file):
        if not labels_file.exists():
            raise BadInput(f"No file of labels at {labels_file}.", "Give one with --labels FILE.")
    text = read_text(labels_file, MAX_LABELS_BYTES)
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    separator = next((s for s in ("\t", ",") if all(s in line for _, line in lines)), None)
    rows: list[tuple[str, str]] = []
    for number, line in lines:
        try:
            file, *label = _split(line, separator)
        except csv.Error as error:  # an unclosed quote, a field of more than 128 KiB
            raise BadInput(
                f"{labels_file}, line {number}: {_shorten(line)} cannot be read: {error}.",
                "Expected `photo1.jpg,LABEL`; a quote opens and closes a whole field.",
            ) from None
        if not label:
            raise BadInput(
                f"{labels_file}, line {number}: {_shorten(line)} has no label.",
                "Expected `photo1.jpg LABEL` on every line.",
            )
        # A name may list synonyms, with or without quotes: `photo1.jpg,tench, Tinca tinca`.
        rows.append((file.strip().removeprefix("./"), ", ".join(part.strip() for part in label)))
    return rows


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split(None, 1)
    return next(csv.reader([line], delimiter=separator, strict=True))


def _shorten(text: str) -> str:
    """In quotes, so long that a line of it can be read."""
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def format_plural(number: int, singular: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {singular}" if number == 1 else f"{number} {singular}s"


def format_names(items: Sequence[str]) -> str:
    """The first 8 names in quotes, shortened, and the number of the others."""
    shown = ", ".join(map(_shorten, items[:8]))
    return f"{shown} and {len(items) - 8} more" if len(items) > 8 else shown
