"""CIFAR-100 as published (`cifar-100-python`: pickled `train`, `test`, `meta`), as image files.

The images are written once, losslessly, to a cache and are then decoded, hashed and compared like
any others.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file, new_folder, reading, writing_to_cache

Split = Literal["train", "test"]
CIFAR_SIDE = 32
_EXPECTED = (
    "Expected the three files `train`, `test` and `meta` of cifar-100-python.tar.gz, as published."
)


@dataclass(frozen=True)
class Cifar100:
    """The images of one split."""

    folder: Path
    """The folder with a subfolder for each fine label: `folder/apple/00042.png`."""
    fine: tuple[str, ...]
    """The names of the fine labels, in their order."""
    coarse: tuple[str, ...]
    """The names of the coarse labels, in their order."""
    coarse_of: tuple[int, ...]
    """The number of the coarse label of each fine label; -1 if no image has it."""


def is_cifar100(path: Path) -> bool:
    """Whether a folder is CIFAR-100 in its `cifar-100-python` format.

    Raises BadInput if it cannot be read.
    """
    with reading(path):
        return all((path / name).is_file() for name in ("train", "test", "meta"))


def unpack_cifar100(path: Path, split: Split) -> Cifar100:
    """The images of a split, written to the cache if they are not there yet.

    Raises BadInput for invalid files and for a pickle that contains anything but NumPy arrays.
    """
    meta, data = _load(path / "meta"), _load(path / split)
    fine, coarse = _names(meta, "fine_label_names", path), _names(meta, "coarse_label_names", path)
    pixels = cast("NDArray[np.uint8] | None", data.get("data"))
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape[1:] != (3 * CIFAR_SIDE * CIFAR_SIDE,)
    ):
        raise BadInput(
            f"{path / split} holds no images of {CIFAR_SIDE}x{CIFAR_SIDE} pixels under `data`.",
            _EXPECTED,
        )
    labels = _labels(data, "fine_labels", len(pixels), len(fine), path / split)
    coarse_labels = _labels(data, "coarse_labels", len(pixels), len(coarse), path / split)
    coarse_of = dict(zip(labels, coarse_labels, strict=True))
    digest = hash_file(path / split, path / "meta")
    with writing_to_cache() as cache:
        folder = cache / f"cifar-100-{digest[:16]}" / split
        if not folder.is_dir():
            _write(pixels, [fine[label] for label in labels], folder)
    return Cifar100(folder, fine, coarse, tuple(coarse_of.get(i, -1) for i in range(len(fine))))


def _write(pixels: NDArray[np.uint8], names: list[str], folder: Path) -> None:
    with new_folder(folder) as temporary:
        for name in set(names):
            (temporary / name).mkdir()
        for i, (row, name) in enumerate(zip(pixels, names, strict=True)):
            pixels_HWC = row.reshape(3, CIFAR_SIDE, CIFAR_SIDE).transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(
                temporary / name / f"{i:05d}.png", compress_level=1
            )


def _latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode(text, "latin1")`, by which Python 3 writes bytes into old pickles; no other
    codec is allowed.
    """
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Allows only the globals of pickled NumPy arrays: any other pickle could run code."""

    def find_class(self, module_name: str, global_name: str) -> object:
        if (
            module_name in {"numpy.core.multiarray", "numpy._core.multiarray"}
            and global_name == "_reconstruct"
        ):
            # NumPy's own function, in whichever module this version has it.
            return np.zeros(0).__reduce__()[0]
        if module_name == "numpy" and global_name in {"ndarray", "dtype"}:
            return getattr(np, global_name)
        if (module_name, global_name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _load(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            loaded: object = _ArraysOnly(file, encoding="bytes").load()
    # A damaged or hostile pickle raises nearly any exception.
    except Exception as error:
        raise BadInput(f"{path} is not a file of CIFAR-100: {error}.", _EXPECTED) from None
    if not isinstance(loaded, dict):
        raise BadInput(f"{path} is not a file of CIFAR-100: it holds no dictionary.", _EXPECTED)
    return {_text(key): value for key, value in cast("dict[object, object]", loaded).items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _names(meta: dict[str, object], key: str, path: Path) -> tuple[str, ...]:
    values = meta.get(key)
    names = tuple(map(_text, cast("list[object]", values))) if isinstance(values, list) else ()
    # The names become folders: none may point outside the cache.
    if (
        not names
        or len(set(names)) != len(names)
        or not all(n.replace("_", "").isalnum() for n in names)
    ):
        raise BadInput(f"{path / 'meta'} holds no usable `{key}`.", _EXPECTED)
    return names


def _labels(data: dict[str, object], key: str, images: int, classes: int, path: Path) -> list[int]:
    values = data.get(key)
    labels = cast("list[object]", values) if isinstance(values, list) else []
    numbers = [label for label in labels if isinstance(label, int) and 0 <= label < classes]
    if len(labels) != images or len(numbers) != images:
        raise BadInput(
            f"{path} does not hold a label from 0 to {classes - 1} for each image in `{key}`.",
            _EXPECTED,
        )
    return numbers
