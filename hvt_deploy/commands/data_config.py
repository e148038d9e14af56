"""`config --for`: a configuration with comments for own images, after a look at their folder."""

from __future__ import annotations

import random
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.commands.config import config_of
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.run_config import RunConfig, dump_config, with_flags
from hvt_deploy.data.cifar import CIFAR_SIDE, is_cifar100
from hvt_deploy.data.decoding import UnreadableImage, open_image
from hvt_deploy.data.folders import describe_tree, find_images, find_top_folder
from hvt_deploy.data.labels_file import list_labels

_CALIBRATION, _VALIDATION = ("train", "training"), ("val", "valid", "validation", "test")
_LOOKED_AT = 50
_SHOWN_CLASSES = 8
_SECTIONS = {
    "num_classes": "Classes of the head; a checkpoint that has another number decides.",
    "preprocessing": "From image files to the input: that of the training, or accuracy is lost.",
    "quantization": "Where INT8 is used; hvt-deploy quantize --budget finds a recipe.",
    "export": "From checkpoint to ONNX. weights: auto, official, random or your checkpoint.",
    "calibration": "Images that activation ranges are measured on: never those of a validation.",
    "engine": "TensorRT engines; profiles are MIN, OPT, MAX batch sizes.",
    "validation": "Accuracy, latency and gates; null: no limit, no gate.",
}


@dataclass(frozen=True)
class DataFacts:
    """What a folder of images holds."""

    path: Path
    """The folder."""
    images: int
    """Number of images."""
    classes: Mapping[str, int]
    """Images by class, in sorted order; empty for a flat folder without labels."""
    layout: str
    """How the classes are known, as a phrase."""
    sides: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image that was looked at."""
    calibration: Path
    """The folder to calibrate on."""
    validation: Path | None
    """The folder to validate on; None where there is no other than that of the calibration."""
    labels: Path | None
    """File with the labels of a flat folder."""


def write_data_config(model: str, path: Path, labels: Path | None) -> str:
    """The YAML text of a configuration of `model` for the images of `path`, with comments.

    Raises BadInput for a folder without images, labels that do not fit and an unknown model.
    """
    facts = look_at(path, labels)
    flags: dict[str, object] = {
        "num_classes": len(facts.classes) or None,
        "calibration.folder": str(facts.calibration),
        "calibration.images": min(512, facts.images),
    }
    config = with_flags(config_of(model), flags)
    lines = [f"# {line}".rstrip() for line in _describe(facts, config)]
    for line in dump_config(config).splitlines():
        section = line.partition(":")[0]
        lines += [f"# {_SECTIONS[section]}", line] if section in _SECTIONS else [line]
    return "\n".join(lines) + "\n"


def look_at(path: Path, labels: Path | None) -> DataFacts:
    """What a folder holds: class folders, `train` and `val` with class folders in them, a flat
    folder with or without a file of labels, or CIFAR-100 as published. Raises BadInput as
    `write_data_config` does.
    """
    if is_cifar100(path):
        side = (CIFAR_SIDE, CIFAR_SIDE)
        names = {f"label {number}": 600 for number in range(100)}
        layout = "CIFAR-100 as published"
        return DataFacts(path, 60_000, names, layout, (side, side), path, path, None)
    files = find_images(path)
    if not files:
        raise BadInput(f"No images in {path}.{describe_tree(path)}", "Name a folder of images.")
    tops = {find_top_folder(file) for file in files}
    train = next((name for name in _CALIBRATION if name in tops), None)
    val = next((name for name in _VALIDATION if name in tops), None)
    split = labels is None and (train or val) is not None
    named = [file.partition("/")[2] for file in files] if split else files
    if labels is not None:
        classes, layout = Counter(list_labels(labels, files)), f"labels of {labels.name}"
    else:
        classes = Counter(top for file in named if (top := find_top_folder(file)))
        layout = "class folders" if classes else "a flat folder without labels"
    calibration = path / (train or val or "") if split else path
    validation = path / val if split and val and train else None
    counts = {name: classes[name] for name in sorted(classes)}
    sides = _look_at_sizes(path, files)
    return DataFacts(path, len(files), counts, layout, sides, calibration, validation, labels)


def _look_at_sizes(path: Path, files: Sequence[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    for file in random.Random(0).sample(files, min(len(files), _LOOKED_AT)):  # noqa: S311
        with suppress(UnreadableImage, OSError), open_image(path / file) as image:
            sizes.append(image.size)
    if not sizes:
        raise BadInput(f"None of the images of {path} can be read.", "Name a folder of images.")
    return min(sizes, key=_area), max(sizes, key=_area)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _describe(facts: DataFacts, config: RunConfig) -> Iterator[str]:
    """The comment at the top: what was found, and the commands that go with it."""
    height, width = config.preprocessing.image_size
    (small, large), classes = facts.sides, facts.classes
    shown = ", ".join(f"{name} ({n})" for name, n in list(classes.items())[:_SHOWN_CLASSES])
    more = f" and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
    yield f"{facts.path}: {facts.images:,} images, {facts.layout}."
    if classes:
        yield f"{len(classes)} classes: {shown}{more}."
    yield (
        f"Sizes: {small[0]}x{small[1]} to {large[0]}x{large[1]}; the model's input is "
        f"{width}x{height}."
    )
    yield ""
    yield "With this file as mine.yaml and your checkpoint as mine.pth:"
    yield f"  hvt-deploy export {config.model} --config mine.yaml --weights mine.pth"
    yield "  hvt-deploy build-trt --int8"
    if not classes:
        yield "To validate, put the images into class folders, or write a file of labels, a line"
        yield "'file label' for each image: hvt-deploy validate --data DIR --labels FILE"
        return
    flag = f" --labels {shlex.quote(str(facts.labels))}" if facts.labels else ""
    data = facts.validation or Path(f"{facts.path}-val")
    yield f"  hvt-deploy validate --data {shlex.quote(str(data))}{flag}"
    if facts.validation is None and facts.labels is not None:
        yield "Calibration and validation must not share images: move those to validate on to a"
        yield f"folder of their own, and their lines of {facts.labels.name} to a file of their own."
    elif facts.validation is None:
        source = shlex.quote(str(facts.calibration))
        yield "Calibration and validation must not share images. To move every fifth image:"
        yield f"  cd {source} && find . -type f | sort | awk 'NR % 5 == 0' |"
        yield (
            f"    while read -r f; do d={shlex.quote(str(data.absolute()))}; "
            'mkdir -p "$d/${f%/*}"; mv "$f" "$d/$f"; done'
        )
