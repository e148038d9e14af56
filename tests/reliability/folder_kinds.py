"""Folders of images, files of labels and of class names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kinds import Kind

Change = Callable[[Path], object]
_VALIDATE = ("validate", "--data", "images")
_CALIBRATE = ("quantize", "--int8", "--calib", "images")
_NO_CALIBRATION = "no folder images|images holds no images"
_NO_IMAGES = "images cannot be read|no image to classify|images not an image"


def _copy(place: Path) -> Path:
    """`images`, ten class folders of two images each."""
    return Path(shutil.copytree(place / "validation", place / "images"))


def _renamed(name: str, place: Path) -> None:
    (_copy(place) / "3").rename(place / "images" / name)


def _flat(place: Path) -> None:
    (place / "images").mkdir()
    for number, path in enumerate(sorted((place / "validation").rglob("*.png"))):
        os.link(path, place / "images" / f"{number}.png")


def _only_folders(place: Path) -> None:
    for path in _copy(place).rglob("*.png"):
        path.unlink()


def _without_one(place: Path) -> None:
    shutil.rmtree(_copy(place) / "9")
    for number, folder in enumerate(sorted((place / "images").iterdir())):
        folder.rename(folder.with_name(f"kind-{number}"))


def _from_one(place: Path) -> None:
    (_copy(place) / "0").rename(place / "images" / "10")


def _one_twice(place: Path) -> None:
    shutil.copytree(_copy(place) / "3", place / "images" / "03")


def _one_deeper(place: Path) -> None:
    (place / "images").mkdir()
    shutil.copytree(place / "validation", place / "images" / "val")


def _looped(place: Path) -> None:
    shutil.rmtree(_copy(place) / "3")
    (place / "images" / "3").symlink_to("3")


def _long_name(place: Path) -> None:
    (place / "images").mkdir()
    (place / "images" / ("n" * 255)).mkdir()
    shutil.copy(place / "validation/0/0.png", place / "images" / ("n" * 255))


def _cifar(content: bytes, place: Path) -> None:
    (place / "images").mkdir()
    for name in ("train", "test", "meta"):
        (place / "images" / name).write_bytes(content)


FOLDERS: dict[str, tuple[Change, str]] = {
    "missing": (lambda place: None, "images does not exist"),
    "a file": (lambda place: (place / "images").write_text("x"), "images is not a folder"),
    "a link that leads nowhere": (
        lambda place: (place / "images").symlink_to("gone"),
        "is a link that leads nowhere",
    ),
    "a link to itself": (lambda place: (place / "images").symlink_to("images"), "images"),
    "empty": (lambda place: (place / "images").mkdir(), "No images in images"),
    "of folders without images": (_only_folders, "No images in images"),
    "of text files": (
        lambda place: (
            _flat(place),
            [p.rename(p.with_suffix(".txt")) for p in (place / "images").iterdir()],
        ),
        "No images in images",
    ),
}
CLASS_FOLDERS: dict[str, tuple[Change, str]] = {
    "without class folders": (_flat, "no class folders"),
    "with an unknown class": (partial(_renamed, "cat"), "fit no class: 'cat'"),
    "with a class of a negative number": (partial(_renamed, "-3"), "fit no class: '-3'"),
    "with a class of 5000 digits": (partial(_renamed, "3" * 250), "fit no class"),
    "with a class named by terminal codes": (partial(_renamed, "\x1b[2J"), "fit no class"),
    "with a class named by half a character": (partial(_renamed, "\udcff"), "fit no class"),
    "with a class of another alphabet": (partial(_renamed, "٣x"), "fit no class"),
    "numbered from one": (_from_one, "fit no class: '10'"),
    "with fewer unknown folders than classes": (_without_one, "fit no class"),
    "with a class twice": (_one_twice, "same class"),
    "one level above": (_one_deeper, "Did you mean images/val"),
    "with a class folder that is a link to itself": (_looped, "images/3"),
    "with a class folder of the longest name": (_long_name, "fit no class"),
    "CIFAR-100 that is no pickle": (partial(_cifar, b"x"), "images"),
    "CIFAR-100 cut off": (partial(_cifar, b"\x80\x04\x95"), "images"),
    "CIFAR-100 that would run a program": (
        partial(_cifar, b"cos\nsystem\n(S'touch attacked'\ntR."),
        "images",
    ),
    "the images calibrated on": (
        lambda place: shutil.copytree(place / "calibration", place / "images"),
        "were calibrated on",
    ),
}
LABELS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds no labels"),
    "a header only": (b"file,label\n", "holds no labels"),
    "a line without a label": (b"0.png 1\n1.png\n", "line 2: '1.png' has no label"),
    "an unknown class": (b"0.png cat\n", "fit no class: 'cat'"),
    "a class -1": (b"0.png -1\n", "fit no class: '-1'"),
    "a class too large": (b"0.png 10\n", "fit no class: '10'"),
    "a class of a million digits": (b"0.png " + b"9" * 1_000_000, "fit no class"),
    "a fraction": (b"0.png 1.5\n", "fit no class: '1.5'"),
    "an image twice": (b"0.png 1\n0.png 2\n", "'0.png' twice"),
    "an image that is missing": (b"0.png 1\ngone.png 1\n", "gone.png"),
    "an image outside": (b"../validation/0/0.png 1\n", "are not images in images"),
    "an image by its absolute path": (b"/etc/passwd 1\n", "are not images in images"),
    "an unclosed quote": (b'0.png,1\n1.png,"2\n', "line 2: .* cannot be read"),
    "a field of 200 000 characters": (b"0.png," + b"x" * 200_000, "cannot be read|fit no class"),
    "a NUL": (b"0.png,1\n\0,1\n", "labels.txt|are not images"),
    "UTF-16": ("0.png 1\n".encode("utf-16"), "not text in UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not text in UTF-8"),
}
CLASS_NAMES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "names.json"),
    "too few": (b'["a", "b"]', "names 2 classes, but the model has 10"),
    "too many": (json.dumps([f"c{i}" for i in range(11)]).encode(), "names 11 classes"),
    "no JSON": (b"{", "is not JSON"),
    "a number": (b"3", "names.json"),
    "null": (b"null", "names.json"),
    "lists in a list": (b'[["a"], ["b"]]', "names.json"),
    "a negative number": (json.dumps({str(i - 1): "c" for i in range(10)}).encode(), "names.json"),
    "a class twice": (b'{"0": "a", "0": "b"}', "there twice"),
    "nested deep": (b"[" * 200_000, "nested too deep"),
    "UTF-16": ('["a"]'.encode("utf-16"), "not text in UTF-8"),
    "a line break": (json.dumps(["a\nb", *"bcdefghij"]).encode(), "cannot be named"),
    "a NUL": (json.dumps(["a\0b", *"bcdefghij"]).encode(), "cannot be named"),
    "half a character": (json.dumps(["\ud800", *"bcdefghij"]).encode(), "cannot be named"),
    "a name of a million letters": (
        json.dumps(["a" * 10**6, *"bcdefghij"]).encode(),
        "cannot be named",
    ),
    "an empty name": (json.dumps(["", *"bcdefghij"]).encode(), "names.json"),
}
NO_FILES: dict[str, tuple[Change, str]] = {
    "missing": (lambda path: None, "No file of"),
    "a folder": (Path.mkdir, "is not a file"),
    "a pipe": (os.mkfifo, "is not a file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "No file of"),
    "a link to an endless device": (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
}


def _hole(name: str, place: Path) -> None:
    with (place / name).open("wb") as stream:
        stream.truncate(10 << 30)


def _list_kinds() -> Iterator[Kind]:
    for fault, (change, sentence) in FOLDERS.items():
        yield Kind("folder of the validation", fault, _VALIDATE, sentence, change)
        yield Kind("folder of the calibration", fault, _CALIBRATE, _NO_CALIBRATION, change)
        yield Kind("folder of predict", fault, ("predict", "images"), _NO_IMAGES, change)
    for fault, (change, sentence) in CLASS_FOLDERS.items():
        yield Kind("folder of the validation", fault, _VALIDATE, sentence, change)
    verb = (*_VALIDATE, "--labels", "labels.txt")
    for fault, (content, sentence) in LABELS.items():
        yield Kind("file of labels", fault, verb, sentence, partial(_put_labels, content))
    export = ("export", "hvt_demo", "--force", "--class-names", "names.json")
    for fault, (content, sentence) in CLASS_NAMES.items():
        yield Kind("file of class names", fault, export, sentence, partial(_put_names, content))
    for fault, (put, sentence) in NO_FILES.items():
        yield Kind("file of labels", fault, verb, sentence, partial(_put_no_labels, put))
        yield Kind("file of class names", fault, export, sentence, partial(_put_no_names, put))
    yield Kind("file of class names", "10 GB", export, "too large", partial(_hole, "names.json"))


def _put_labels(content: bytes, place: Path) -> None:
    _flat(place)
    (place / "labels.txt").write_bytes(content)


def _put_no_labels(put: Change, place: Path) -> None:
    _flat(place)
    put(place / "labels.txt")


def _put_names(content: bytes, place: Path) -> None:
    (place / "names.json").write_bytes(content)


def _put_no_names(put: Change, place: Path) -> None:
    put(place / "names.json")


KINDS = tuple(_list_kinds())
