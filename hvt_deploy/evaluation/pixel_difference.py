"""Pixels of preprocessing in the graph against those of the exact pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.decoding import decode
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.record import PixelDifference
from hvt_deploy.runtime.base import PixelsBackend


def infer_files(
    backend: PixelsBackend,
    preprocessing: Preprocessing,
    files: Sequence[Path],
    exact_NCHW: ImagesNCHW,
) -> tuple[LogitsNK, NDArray[np.float64]]:
    """Logits (N, K) of files, which preprocessed exactly are `exact_NCHW`, and the largest and the
    mean difference of each image's pixels (N, 2), in steps of 256 values. Raises UnreadableImage.
    """
    steps_C11 = 255 * np.array(preprocessing.std, np.float64)[:, None, None]
    logits: list[LogitsNK] = []
    differences: list[tuple[float, float]] = []
    for file, exact_CHW in zip(files, exact_NCHW, strict=True):
        image = np.asarray(decode(file))
        difference_CHW = np.abs(backend.preprocess(image)[0] - exact_CHW) * steps_C11
        differences.append((float(difference_CHW.max()), float(difference_CHW.mean())))
        logits.append(backend.infer_pixels([image]))
    return np.concatenate(logits), np.array(differences, np.float64)


def measure_pixels(answers: ImageAnswers, name: str) -> PixelDifference:
    """Over every pixel of every image, of which there is at least one."""
    found = answers.answers[name]
    mean = math.fsum(found["pixel_mean"]) / len(found)
    return PixelDifference(float(found["pixel_max"].max()), mean)
