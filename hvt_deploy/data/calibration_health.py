"""Whether calibration images are enough, of all classes and different from each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.data.calibration_set import CalibrationSet
from hvt_deploy.data.labels_file import format_plural

_FEW_IMAGES = 32
# Two images are nearly alike if the mean square of their difference, in grey at 16x16, is at most
# this part of their variance; a set is if so many of its images are nearly like an earlier one.
# Measured: 0 % of digits, 0.4 % of solar cells, 4 % of crops of five photographs, 88 % and more of
# frames of a camera that shakes by 8 pixels.
_SIDE, _ALIKE, _MAY_REPEAT = 16, 0.02, 0.25
# So many images are compared at most, spread over the set: their pairs are held in memory.
_COMPARED = 1024


class Thumbnails:
    """Small grey copies of the images that pass by on their way to a measurement."""

    def __init__(self) -> None:
        self._found: list[NDArray[np.float64]] = []

    def watch(self, batches: Iterable[ImagesNCHW]) -> Iterator[ImagesNCHW]:
        """The same batches (N, 3, H, W), in their order."""
        for images_NCHW in batches:
            self._found.append(_shrink(images_NCHW))
            yield images_NCHW

    def find_repeats(self, images: int) -> tuple[int, int]:
        """How many of the first `images` images are nearly like an earlier one, and how many were
        compared.
        """
        small_ND = np.concatenate(self._found)[:images]
        small_ND = small_ND[:: math.ceil(len(small_ND) / _COMPARED)]
        squares_N, variance_N = np.mean(small_ND**2, axis=1), np.var(small_ND, axis=1)
        sums_NN = squares_N[:, None] + squares_N
        difference_NN = sums_NN - 2 * small_ND @ np.transpose(small_ND) / small_ND.shape[1]
        # The last term is for images of one colour, which have no variance.
        limit_NN = _ALIKE * (variance_N[:, None] + variance_N) / 2 + 1e-6 * sums_NN
        is_repeat_N = np.any(np.tril(difference_NN <= limit_NN, k=-1), axis=1)
        return int(np.count_nonzero(is_repeat_N)), len(small_ND)


def find_health_faults(
    calibration: CalibrationSet,
    thumbnails: Thumbnails,
    num_classes: int,
    class_folders: Collection[str],
) -> tuple[str, ...]:
    """What speaks against a calibration set of a model with `num_classes` classes, a sentence each.

    The images must have passed through `thumbnails` in their order. A flat folder says nothing of
    classes, unless its own name is one of `class_folders`: names that the model's classes have.
    """
    return tuple(
        filter(
            None,
            (
                _say_few(len(calibration.files)),
                _say_missing(calibration, num_classes, class_folders),
                _say_alike(*thumbnails.find_repeats(len(calibration.files))),
            ),
        )
    )


def _say_few(images: int) -> str:
    if images >= _FEW_IMAGES:
        return ""
    return (
        f"Ranges are measured on only {format_plural(images, 'image')}: rarer values may be "
        f"clipped. Give {_FEW_IMAGES} or more; 512 is the default."
    )


def _say_missing(
    calibration: CalibrationSet, num_classes: int, class_folders: Collection[str]
) -> str:
    name = Path(calibration.folder).name
    classes = {file.class_name for file in calibration.files} - {""}
    if not classes and name in class_folders:
        classes = {name}
    expected = min(num_classes, len(calibration.files))
    if not classes or len(classes) >= expected:
        return ""
    return (
        f"The calibration images come from {format_plural(len(classes), 'class folder')}, and the "
        f"model has {num_classes} classes: values that the others reach may be clipped. Give "
        "images of all classes."
    )


def _say_alike(repeats: int, compared: int) -> str:
    if repeats <= _MAY_REPEAT * compared:
        return ""
    return (
        f"{repeats} of {compared} calibration images are nearly like another one, as frames of a "
        "video are, and add nothing. Give images that differ as those that the model will see."
    )


def _shrink(images_NCHW: ImagesNCHW) -> NDArray[np.float64]:
    """Grey means (N, D) of the cells of a grid of 16x16; of fewer where the image is smaller."""
    rows_R, columns_C = map(_start_cells, images_NCHW.shape[2:])
    by_row_NCRW = np.add.reduceat(images_NCHW, rows_R, axis=2)
    sums_NRC = np.add.reduceat(by_row_NCRW.sum(axis=1), columns_C, axis=2)
    heights_R, widths_C = (
        np.diff(starts, append=length)
        for starts, length in zip((rows_R, columns_C), images_NCHW.shape[2:], strict=True)
    )
    means_NRC = sums_NRC / (images_NCHW.shape[1] * heights_R[:, None] * widths_C)
    return means_NRC.reshape(len(images_NCHW), -1)


def _start_cells(length: int) -> NDArray[np.intp]:
    """Where each cell of a side begins."""
    cells = min(_SIDE, length)
    return -(-np.arange(cells) * length // cells)
